"""A trained run, from its folder or at the end of its training, and the evaluation of its model."""

import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from ttt.config.errors import DivergedError, UserError, bad_value
from ttt.config.identity import context_name
from ttt.config.plain import from_plain
from ttt.config.plan import tokens_at_once
from ttt.config.schema import DataConfig, KernelConfig, TrainConfig
from ttt.config.system import file_sha256
from ttt.data.corpus import Corpus, Documents, load_corpus
from ttt.data.prepared import find_prepared
from ttt.data.sources import data_schema
from ttt.data.vocabulary import open_vocabulary, tokenizer_file
from ttt.evaluate.perplexity import SplitEvaluation, evaluate_split
from ttt.evaluate.text_bytes import count_text_bytes
from ttt.kernels.dispatch import why_not_here
from ttt.layers.registry import layer_schema
from ttt.models.build import build_model
from ttt.models.language_model import LanguageModel
from ttt.models.memory import keep_freed_memory
from ttt.models.weights import load_mean_weights
from ttt.results.checkpoints import Choice, averaged, chosen_whole, weights_name
from ttt.results.document_losses import read_document_losses, write_document_losses
from ttt.results.metrics import MetricLog, Split
from ttt.results.origin import data_from_here
from ttt.results.record import Evaluation, Record, RunFolder
from ttt.results.run_record import RunRecord
from ttt.results.same_text import require_data

log = logging.getLogger(__name__)

WINDOWS_WITHIN = "evenly spaced windows, none across documents"
WINDOWS_OF_JOINED = "evenly spaced windows of all documents joined"


@dataclass(frozen=True)
class Reading:
    """Settings of an evaluation.

    Attributes:
        ctx: tokens of a window.
        eval_tokens: maximum number of tokens to read for each measure.
        device: where to compute.
        device_tokens: tokens on the device at once.
        show_progress: show progress bars.
    """

    ctx: int
    eval_tokens: int
    device: torch.device
    device_tokens: int
    show_progress: bool


@dataclass(frozen=True)
class TrainedRun:
    """A run with its trained model.

    Attributes:
        record: its record.
        find_corpus: returns the data to read, usually that of its training, or raises UserError.
        model: in float32, on the device of ``reading``.
        step: optimizer steps of the weights.
        reading: settings of its evaluations.
        metrics: its metrics, if they are in memory; None: read them from its folder.
        elsewhere: it is evaluated at another context or on another text than trained, or with chosen weights.
        writable: its folder may be written; False: the run is still training.
        weights: name of the weights that were chosen instead of the newest: ``step100``, ``mean3-step100``; else empty.
    """

    record: RunRecord
    find_corpus: Callable[[], Corpus]
    model: LanguageModel
    step: int
    reading: Reading
    metrics: MetricLog | None = None
    elsewhere: bool = False
    writable: bool = True
    weights: str = ""

    @property
    def steps_in_words(self) -> str:
        """The steps of the weights, for readers: ``step 50``, ``step 50 (mean of 2 checkpoints)``."""
        count = averaged(self.weights)
        mean = f" (mean of {count} checkpoints)" if count > 1 else ""
        return f"step {self.step}{mean}"

    @cached_property
    def corpus(self) -> Corpus:
        """The data to read; a run without it can generate text and be exported."""
        return self.find_corpus()

    def tokenizer(self) -> Path:
        """Return the file of the run's tokenizer: in its folder, else, for runs of earlier versions, in its corpus.

        Raises:
            UserError: the file is damaged, or there is none and the data is not here either.
        """
        found = next((path for path in self.record.folder.tokenizers if path.exists()), None)
        if found is None:
            return tokenizer_file(self.corpus.folder)
        if file_sha256(found) != self.record.content["data"].get("tokenizer_sha256"):
            raise UserError(f"{found}: is damaged or of another run (its SHA-256 is not in record.json); restore it")
        return found

    def documents(self, split: Split) -> Documents:
        """Return the documents of a split; ``all``: of a text without validation and test split.

        Raises:
            UserError: there is no such split.
        """
        if split == "all":
            return self.corpus.splits["train"]
        if split not in self.corpus.splits:
            raise bad_value("split", split, f"choose one of {', '.join(self.corpus.splits)}")
        return self.corpus.splits[split]

    def evaluation_name(self, split: Split) -> str:
        """Return the name of an evaluation beside the run's own: ``local-8k-all-1a2b3c4d``, ``...-step100``."""
        name = self.documents(split).data
        text = f"{name}-{context_name(self.reading.ctx)}-{split}-{self.corpus.digest[:8]}"
        return f"{text}-{self.weights}" if self.weights else text

    def metric_log(self, split: Split) -> MetricLog:
        """Return the table for new values of a split: the run's metrics, or that of an evaluation elsewhere.

        Raises:
            UserError: the table of metrics is missing or broken.
        """
        if self.elsewhere:
            return MetricLog(self.record.run_id, self.record.folder.evaluation(self.evaluation_name(split)))
        return self.metrics or MetricLog.resume(self.record.folder.metrics, self.record.run_id, None)

    def document_losses(self, split: Split) -> Path:
        """Return the table for the losses by document of a split: the run's, or that of an evaluation elsewhere."""
        folder = self.record.folder
        return folder.evaluation_documents(self.evaluation_name(split)) if self.elsewhere else folder.documents

    def stores(self, split: Split) -> bool:
        """Return whether an evaluation is stored: not of older weights, and not while the run is training."""
        return self.writable and not self.outdated(split)

    def stores_probe(self, split: Split) -> bool:
        """Return whether a probe is stored: as ``stores``, and only of the run's own data and context."""
        return self.stores(split) and not self.elsewhere

    def outdated(self, split: Split) -> bool:
        """Return whether the weights are older than the results of the run.

        This is so if the last checkpoint of a finished run, or of a run that was evaluated already, is lost. Chosen
        weights are not outdated, whatever their step.
        """
        if self.weights:
            return False
        content = self.record.content
        result = content["results"].get(split)
        evaluated = 0 if result is None else result.get("step", content["steps"])
        return self.step < (content["steps"] if content["status"] == "finished" else evaluated)


def load_run(
    folder: RunFolder,
    device: torch.device,
    show_progress: bool = True,
    eval_tokens: int | None = None,
    kernel: KernelConfig | None = None,
    choice: Choice = Choice(),  # noqa: B008 - frozen
) -> TrainedRun:
    """Return the run in ``folder`` with the weights of its newest undamaged checkpoint, or others by choice.

    Args:
        folder: a run with at least one checkpoint.
        device: where to compute, in float32.
        show_progress: show progress bars.
        eval_tokens: maximum number of tokens to read for each measure; None: as in the run's configuration.
        kernel: computes the inner loop; None: the kernel of the training, or ``auto`` if it cannot run here.
        choice: the weights.

    Raises:
        UserError: there is no such run or no undamaged checkpoint, or ``kernel`` cannot run here.
    """
    record = RunRecord.read(folder)
    config = restore_config(record.content)
    used = chosen_whole(folder.checkpoints, choice)
    if not used:
        raise UserError(f"{folder.path}: has no checkpoint to evaluate; train it further with ckpt=last")
    chosen = kernel or kernel_here(config.kernel, device)
    if device.type == "cpu":
        keep_freed_memory()
    vocab_size = record.content["data"]["vocab_size"]
    model = build_model(config.model, config.size, config.backbone, chosen, vocab_size)
    load_mean_weights(model, [checkpoint.path for checkpoint in used])
    tokens = config.data.eval_tokens if eval_tokens is None else eval_tokens
    reading = Reading(config.ctx.length, tokens, device, tokens_at_once(config.trainer), show_progress)
    find = partial(corpus_of, record, config.data, show_progress)
    step = used[0].step
    own = choice.average == 1 and choice.step in (None, record.steps)
    weights = "" if own else weights_name(step, choice.average)
    return TrainedRun(record, find, model.to(device), step, reading, elsewhere=bool(weights), weights=weights)


def corpus_of(record: RunRecord, data: DataConfig, show_progress: bool) -> Corpus:
    """Return the corpus of a run: from a cache by its digest, else prepared from its source.

    Raises:
        UserError: the corpus is in no cache, and its source is missing or has changed since the training.
    """
    digest = record.content["data"]["digest"]
    if not digest:
        line = (
            "was imported without data, so that no text is its own; name one with data=, or import it again with data="
        )
        raise UserError(f"{record.folder.path}: {line}")
    found = find_prepared(data, digest)
    if found is not None:
        return found
    corpus = load_corpus(data, show_progress)
    require_data(record.folder, record.content, corpus.digest)
    return corpus


def kernel_here(trained: KernelConfig, device: torch.device) -> KernelConfig:
    """Return the kernel of a training, or ``auto`` if it cannot run on this machine and device; weights fit any."""
    reason = why_not_here(trained.name, device)
    if reason is None:
        return trained
    log.warning("kernel: auto instead of %s, with which the run was trained: %s", trained.name, reason)
    return KernelConfig()


def restore_config(record: Record) -> TrainConfig:
    """Return the configuration of a record, its relative paths valid in the present directory.

    Raises:
        UserError: it names an unknown layer or source.
    """
    plain = {**record["config"], "data": data_from_here(record)}
    return from_plain(plain, layer_schema(plain["model"]["name"]), data_schema(plain))


def evaluate_run(run: TrainedRun, split: Split) -> SplitEvaluation:
    """Evaluate the run's model on a split; write the result into its metrics, its losses by document and its record.

    At another context or on another text, the result goes beside the run's own. See ``TrainedRun.stores``.

    Raises:
        UserError: there is no such split, or a file cannot be read or written.
        DivergedError: the model's loss is not finite, or its perplexity too large for a float.
    """
    reading, started = run.reading, time.perf_counter()
    documents = run.documents(split)
    # A damaged table is noticed before the evaluation, not after it.
    log = run.metric_log(split) if run.stores(split) else None
    table = run.document_losses(split)
    if log is not None and table.exists():
        read_document_losses(table)
    evaluation = evaluate_split(
        run.model,
        documents,
        reading.ctx,
        reading.eval_tokens,
        reading.device,
        reading.device_tokens,
        reading.show_progress,
    )
    if documents.answers is None:
        vocabulary = open_vocabulary(run.corpus.folder)
        text_bytes = count_text_bytes(documents.tokens, evaluation.starts, reading.ctx, vocabulary)
        evaluation = replace(evaluation, text_bytes=text_bytes)
    if log is None:
        return evaluation
    _log_evaluation(log, split, run.step, evaluation)
    log.write()
    _write_document_losses(run, split, evaluation)
    result = _result(run, documents, evaluation)
    if run.elsewhere:
        result |= {"data": documents.data, "split": split}
        if run.weights:
            result["weights"] = run.weights
        run.record.evaluated_elsewhere(run.evaluation_name(split), result)
    else:
        run.record.measured(f"{split}_seconds", time.perf_counter() - started)
        run.record.evaluated(split, result)
    if math.isinf(evaluation.perplexity):
        loss = f"the {split} loss is {evaluation.loss:.4g} nats/token"
        raise DivergedError(f"{loss}, and its perplexity infinite: the model diverged")
    return evaluation


def _log_evaluation(log: MetricLog, split: Split, step: int, evaluation: SplitEvaluation) -> None:
    log.add(split, step, "loss", evaluation.loss, "nats/token")
    log.add(split, step, "perplexity", evaluation.perplexity, "1")
    judged = evaluation.windows_by_index.nonzero().ravel()
    positions = (judged + 1).tolist()
    log.add_many(split, step, "loss", evaluation.loss_by_index[judged].tolist(), "nats/token", positions)
    log.add_many(split, step, "sequences", evaluation.windows_by_index[judged].tolist(), "1", positions)


def _write_document_losses(run: TrainedRun, split: Split, evaluation: SplitEvaluation) -> None:
    text = f"{run.corpus.digest} {split} {run.reading.ctx} ".encode()
    windows = hashlib.sha256(text + evaluation.starts.astype("<i8").tobytes()).hexdigest()[:16]
    sums = evaluation.document, evaluation.document_loss, evaluation.document_tokens
    write_document_losses(run.document_losses(split), run.record.run_id, split, run.step, windows, *sums)


def _result(run: TrainedRun, documents: Documents, evaluation: SplitEvaluation) -> Evaluation:
    return {
        "loss": evaluation.loss,
        # JSON has no infinity.
        "perplexity": evaluation.perplexity if math.isfinite(evaluation.perplexity) else None,
        "tokens": evaluation.tokens,
        "sequences": evaluation.sequences,
        "per_token_sequences": evaluation.sequences,
        "judged": {
            "digest": run.corpus.digest,
            "ctx": run.reading.ctx,
            "windows": WINDOWS_OF_JOINED if documents.joined else WINDOWS_WITHIN,
            "documents": evaluation.judged,
            "of_documents": len(documents),
            "of_tokens": len(documents.tokens),
        },
        "step": run.step,
        "accuracy": evaluation.accuracy,
        "bits_per_byte": evaluation.bits_per_byte,
    }
