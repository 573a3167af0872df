"""Evaluating a trained run: its last checkpoint, on its own data, into its own record."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ttt.config.errors import UserError, bad_value
from ttt.config.plain import from_plain
from ttt.config.schema import TrainConfig
from ttt.data.corpus import Corpus, Documents, load_corpus
from ttt.data.sources import data_schema
from ttt.evaluate.perplexity import SplitEvaluation, evaluate_split
from ttt.layers.registry import layer_type
from ttt.models.build import build_model
from ttt.models.language_model import LanguageModel
from ttt.models.memory import keep_freed_memory
from ttt.models.weights import load_weights
from ttt.results.checkpoints import newest_whole
from ttt.results.metrics import MetricLog, Split
from ttt.results.record import Record, RunFolder, read_record, write_record


@dataclass(frozen=True)
class TrainedRun:
    """A run with the weights of its last checkpoint.

    Attributes:
        folder: where it is.
        record: its record.
        config: what it was trained with.
        corpus: the data it was trained on.
        model: in float32, on the device that was asked for.
        step: optimizer steps that the weights have seen.
    """

    folder: RunFolder
    record: Record
    config: TrainConfig
    corpus: Corpus
    model: LanguageModel
    step: int

    def documents(self, split: Split) -> Documents:
        """The documents of a split.

        Raises:
            UserError: there is no such split.
        """
        if split not in self.corpus.splits:
            raise bad_value("split", split, f"choose one of {', '.join(self.corpus.splits)}")
        return self.corpus.splits[split]


def load_run(folder: RunFolder, device: torch.device, show_progress: bool = True) -> TrainedRun:
    """The run in ``folder`` as its newest checkpoint left it that is whole.

    Raises:
        UserError: no such run, no checkpoint that is whole, or data that is not what the run was trained on.
    """
    record = read_record(folder.record)
    config = restore_config(record)
    checkpoint = newest_whole(folder.checkpoints)
    if checkpoint is None:
        raise UserError(f"{folder.path}: has no checkpoint to evaluate; train it further with ckpt=last")
    corpus = load_corpus(config.data, show_progress)
    refuse_other_data(folder.path, record, corpus)
    model = build_model(config.model, config.size, config.backbone, config.kernel, corpus.vocab_size)
    load_weights(model, checkpoint.path)
    if device.type == "cpu":
        keep_freed_memory()
    return TrainedRun(folder, record, config, corpus, model.to(device), checkpoint.step)


def evaluate_run(
    folder: RunFolder, split: Split, device: torch.device, eval_tokens: int | None = None, show_progress: bool = True
) -> SplitEvaluation:
    """Evaluates the last checkpoint of the run in ``folder`` and puts the result into its table and its record.

    Args:
        folder: a run with at least one checkpoint.
        split: which documents to read.
        device: where to compute, in float32.
        eval_tokens: most tokens to read for each measure; None: as configured in the run.
        show_progress: whether to show progress bars.

    Raises:
        UserError: no such run or split, no checkpoint, or data that is not what the run was trained on.
        RunError: the model's loss is not finite.
    """
    run = load_run(folder, device, show_progress)
    config, documents = run.config, run.documents(split)
    tokens = config.data.eval_tokens if eval_tokens is None else eval_tokens
    evaluation = evaluate_split(
        run.model, documents, config.ctx.length, tokens, device, config.trainer.device_tokens, show_progress
    )
    _write(run, split, evaluation)
    return evaluation


def restore_config(record: Record) -> TrainConfig:
    """The configuration of a record, as instances of the schema's classes.

    Raises:
        UserError: it names a layer or source that is not registered.
    """
    plain = record["config"]
    return from_plain(plain, layer_type(plain["model"]["name"]).schema, data_schema(plain))


def refuse_other_data(folder: Path, record: Record, corpus: Corpus) -> None:
    """The same configuration can give other text, when other versions of its packages are installed.

    Raises:
        UserError: ``corpus`` is not what the run was trained on.
    """
    if record["data"]["digest"] != corpus.digest:
        raise UserError(
            f"{folder}: was trained on data with digest {record['data']['digest'][:12]}, here it is "
            f"{corpus.digest[:12]}; install the versions in its record, or train again"
        )


def _write(run: TrainedRun, split: Split, evaluation: SplitEvaluation) -> None:
    folder, record, step = run.folder, run.record, run.step
    log = MetricLog.resume(folder.metrics, record["run_id"], step)
    log.add(split, step, "loss", evaluation.loss, "nats/token")
    log.add(split, step, "perplexity", evaluation.perplexity, "1")
    positions = range(1, len(evaluation.loss_by_index) + 1)
    log.add_many(split, step, "loss", evaluation.loss_by_index.tolist(), "nats/token", positions)
    log.add_many(split, step, "sequences", [evaluation.documents] * len(positions), "1", positions)
    log.write()
    record["results"][split] = {
        "loss": evaluation.loss,
        "perplexity": evaluation.perplexity,
        "tokens": evaluation.tokens,
        "sequences": evaluation.sequences,
        "per_token_sequences": evaluation.documents,
    }
    write_record(folder.record, record)
