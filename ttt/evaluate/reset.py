"""The control beside the loss by token index: the same tokens, with the context forgotten every N of them.

Places of a document differ in difficulty, so a curve by token index alone does not tell what its context is worth. The
paired difference does: the loss of a token without what lies further back than the last reset, less its loss with it.

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
from ttt.evaluate.run import load_run
from ttt.results.metrics import MetricLog, Split
from ttt.results.record import RunFolder


@dataclass(frozen=True)
class ResetLosses:
    """Losses of the same tokens with their whole context, and with resets.

    Attributes:
        whole: [D, T] nats, each document read from its start.
        reset: [D, T] nats, read anew from token 1, N + 1, 2 N + 1, ...
        every: N.
    """

    whole: Tensor
    reset: Tensor
    every: int

    @property
    def gain(self) -> float:
        """What the context before the last reset gains, nats a token: mean over all tokens behind a reset."""
        return float(self._gain_of_documents.mean())

    @property
    def gain_error(self) -> float:
        """The standard error of ``gain`` by the spread between documents; nan for a single one."""
        gains = self._gain_of_documents
        return float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan

    @property
    def _gain_of_documents(self) -> Tensor:
        return (self.reset - self.whole)[:, self.every :].mean(dim=1)


def probe_resets(
    folder: RunFolder,
    split: Split,
    device: torch.device,
    every: int,
    eval_tokens: int | None = None,
    show_progress: bool = True,
) -> ResetLosses:
    """Reads the documents of the loss by token index with and without resets, and puts both into the run's table.

    Rows by position: ``loss_reset``, and ``context_gain``, the paired difference. Without: ``reset_every`` (tokens),
    ``context_gain`` and its ``context_gain_error`` over all tokens behind a reset.

    Args:
        folder: a run with at least one checkpoint.
        split: which documents to read.
        device: where to compute, in float32.
        every: tokens from reset to reset, a divisor of the context.
        eval_tokens: most tokens to read, at least one document; None: as configured in the run.
        show_progress: whether to show progress bars.

    Raises:
        UserError: no such run or split, no checkpoint, other data, or ``every`` does not divide the context.
        RunError: the model's loss is not finite.
    """
    run = load_run(folder, device, show_progress)
    ctx, config = run.config.ctx.length, run.config
    if not 1 <= every < ctx or ctx % every:
        raise bad_value("reset_every", every, f"must divide the run's context of {ctx} tokens and be less")
    tokens = config.data.eval_tokens if eval_tokens is None else eval_tokens
    windows = windows_at_start(run.documents(split), ctx).subset(max(1, tokens // ctx))
    losses = measure_resets(run.model, windows, every, device, config.trainer.device_tokens, show_progress)
    _write(MetricLog.resume(folder.metrics, run.record["run_id"], run.step), split, run.step, losses)
    return losses


def measure_resets(
    model: nn.Module, windows: Windows, every: int, device: torch.device, device_tokens: int, show_progress: bool
) -> ResetLosses:
    """Reads ``windows`` whole and in pieces of ``every`` tokens, a divisor of their length; the rest as above."""
    starts_D = windows.starts[np.arange(len(windows))]
    pieces = (starts_D[:, None] + np.arange(0, windows.ctx, every)).ravel()
    read = (device, device_tokens, show_progress)
    whole = torch.cat(list(window_losses(model, windows, *read, "whole context")))
    reset = torch.cat(list(window_losses(model, Windows(windows.tokens, pieces, every), *read, "with resets")))
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
