"""Losses of a run on the same tokens with more and less context before them.

The last ``TARGETS`` tokens of windows are judged in windows that are cut off at their start to 512, 1024, ... tokens,
up to the trained context, so that c = 256, 768, ... tokens of context precede the first target. Two controls tell the
use of what the context says from the use of its length; both leave the last ``NEAR`` tokens as they are:

- foreign: the tokens before them are of another document, at the same places of its window;
- shuffled: the tokens before them are in another order, pieces of ``PIECE`` tokens permuted.

Shapes: N windows, w input tokens of a shorter window, S = longest + 1, D documents.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ttt.config.errors import bad_value
from ttt.config.text_table import text_table
from ttt.data.windows import Windows
from ttt.evaluate.losses import window_losses
from ttt.evaluate.run import TrainedRun
from ttt.evaluate.targets import TargetWindows, target_windows
from ttt.results.context_gain import FOREIGN, OWN, SHUFFLED, TARGETS, Loss, write_context_gain
from ttt.results.metrics import Split

NEAR = 512
"""Tokens at the end of a window that the controls keep; also the shortest window."""

PIECE = 64
"""Tokens that stay together when a context is shuffled."""

WINDOWS = 256
"""Number of windows unless ``eval_tokens`` limits them."""


@dataclass(frozen=True)
class ContextGain:
    """The result of ``probe_context``.

    Attributes:
        losses: of every document, context and control.
        lonely: all windows are of one document, so that there is no foreign context.
    """

    losses: list[Loss]
    lonely: bool


def probe_context(run: TrainedRun, split: Split, longest: int | None, eval_tokens: int | None) -> ContextGain:
    """Measure losses by context and write them into the run's ``context_gain.parquet``.

    See ``TrainedRun.stores_probe``.

    Args:
        run: the run.
        split: the documents to choose windows from.
        longest: tokens of the windows, a power of two from ``NEAR``; None: the largest within the run's context.
        eval_tokens: maximum number of tokens of all windows together; None: ``WINDOWS`` windows.

    Raises:
        UserError: there is no such split, the run's context is too short, or no document is long enough.
        DivergedError: the model's loss is not finite.
    """
    ctx = run.reading.ctx
    if ctx < NEAR:
        raise bad_value("probe", "context_gain", f"the run's context of {ctx} tokens is shorter than {NEAR}")
    longest = longest or 1 << (ctx.bit_length() - 1)
    windows = target_windows(run.documents(split), longest, max(1, (eval_tokens or WINDOWS * longest) // longest))
    gain = measure_contexts(run, windows)
    if run.stores_probe(split):
        write_context_gain(run.record.folder.context_gain, run.record.run_id, split, run.step, gain.losses)
    return gain


def measure_contexts(run: TrainedRun, windows: TargetWindows) -> ContextGain:
    """Measure the targets' losses in windows of every length up to the run's context and that of ``windows``.

    Raises:
        DivergedError: the model's loss is not finite.
    """
    longest, digest = windows.ids.shape[1] - 1, windows.digest
    documents, counts = np.unique(windows.document, return_counts=True)
    losses: list[Loss] = []
    for width, control, ids in _cases(windows, min(longest, run.reading.ctx)):
        loss_N = _target_losses(run, ids, f"{control} context of {width - TARGETS}")
        loss_D = np.bincount(np.searchsorted(documents, windows.document), loss_N) / counts
        of_documents = zip(documents.tolist(), loss_D.tolist(), counts.tolist(), strict=True)
        losses += [
            Loss(digest, longest, document, width - TARGETS, control, loss, count)
            for document, loss, count in of_documents
        ]
    return ContextGain(losses, lonely=len(documents) < 2)


def with_foreign_context(ids: np.ndarray, other_N: np.ndarray) -> np.ndarray:
    """Return windows [N, w + 1] with all but their last ``NEAR`` inputs from the windows ``other_N``."""
    far = ids.shape[1] - 1 - NEAR
    return np.concatenate([ids[other_N, :far], ids[:, far:]], axis=1)


def with_shuffled_context(ids: np.ndarray) -> np.ndarray:
    """Return windows [N, w + 1] with the pieces of all but their last ``NEAR`` inputs permuted, always in one way."""
    N, far = len(ids), ids.shape[1] - 1 - NEAR
    generator = np.random.default_rng(far)
    order = generator.permuted(np.tile(np.arange(far // PIECE), (N, 1)), axis=1)
    pieces = ids[:, :far].reshape(N, -1, PIECE)[np.arange(N)[:, None], order]
    return np.concatenate([pieces.reshape(N, far), ids[:, far:]], axis=1)


def describe(gain: ContextGain) -> str:
    """Return a table of the mean loss over documents by context, and the gains over the shortest context."""
    of_case: dict[tuple[int, str], list[float]] = defaultdict(list)
    for row in gain.losses:
        of_case[row.context, row.control].append(row.loss)
    means = {case: float(np.mean(losses)) for case, losses in of_case.items()}
    contexts, controls = (list(dict.fromkeys(part)) for part in zip(*means, strict=True))
    shortest = means[contexts[0], OWN]
    rows = [["context", "loss", *(f"gain, {control}" for control in controls)]]
    for context in contexts:
        cases = ((context, control) for control in controls)
        gains = (f"{shortest - means[case]:+.4f}" if case in means else "" for case in cases)
        rows.append([str(context), f"{means[context, OWN]:.4f}", *gains])
    return text_table(rows)


def _cases(windows: TargetWindows, widest: int) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yield input tokens, control and token ids [N, w + 1] of every case."""
    width = NEAR
    while width <= widest:
        ids = windows.ids[:, -width - 1 :]
        yield width, OWN, ids
        if width > NEAR:
            if windows.document[0] != windows.document[-1]:
                yield width, FOREIGN, with_foreign_context(ids, windows.of_another_document())
            yield width, SHUFFLED, with_shuffled_context(ids)
        width *= 2


def _target_losses(run: TrainedRun, ids: np.ndarray, what: str) -> np.ndarray:
    """Return the mean loss of each window's targets in nats/token, float64 [N]."""
    reading, (N, S) = run.reading, ids.shape
    windows = Windows(ids.ravel(), np.arange(N) * S, S - 1)
    losses = window_losses(
        run.model, windows, reading.device, reading.device_tokens, reading.show_progress, f"context gain, {what}"
    )
    return torch.cat([batch[:, -TARGETS:].mean(1) for batch in losses]).numpy()
