"""A run's folder from weights that the suite did not train."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ttt.config.errors import UserError, bad_value
from ttt.config.schema import DataConfig
from ttt.config.system import file_sha256
from ttt.data.corpus import load_corpus
from ttt.data.vocabulary import check_tokenizer, open_users
from ttt.models.language_model import LanguageModel
from ttt.models.weights import PREFIX
from ttt.results.atomic import PARTIAL, write_bytes
from ttt.results.checkpoints import checkpoint_path
from ttt.results.metrics import MetricLog
from ttt.results.record import Data, Device, Imported, Record, RunFolder, write_config, write_record
from ttt.results.run_record import now
from ttt.train.checkpoint import save_whole
from ttt.train.planning import RunPlan
from ttt.train.prepare import describe_data, new_record

UNKNOWN = "unknown"
"""Name of the data of a run that was imported without data."""

ELSEWHERE: Device = {"name": "imported", "count": 1, "precision": "32-true"}


def digest_of(files: dict[str, str]) -> str:
    """Return one SHA-256 for several files, from name -> SHA-256."""
    return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def write_imported(
    plan: RunPlan, model: LanguageModel, steps: int, tokenizer: Path, data: DataConfig | None, origin: Imported
) -> Record:
    """Write a finished run with these weights; its folder appears when it is complete. Return its record.

    Args:
        plan: the run; its folder does not exist, or is empty.
        model: the model with the weights, of any dtype; they are stored in float32.
        steps: optimizer steps that it was trained for.
        tokenizer: its tokenizer.json or tokenizer.model.
        data: the text that it is to be judged on; None: it has none.
        origin: where the weights are from.

    Raises:
        UserError: the tokenizer is damaged or has another size than the model, the text cannot be used, or the folder
            cannot be written.
    """
    name = check_tokenizer(tokenizer, "tokenizer")
    with _appearing(plan.folder.path) as path:
        folder = RunFolder(path)
        write_bytes(path / name, tokenizer.read_bytes())
        size, rows = open_users(tokenizer, path, "tokenizer").size, model.embedding.num_embeddings
        if size != rows:
            raise bad_value("tokenizer", tokenizer, f"has {size} tokens, the model's embedding {rows}; give its own")
        record = new_record(plan, ELSEWHERE, _data(plan, data, tokenizer, rows), model.float())
        checkpoint = checkpoint_path(folder.checkpoints, steps)
        state = {f"{PREFIX}{key}": value.float() for key, value in model.state_dict().items()}
        save_whole({"state_dict": state}, checkpoint)
        flops_a_token = record["training_flops"] / plan.step_plan.schedule_steps / record["tokens_per_step"]
        record["steps"] = record["steps_planned"] = steps
        record["tokens"] = steps * record["tokens_per_step"]
        record["training_flops"] = flops_a_token * record["tokens"]
        record["status"], record["last_checkpoint"], record["imported"] = "finished", checkpoint.name, origin
        record["timing"]["ended"] = now()
        MetricLog(record["run_id"], folder.metrics).write()
        write_config(folder, record)
        write_record(folder.record, record)
    return record


def _data(plan: RunPlan, data: DataConfig | None, tokenizer: Path, vocab_size: int) -> Data:
    if data is None:
        return {
            "name": UNKNOWN,
            "digest": "",
            "vocab_size": vocab_size,
            "tokenizer_sha256": file_sha256(tokenizer),
        }
    # The copy of the tokenizer that the configuration names is in its place only at the end.
    corpus = load_corpus(replace(data, tokenizer=str(tokenizer)))
    return describe_data(corpus, data.name, plan.config.ctx.length)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that is renamed to it at the end, or removed after an error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        reason = f"cannot be written ({error.strerror}); free disk space or choose another folder"
        raise UserError(f"out={path}: {reason}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
