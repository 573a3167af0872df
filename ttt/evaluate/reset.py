"""A control for the loss by token index: the same tokens, with the context forgotten every N tokens.

Positions of a document differ in difficulty, so a curve by token index does not show the value of context. The paired
difference does: a token's loss without the context before the last reset, minus its loss with that context.

Shapes: D documents, T context length, N tokens from reset to reset.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ttt.config.errors import bad_value
from ttt.data.windows import Windows, windows_at_start
from ttt.evaluate.losses import window_losses
from ttt.evaluate.run import TrainedRun
from ttt.results.metrics import MetricLog, Split


@dataclass(frozen=True)
class ResetLosses:
    """Losses of the same tokens with their whole context, and with resets.

    Attributes:
        whole: [D, T] nats, each document read from its start.
        reset: [D, T] nats, each document read from a new state at tokens 1, N + 1, 2 N + 1, ...
        every: N.
    """

    whole: Tensor
    reset: Tensor
    every: int

    @property
    def gain(self) -> float:
        """The gain in nats per token from context before the last reset: mean over tokens N + 1 to T."""
        return float(self._gain_of_documents.mean())

    @property
    def gain_error(self) -> float:
        """The standard error of ``gain`` over documents; nan for a single document."""
        gains = self._gain_of_documents
        return float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan

    @property
    def _gain_of_documents(self) -> Tensor:
        return (self.reset - self.whole)[:, self.every :].mean(dim=1)


def probe_resets(run: TrainedRun, split: Split, every: int) -> ResetLosses:
    """Read the documents of the loss by token index with and without resets, and write both into the run's metrics.

    See ``TrainedRun.stores_probe``.

    Rows by position: ``loss_reset``, and ``context_gain``, the paired difference. Rows without a position:
    ``reset_every`` (tokens), ``context_gain`` and its ``context_gain_error`` over all tokens after a reset.

    Args:
        run: the run; at least one document is read.
        split: the documents to read.
        every: tokens between resets, a divisor of the context.

    Raises:
        UserError: there is no such split, or ``every`` does not divide the context.
        DivergedError: the model's loss is not finite.
    """
    reading, ctx = run.reading, run.reading.ctx
    if not 1 <= every < ctx or ctx % every:
        raise bad_value("reset_every", every, f"must divide the run's context of {ctx} tokens and be less than it")
    windows = windows_at_start(run.documents(split), ctx).subset(max(1, reading.eval_tokens // ctx))
    losses = measure_resets(run.model, windows, every, reading.device, reading.device_tokens, reading.show_progress)
    if run.stores_probe(split):
        _write(run.metric_log(split), split, run.step, losses)
    return losses


def measure_resets(
    model: nn.Module, windows: Windows, every: int, device: torch.device, device_tokens: int, show_progress: bool
) -> ResetLosses:
    """Measure losses on whole ``windows`` and on their chunks of ``every`` tokens, a divisor of the length."""
    starts_D = windows.starts[np.arange(len(windows))]
    chunks = (starts_D[:, None] + np.arange(0, windows.ctx, every)).ravel()
    options = (device, device_tokens, show_progress)
    whole = torch.cat(list(window_losses(model, windows, *options, "whole context")))
    reset = torch.cat(list(window_losses(model, Windows(windows.tokens, chunks, every), *options, "with resets")))
    return ResetLosses(whole, reset.reshape(whole.shape), every)


def _write(log: MetricLog, split: Split, step: int, losses: ResetLosses) -> None:
    positions = range(1, losses.whole.shape[1] + 1)
    reset_T = losses.reset.mean(0)
    log.add_many(split, step, "loss_reset", reset_T.tolist(), "nats/token", positions)
    log.add_many(split, step, "context_gain", (reset_T - losses.whole.mean(0)).tolist(), "nats/token", positions)
    log.add(split, step, "reset_every", losses.every, "tokens")
    log.add(split, step, "context_gain", losses.gain, "nats/token")
    log.add(split, step, "context_gain_error", losses.gain_error, "nats/token")
    log.write()
