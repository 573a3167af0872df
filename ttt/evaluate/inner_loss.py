"""What the inner loops of a model do at every token: Figure 7 of the submission.

Shapes: B sequences at once, H heads, T context length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ttt.config.errors import bad_value
from ttt.config.text_table import text_table
from ttt.data.windows import Windows, windows_at_start
from ttt.evaluate.growth import unbounded_growth
from ttt.evaluate.run import load_run
from ttt.layers.diagnose import with_diagnosis
from ttt.layers.observing import Observation, read_in_chunks, record_inner_loops, ttt_layers
from ttt.results.inner_loss import write_inner_loss
from ttt.results.metrics import Split
from ttt.results.record import RunFolder, put_warnings, write_record


@dataclass(frozen=True)
class InnerLosses:
    """What each TTT layer did.

    Attributes:
        layers: from the first TTT layer to the last, [H, T] float64 on the CPU, the mean over sequences.
        sequences: how many.
        lost: input ids [B, T] of the first sequences in which a number was not finite; None: all were.
    """

    layers: list[Observation]
    sequences: int
    lost: Tensor | None = None


@dataclass(frozen=True)
class Probe:
    """What ``probe_run`` found.

    Attributes:
        losses: what each TTT layer did.
        step: optimizer steps that the weights have seen.
        warnings: the inner loops that grow without bound, ``subject: text``.
        failure: what was not finite, and which inner loop it comes from; None: all was well.
    """

    losses: InnerLosses
    step: int
    warnings: dict[str, str]
    failure: str | None


def probe_run(
    folder: RunFolder, split: Split, device: torch.device, eval_tokens: int | None = None, show_progress: bool = True
) -> Probe:
    """Looks into the inner loops of the run in ``folder``, and puts what they do into its ``inner_loss.parquet``.

    Warnings go into the run's record. Only documents longer than the context are read, each from its start: so
    position t always means t tokens of one document.

    Args:
        folder: a run with at least one checkpoint.
        split: which documents to read.
        device: where to compute, in float32.
        eval_tokens: most tokens to read, at least one document; None: as configured in the run.
        show_progress: whether to show progress bars.

    Raises:
        UserError: no such run or split, no checkpoint, no TTT layer, or data that the run was not trained on.
    """
    run = load_run(folder, device, show_progress)
    if not ttt_layers(run.model):
        raise bad_value("probe", "inner_loss", f"{folder.path} has no inner loop: its model is {run.config.model.name}")
    ctx, trainer = run.config.ctx.length, run.config.trainer
    tokens = run.config.data.eval_tokens if eval_tokens is None else eval_tokens
    windows = windows_at_start(run.documents(split), ctx).subset(max(1, tokens // ctx))
    losses = measure_inner_losses(run.model, windows, device, trainer.device_tokens, show_progress)
    layers = [{name: value.mean(0).numpy() for name, value in layer._asdict().items()} for layer in losses.layers]
    write_inner_loss(folder.inner_loss, run.record["run_id"], split, run.step, layers, losses.sequences)
    growths = unbounded_growth(losses.layers)
    warnings = {f"{split}, {growth.place}": f"at step {run.step} {growth}" for growth in growths}
    put_warnings(run.record, warnings)
    write_record(folder.record, run.record)
    failure = None if losses.lost is None else with_diagnosis("the inner losses are not finite", run.model, losses.lost)
    return Probe(losses, run.step, warnings, failure)


def measure_inner_losses(
    model: nn.Module, windows: Windows, device: torch.device, device_tokens: int, show_progress: bool
) -> InnerLosses:
    """Reads ``windows`` token by token, in the primal form.

    Args:
        model: a language model with TTT layers, on ``device``.
        windows: what to read, each from the start of a document.
        device: where to compute.
        device_tokens: tokens of sequences that are read side by side.
        show_progress: whether to show a progress bar.
    """
    batch = max(1, device_tokens // windows.ctx)
    total, lost = torch.zeros(()), None
    model.eval()
    with tqdm(total=len(windows), desc="inner loss", unit="sequence", leave=False, disable=not show_progress) as bar:
        for start in range(0, len(windows), batch):
            ids_BT = windows.batch(range(start, min(start + batch, len(windows))))[:, :-1].to(device)
            summed = observed(model, ids_BT)
            if lost is None and not summed.isfinite().all():
                lost = ids_BT
            total = total + summed
            bar.update(len(ids_BT))
    means = [Observation(*layer) for layer in total / len(windows)]
    return InnerLosses(means, len(windows), lost)


@torch.no_grad()
def observed(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """Every number of ``Observation`` for every TTT layer, summed over sequences: [layers, 5, H, T] float64."""
    pieces: list[Tensor] = []
    with record_inner_loops(model) as seen:
        for _ in read_in_chunks(model, ids_BT):
            pieces.append(torch.stack([torch.stack(layer).cpu().double().sum(1) for layer in seen]))
            seen.clear()
    return torch.cat(pieces, dim=-1)


def describe(losses: InnerLosses) -> str:
    """A table of each layer's losses, mean over positions; gain: W_0's less W_{t-1}'s, over a quarter of them."""
    T = losses.layers[0].loss_before.shape[-1]
    quarter = max(1, T // 4)
    rows = [["layer", "W_0", "W_{t-1}", "W_t", f"gain 1-{quarter}", f"gain {T - quarter + 1}-{T}"]]
    for number, layer in enumerate(losses.layers, 1):
        gain_T = (layer.loss_initial - layer.loss_before).mean(0)
        means = (layer.loss_initial, layer.loss_before, layer.loss_after, gain_T[:quarter], gain_T[-quarter:])
        rows.append([str(number), *(f"{mean.mean():.4g}" for mean in means)])
    return text_table(rows)
