"""What a benchmark measures: the forms of one setting side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ttt.bench.timing import Measurement, Spread
from ttt.config.errors import bad_value
from ttt.config.schema import KernelConfig
from ttt.kernels.dispatch import KERNELS
from ttt.results.benchmarks import Row

BASELINE = "plain"
"""The form that others are held against: mini-batch after mini-batch by ordinary operators and ordinary autograd."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Variant:
    """A form and its ``checkpoint_group``."""

    form: str
    checkpoint_group: int | None

    @property
    def kernel(self) -> KernelConfig:
        """The form as the ``kernel`` group has it."""
        return KernelConfig("dual" if self.form == BASELINE else self.form, self.checkpoint_group)


PLAIN = Variant(BASELINE, 0)


def variants(forms: list[str], groups: list[int | None]) -> list[Variant]:
    """The baseline, and every other form with every ``checkpoint_group``.

    Raises:
        UserError: no such form.
    """
    for form in forms:
        if form not in (BASELINE, *KERNELS):
            raise bad_value("kernels", form, f"choose from {', '.join((BASELINE, *KERNELS))}")
    others = [Variant(form, group) for form in forms if form != BASELINE for group in groups]
    return list(dict.fromkeys([PLAIN, *others]))


@dataclass(frozen=True)
class Setting:
    """What the forms of a case have in common; the fields are those of ``Row``."""

    model: str
    tokens: int
    mini_batch_size: int | None
    batch: int
    backbone: str | None = None

    def row(self, variant: Variant | None, measure: str, spread: Spread, unit: str) -> Row:
        """A measurement of this setting; ``variant`` is None where the form plays no part."""
        return {
            "model": self.model,
            "backbone": self.backbone,
            "form": variant.form if variant else None,
            "checkpoint_group": variant.checkpoint_group if variant else None,
            "tokens": self.tokens,
            "mini_batch_size": self.mini_batch_size,
            "batch": self.batch,
            "measure": measure,
            "value": spread.median,
            "low": spread.low,
            "high": spread.high,
            "unit": unit,
        }


@dataclass(frozen=True)
class Work:
    """One form of one setting with its inputs, ready to run.

    Attributes:
        forward: the forward pass, without anything kept for a backward pass.
        forward_backward: the forward pass and the gradients of everything.
        flops: FLOPs of the forward pass's matrix products.
        extra: what else to time.
    """

    forward: Callable[[], object]
    forward_backward: Callable[[], object]
    flops: int
    extra: Sequence[Measurement] = ()


@dataclass(frozen=True)
class Case:
    """A setting and the forms to measure in it.

    Attributes:
        setting: what they have in common.
        variants: the forms, the baseline first.
        build: the work of a form on sequences of so many tokens. It can be pickled, for a process of its own.
    """

    setting: Setting
    variants: list[Variant]
    build: Callable[[Variant, int], Work]
