"""Loading a trained model and its tokenizer."""

from os import PathLike
from pathlib import Path

import torch

from ttt.api.errors import as_value_error
from ttt.api.tokenizer import TextTokenizer
from ttt.config.errors import UserError, bad_value
from ttt.config.schema import KernelConfig
from ttt.evaluate.export import WEIGHTS, load_export
from ttt.evaluate.run import load_run
from ttt.models.device import choose_device
from ttt.models.language_model import LanguageModel
from ttt.results.record import RunFolder

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@as_value_error()
def load(
    folder: str | PathLike[str],
    device: str | torch.device = "auto",
    dtype: torch.dtype = torch.float32,
    kernel: str | None = None,
) -> tuple[LanguageModel, TextTokenizer]:
    """Return a trained language model and its tokenizer.

    ``model(ids)`` maps token ids [B, T] to the logits of the next tokens [B, T, V], and ``model(ids, state={})`` to
    the logits and the state, with which ``model(more_ids, state=state)`` continues. ``tokenizer.encode(text)`` returns
    ids [1, T] on the model's device.

    Args:
        folder: a run's folder, of which the newest undamaged checkpoint is read, or a folder of ``ttt-export``.
        device: where the model is: auto (a GPU if there is one), cpu, cuda, cuda:1, mps.
        dtype: of the weights: float32, float64, bfloat16 or float16. Inner loops compute in at least float32.
        kernel: computes the inner loop: auto, cpu, triton, dual or primal; None: the kernel of the training, or auto
            if it cannot run here.

    Raises:
        ValueError: the folder holds neither a run nor an export, has no undamaged checkpoint, or an argument is not
            possible here. The message is one line.
    """
    path, chosen = Path(folder).expanduser(), None if kernel is None else KernelConfig(kernel)
    if dtype not in DTYPES:
        raise bad_value("dtype", dtype, f"choose one of {', '.join(map(str, DTYPES))}")
    place = _device(device)
    if RunFolder(path).record.exists():
        run = load_run(RunFolder(path), place, show_progress=False, kernel=chosen)
        model, tokenizer = run.model, run.tokenizer().parent
    elif (path / WEIGHTS).exists():
        model, tokenizer = load_export(path, place, chosen), path
    else:
        raise UserError(f"{path}: {_what_it_holds(path)}; give the folder of one run, or of ttt-export")
    return model.to(place, dtype).eval(), TextTokenizer(tokenizer, place)


def _device(device: str | torch.device) -> torch.device:
    try:
        asked = torch.device("cpu" if device == "auto" else device)
    except RuntimeError:
        raise bad_value("device", device, "choose one of auto, cpu, cuda, mps") from None
    found = choose_device("auto" if device == "auto" else asked.type)
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        raise bad_value("device", device, f"torch finds {torch.cuda.device_count()} CUDA devices here")
    return asked if found.type == asked.type else found


def _what_it_holds(path: Path) -> str:
    if not path.is_dir():
        return "no such folder"
    runs = sorted(record.parent.name for record in path.glob("*/record.json"))
    return f"is a folder of runs, such as {runs[0]}" if runs else "holds neither a run nor an exported model"
