"""Inner loops whose loss grows without bound.

Shapes: H heads, T tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ttt.layers.observing import Observation

FACTOR = 10
"""Growth of the mean loss, from the first to the last quarter, beyond the usual variation between tokens."""


@dataclass(frozen=True)
class Growth:
    """The growth of an inner loop's loss before the update, from the first to the last quarter of the sequence.

    Attributes:
        layer: the TTT layer, from 1.
        head: from 0.
        first: mean over the first ``quarter`` tokens.
        last: mean over the last ``quarter`` tokens.
        initial: mean loss under W_0 over the last ``quarter`` tokens.
        quarter: a quarter of ``tokens``, at least 1.
        tokens: T.
    """

    layer: int
    head: int
    first: float
    last: float
    initial: float
    quarter: int
    tokens: int

    @property
    def inner_loop(self) -> str:
        """Layer and head of the inner loop."""
        return f"layer {self.layer}, head {self.head}"

    @property
    def unbounded(self) -> bool:
        """True if the loss is not finite, or has become much larger than at first and larger than under W_0."""
        if not math.isfinite(self.first) or not math.isfinite(self.last):
            return True
        return self.last > FACTOR * self.first and self.last > self.initial

    def __str__(self) -> str:
        first = f"from {self.first:.3g} (tokens 1 to {self.quarter})"
        last = f"to {self.last:.3g} (tokens {self.tokens - self.quarter + 1} to {self.tokens}"
        return f"the inner loss grew {first} {last}, where W_0 has {self.initial:.3g}); lower model.eta_base"


def unbounded_growth(layers: Sequence[Observation]) -> list[Growth]:
    """Return the inner loops whose loss grows without bound, from the losses [H, T] of every TTT layer.

    Layers after the first with losses that are not finite are skipped: their inputs are not finite either.
    """
    found: list[Growth] = []
    for layer, seen in enumerate(layers, 1):
        losses = enumerate(zip(seen.loss_before, seen.loss_initial, strict=True))
        growths = [_growth(layer, head, before_T, initial_T) for head, (before_T, initial_T) in losses]
        found += [growth for growth in growths if growth.unbounded]
        if not seen.loss_before.isfinite().all():
            break
    return found


def _growth(layer: int, head: int, before_T: Tensor, initial_T: Tensor) -> Growth:
    tokens = len(before_T)
    quarter = max(1, tokens // 4)
    first, last, initial = (float(x.mean()) for x in (before_T[:quarter], before_T[-quarter:], initial_T[-quarter:]))
    return Growth(layer, head, first, last, initial, quarter, tokens)
