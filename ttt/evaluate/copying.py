"""A probe for copying: the loss of tokens that the model has read just before, in the same order.

Losses of models fall in a step when they have learned to look up how a stretch of text went on before. Runs on either
side of that step compare something else than their layers, so every run says on which side it is.

Shapes: N windows, h tokens of a half.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ttt.data.windows import Windows, windows_within
from ttt.evaluate.losses import window_losses
from ttt.evaluate.run import TrainedRun
from ttt.results.copying import FIRST_LOSS, REPEATED_LOSS
from ttt.results.metrics import Split

LONGEST = 1024
"""Tokens of a window at most."""

WINDOWS = 32


@dataclass(frozen=True)
class CopyLosses:
    """The mean loss, in nats/token, of tokens 2 to h of the first half of windows, and of the same tokens repeated."""

    first: float
    repeated: float
    windows: int


def probe_copying(run: TrainedRun, split: Split) -> CopyLosses:
    """Measure losses of repeated text; those of the validation split are noted in the run's record, but not written.

    See ``TrainedRun.stores_probe``.

    Raises:
        UserError: there is no such split, or no document is long enough.
        DivergedError: the model's loss is not finite.
    """
    half = max(2, min(LONGEST, run.reading.ctx) // 2)
    losses = measure_copying(run, windows_within(run.documents(split), half).subset(WINDOWS))
    if split == "validation" and run.stores_probe(split):
        run.record.measured(FIRST_LOSS, losses.first)
        run.record.measured(REPEATED_LOSS, losses.repeated)
    return losses


def measure_copying(run: TrainedRun, halves: Windows) -> CopyLosses:
    """Measure the losses of the first h tokens of ``halves``, windows of h tokens, twice in a row.

    Raises:
        DivergedError: the model's loss is not finite.
    """
    half, count, reading = halves.ctx, len(halves), run.reading
    once = halves.batch(range(count))[:, :-1]
    # The third copy of the first token is only the target of the last input.
    ids = torch.cat([once, once, once[:, :1]], dim=1).numpy()
    windows = Windows(ids.ravel(), torch.arange(count).numpy() * (2 * half + 1), 2 * half)
    batches = window_losses(
        run.model, windows, reading.device, reading.device_tokens, reading.show_progress, "repeated text"
    )
    losses: Tensor = torch.cat(list(batches))
    return CopyLosses(float(losses[:, : half - 1].mean()), float(losses[:, half : 2 * half - 1].mean()), count)
