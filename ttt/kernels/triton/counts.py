"""What the kernels compute and move, counted from their text, per token and head.

Shapes: D head width, F hidden width of TTT-MLP, b mini-batch size, T tokens; P and R are D and b padded to powers of
two of at least 16; W all parameters of the inner model, float32. A product of [m, k] and [k, n] has 2 m k n FLOPs,
padding included: it is computed too. What is elementwise is not counted.

Device memory or L2: what a kernel reads as given or leaves as a result crosses device memory once, however often it is
loaded. Scratch, which a launch writes and reads again, stays in the L2 cache where that of ``PROGRAMS`` programs fits
``L2_BYTES``, and crosses device memory once out and once in where it does not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

FLOAT = 4
"""Bytes of a float32."""

PROGRAMS = 264
"""Sequences times heads at once: two programs on each of an H100's 132 multiprocessors."""

L2_BYTES = 50_000_000
"""The L2 cache of an H100. That of an A100 has 40 MB and 108 multiprocessors, that of a B200 126 MB and 148."""


RESIDENT_HEAD_DIM = 64
"""The largest D with which TTT-Linear's dW stays in registers."""


@dataclass(frozen=True)
class Sizes:
    """What the counts depend on.

    Attributes:
        D: head width.
        F: hidden width of TTT-MLP.
        b: mini-batch size.
        element: bytes of a number of the views.
        tokens: T, a multiple of ``group`` mini-batches.
        group: mini-batches for each W that the forward pass keeps, as ``kernel.checkpoint_group``.
    """

    D: int
    F: int
    b: int
    element: int
    tokens: int
    group: int

    @cached_property
    def P(self) -> int:  # noqa: N802
        """The head width padded."""
        return max(16, 1 << (self.D - 1).bit_length())

    @cached_property
    def R(self) -> int:  # noqa: N802
        """The mini-batch size padded."""
        return max(16, 1 << (self.b - 1).bit_length())

    @property
    def view(self) -> int:
        """Bytes of one view of one token."""
        return self.D * self.element

    @property
    def group_tokens(self) -> int:
        """Tokens for each kept W; no more than there are."""
        return min(self.group * self.b, self.tokens)


class Moved(NamedTuple):
    """One tensor's bytes, per token and head.

    Attributes:
        size: the tensor's bytes.
        loads: how often each is loaded.
        stores: how often each is stored.
        device: how often each crosses device memory.
        least: how often it must.
    """

    size: float
    loads: float = 0
    stores: float = 0
    device: float = 0
    least: float = 0


@dataclass(frozen=True)
class Counts:
    """Per token and head, but for ``scratch``.

    Attributes:
        flops: of matrix products.
        device_bytes: bytes from and to device memory.
        least_bytes: every input read once and every output written once.
        l2_bytes: bytes of all loads and stores.
        scratch: bytes that one program has in scratch at a time.
    """

    flops: float
    device_bytes: float
    least_bytes: float
    l2_bytes: float
    scratch: int


def count(kernel: str, sizes: Sizes) -> Counts:
    """The counts of a kernel. Those of a backward pass have its recomputation within them.

    Raises:
        KeyError: no such kernel.
    """
    products, tensors, scratch = KERNELS[kernel]
    held = scratch(sizes)
    spills = held * PROGRAMS > L2_BYTES
    moved = list(tensors(sizes, spills))
    counts = Counts(
        flops=products(sizes) / sizes.b,
        device_bytes=sum(m.size * m.device for m in moved),
        least_bytes=sum(m.size * m.least for m in moved),
        l2_bytes=sum(m.size * (m.loads + m.stores) for m in moved),
        scratch=held,
    )
    if kernel not in RECOMPUTED_BY:
        return counts
    before = count(RECOMPUTED_BY[kernel], sizes)
    return replace(
        counts,
        flops=counts.flops + before.flops,
        device_bytes=counts.device_bytes + before.device_bytes,
        l2_bytes=counts.l2_bytes + before.l2_bytes,
    )


RECOMPUTED_BY = {"linear_backward": "linear_recompute", "mlp_backward": "mlp_recompute"}
"""Backward kernel -> the kernel that computes states and activations of a group again before it."""


def given(size: float, times: float = 1) -> Moved:
    """An input, loaded so often."""
    return Moved(size, loads=times, device=1, least=1)


def result(size: float) -> Moved:
    """An output, stored once."""
    return Moved(size, stores=1, device=1, least=1)


def linear_state(s: Sizes) -> int:
    """Bytes of W1 and b1."""
    return FLOAT * (s.D * s.D + s.D)


def mlp_state(s: Sizes) -> int:
    """Bytes of W1, b1, W2 and b2."""
    return FLOAT * (2 * s.D * s.F + s.F + s.D)


def norm_parameters(s: Sizes) -> int:
    """Bytes of LN's scale and shift."""
    return FLOAT * 2 * s.D


def _linear_forward_products(s: Sizes) -> int:
    """K W, Q W and K^T G; Q K^T and A G."""
    return 2 * (3 * s.R * s.P * s.P + 2 * s.R * s.R * s.P)


def _linear_recompute_products(s: Sizes) -> int:
    """K W and K^T G."""
    return 2 * 2 * s.R * s.P * s.P


def _linear_backward_products(s: Sizes) -> int:
    """Eight with W or dW, six between tokens."""
    return 2 * (8 * s.R * s.P * s.P + 6 * s.R * s.R * s.P)


def _mlp_forward_products(s: Sizes) -> int:
    """Z1 twice, Z2, G1, Z1_bar, Z2_bar and two steps of W; A1 G1 and X2_bar X2^T; Q K^T and A2 G2."""
    return 2 * (8 * s.R * s.P * s.F + 2 * s.R * s.R * s.F + 2 * s.R * s.R * s.P)


def _mlp_backward_products(s: Sizes) -> int:
    """Eight and seven with W or dW in the two sweeps; five and five between tokens."""
    return 2 * (15 * s.R * s.P * s.F + 5 * s.R * s.R * s.F + 5 * s.R * s.R * s.P)


def _linear_decode_products(s: Sizes) -> int:
    """K W and Q W of one token, and the step; times b, for ``count`` divides by it."""
    return s.b * 2 * 3 * s.D * s.D


def _mlp_decode_products(s: Sizes) -> int:
    """Of one token Z1, Z2, G1, Z1_bar, Z2_bar and two steps; times b, for ``count`` divides by it."""
    return s.b * 2 * 7 * s.D * s.F


def _forward_tensors(state: int, s: Sizes) -> Iterator[Moved]:
    """Views, W_0, the last W, and a W for each group, which the backward pass wants."""
    yield given(3 * s.view)
    yield given(FLOAT)
    yield result(s.view)
    yield given(state / s.tokens)
    yield result(state / s.tokens)
    yield Moved(state / s.group_tokens, stores=1, device=1)
    yield given(norm_parameters(s) / s.tokens)


def _linear_forward_tensors(s: Sizes, spills: bool) -> Iterator[Moved]:  # noqa: ARG001 - one signature for all
    yield from _forward_tensors(linear_state(s), s)


def _mlp_on_chip_tensors(s: Sizes, spills: bool) -> Iterator[Moved]:  # noqa: ARG001 - one signature for all
    """And k a second time; b1 and b2 of every mini-batch through L2."""
    yield from _forward_tensors(mlp_state(s), s)
    yield Moved(s.view, loads=1)
    yield Moved(FLOAT * (s.F + s.D) / s.b, loads=3, stores=1)
    yield Moved(norm_parameters(s) / s.b, loads=2)


def _mlp_forward_tensors(s: Sizes, spills: bool) -> Iterator[Moved]:
    """And W of every mini-batch, which is loaded by both sweeps and stored by the second."""
    yield from _forward_tensors(mlp_state(s), s)
    yield Moved(mlp_state(s) / s.b, loads=2, stores=1, device=2 if spills else 0)
    yield Moved(norm_parameters(s) / s.b, loads=2)


def _recompute_tensors(views: int, state: int, s: Sizes) -> Iterator[Moved]:
    """Some views, eta and the kept W; a W to work on, of no use after the group."""
    yield Moved(views * s.view, loads=1, device=1)
    yield Moved(FLOAT, loads=1, device=1)
    yield Moved(state / s.group_tokens, loads=1, device=1)
    yield Moved(state / s.group_tokens, stores=1)
    yield Moved(norm_parameters(s) / s.group_tokens, loads=1, device=1)


def _linear_recompute_tensors(s: Sizes, spills: bool) -> Iterator[Moved]:
    """And W of every mini-batch for the backward kernel."""
    yield from _recompute_tensors(2, linear_state(s), s)
    yield Moved(_linear_scratch(s) / s.group_tokens, stores=1, device=1 if spills else 0)


def _mlp_recompute_tensors(s: Sizes, spills: bool) -> Iterator[Moved]:
    """And W through L2 as in the forward pass; W and activations of every mini-batch for the backward kernel."""
    yield from _recompute_tensors(3, mlp_state(s), s)
    yield Moved(mlp_state(s) / s.b, loads=2, stores=1)
    yield Moved(norm_parameters(s) / s.b, loads=1)
    yield Moved(_mlp_scratch(s) / s.group_tokens, stores=1, device=1 if spills else 0)


def _backward_tensors(state: int, s: Sizes) -> Iterator[Moved]:
    """Of the whole pass: q, k, v and dz; eta; dq, dk and dv; deta; the last W's gradient and W_0's."""
    yield given(4 * s.view)
    yield given(FLOAT)
    yield result(3 * s.view)
    yield result(FLOAT)
    yield Moved(2 * state / s.tokens, device=1, least=1)
    yield Moved(norm_parameters(s) / s.b, loads=1)
    yield Moved(norm_parameters(s) / s.tokens, device=1, least=1)
    # The sums over groups of the gradients of scale and shift.
    yield Moved(norm_parameters(s) / s.group_tokens, loads=1, stores=1)


def _linear_backward_tensors(s: Sizes, spills: bool) -> Iterator[Moved]:
    """And W of every mini-batch, which is loaded twice as q and k are; dW once a group, or twice a mini-batch."""
    yield from _backward_tensors(linear_state(s), s)
    yield Moved(2 * s.view, loads=1)
    yield Moved(_linear_scratch(s) / s.group_tokens, loads=2, device=1 if spills else 0)
    resident = s.D <= RESIDENT_HEAD_DIM
    yield Moved(linear_state(s) / s.group_tokens, loads=1, stores=1 if resident else 0)
    yield Moved(linear_state(s) / s.b, loads=0 if resident else 2, stores=0 if resident else 1)


def _mlp_backward_tensors(s: Sizes, spills: bool) -> Iterator[Moved]:
    """And W and activations of every mini-batch, all but Z2 and Z2_bar by both sweeps, and dW likewise."""
    yield from _backward_tensors(mlp_state(s), s)
    yield Moved(s.view, loads=1)
    yield Moved(_mlp_scratch(s) / s.group_tokens, device=1 if spills else 0)
    yield Moved((2 * s.D * s.F + 4 * s.b * s.F) * s.element / s.b, loads=2)
    yield Moved(2 * s.D * FLOAT, loads=1)
    yield Moved(mlp_state(s) / s.b, loads=2, stores=1)
    # From the first sweep to the second: dZ1_bar in the place of Z1_bar, a part of dZ1, and dH.
    yield Moved(s.F * s.element, loads=2, stores=3)


def _linear_scratch(s: Sizes) -> int:
    """A program's, for a group: W1 in the views' type and b1."""
    return s.group_tokens // s.b * (s.D * s.D * s.element + s.D * FLOAT)


def _mlp_scratch(s: Sizes) -> int:
    """A program's, for a group: W1, W2, Z1, Z1_bar, X2 and X2_bar in the views' type, b1, b2, Z2 and Z2_bar."""
    of_views = 2 * s.D * s.F + 4 * s.b * s.F
    of_float = s.F + s.D + 2 * s.b * s.D
    return s.group_tokens // s.b * (of_views * s.element + of_float * FLOAT)


def _decode_tensors(state: int, loads: int, s: Sizes) -> Iterator[Moved]:
    """Q, k, v, eta and z; W; the sum of steps since the mini-batch began, before and after."""
    yield given(3 * s.view)
    yield given(FLOAT)
    yield result(s.view)
    yield given(state, loads)
    yield given(state)
    yield result(state)
    yield given(norm_parameters(s))


def _linear_decode_tensors(s: Sizes, spills: bool) -> Iterator[Moved]:  # noqa: ARG001 - one signature for all
    yield from _decode_tensors(linear_state(s), 1, s)


def _mlp_decode_tensors(s: Sizes, spills: bool) -> Iterator[Moved]:  # noqa: ARG001 - one signature for all
    """Both layers' W twice: for the train view, and when the step is known for the test view."""
    yield from _decode_tensors(mlp_state(s), 2, s)


def _none(s: Sizes) -> int:  # noqa: ARG001 - one signature for all
    return 0


Kernel = tuple[Callable[[Sizes], int], Callable[[Sizes, bool], Iterator[Moved]], Callable[[Sizes], int]]
"""FLOPs of a mini-batch, tensors given whether scratch leaves L2, and bytes of scratch."""

KERNELS: dict[str, Kernel] = {
    "linear_forward": (_linear_forward_products, _linear_forward_tensors, _none),
    "linear_recompute": (_linear_recompute_products, _linear_recompute_tensors, _linear_scratch),
    "linear_backward": (_linear_backward_products, _linear_backward_tensors, _linear_scratch),
    "linear_decode": (_linear_decode_products, _linear_decode_tensors, _none),
    "mlp_forward": (_mlp_forward_products, _mlp_forward_tensors, mlp_state),
    "mlp_forward_on_chip": (_mlp_forward_products, _mlp_on_chip_tensors, _none),
    "mlp_recompute": (_mlp_forward_products, _mlp_recompute_tensors, _mlp_scratch),
    "mlp_backward": (_mlp_backward_products, _mlp_backward_tensors, _mlp_scratch),
    "mlp_decode": (_mlp_decode_products, _mlp_decode_tensors, _none),
}
