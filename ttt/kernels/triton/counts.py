"""What the kernels compute and move, counted from their text, per token and head.

Shapes: D head width, F hidden width of TTT-MLP, b mini-batch size, T tokens; P and R are D and b padded to powers of
two of at least 16; W all parameters of the inner model, float32. A product of [m, k] and [k, n] has 2 m k n FLOPs,
padding included: it is computed too. What is elementwise is not counted.

Device memory or L2: what a kernel reads as given or leaves as a result crosses device memory once, however often it is
loaded. Scratch, which is written and read again, stays in the L2 cache where that of all programs at a time fits
``L2_BYTES``, and crosses device memory once out and once in where it does not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

FLOAT = 4
"""Bytes of a float32."""

MULTIPROCESSORS = 132
"""Of an H100. An A100 has 108, a B200 148."""

PROGRAMS = 2 * MULTIPROCESSORS
"""Sequences times heads: two programs of four warps on each, or twice one of eight, which takes all its registers."""

L2_BYTES = 50_000_000
"""The L2 cache of an H100. That of an A100 has 40 MB, that of a B200 126 MB."""

RESIDENT_HEAD_DIM = 64
"""The largest D with which TTT-Linear's dW stays in registers, and TTT-MLP's forward kernel takes four warps."""


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
    of_kernel = KERNELS[kernel]
    moved = list(of_kernel.tensors(sizes, L2_BYTES / of_kernel.at_once(sizes)))
    counts = Counts(
        flops=of_kernel.products(sizes) / sizes.b,
        device_bytes=sum(m.size * m.device for m in moved),
        least_bytes=sum(m.size * m.least for m in moved),
        l2_bytes=sum(m.size * (m.loads + m.stores) for m in moved),
        scratch=of_kernel.scratch(sizes),
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


RECOMPUTED_BY = {"linear_backward": "linear_recompute"}
"""Backward kernel -> the kernel that computes the states of a group again before it; TTT-MLP's does so itself."""


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
    """Six with W to compute the group again; six, eight and seven with W or dW in the three sweeps back.

    Between tokens two and four of the hidden width, and six of the head width.
    """
    return 2 * (27 * s.R * s.P * s.F + 6 * s.R * s.R * s.F + 6 * s.R * s.R * s.P)


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


def _linear_forward_tensors(s: Sizes, cache: float) -> Iterator[Moved]:  # noqa: ARG001 - one signature for all
    yield from _forward_tensors(linear_state(s), s)


def _mlp_on_chip_tensors(s: Sizes, cache: float) -> Iterator[Moved]:  # noqa: ARG001 - one signature for all
    """And k a second time; b1 and b2 of every mini-batch through L2."""
    yield from _forward_tensors(mlp_state(s), s)
    yield Moved(s.view, loads=1)
    yield Moved(FLOAT * (s.F + s.D) / s.b, loads=3, stores=1)
    yield Moved(norm_parameters(s) / s.b, loads=2)


def _mlp_forward_tensors(s: Sizes, cache: float) -> Iterator[Moved]:
    """And W of every mini-batch, which is loaded by both sweeps and stored by the second."""
    yield from _forward_tensors(mlp_state(s), s)
    yield Moved(mlp_state(s) / s.b, loads=2, stores=1, device=2 if mlp_state(s) > cache else 0)
    yield Moved(norm_parameters(s) / s.b, loads=2)


def _recompute_tensors(state: int, s: Sizes) -> Iterator[Moved]:
    """K, v, eta and the kept W."""
    yield Moved(2 * s.view, loads=1, device=1)
    yield Moved(FLOAT, loads=1, device=1)
    yield Moved(state / s.group_tokens, loads=1, device=1)
    yield Moved(norm_parameters(s) / s.group_tokens, loads=1, device=1)


def _linear_recompute_tensors(s: Sizes, cache: float) -> Iterator[Moved]:
    """And W of every mini-batch for the backward kernel; W after the group, of no use."""
    yield from _recompute_tensors(linear_state(s), s)
    yield Moved(linear_state(s) / s.group_tokens, stores=1)
    yield Moved(_linear_scratch(s) / s.group_tokens, stores=1, device=1 if _linear_scratch(s) > cache else 0)


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


def _linear_backward_tensors(s: Sizes, cache: float) -> Iterator[Moved]:
    """And W of every mini-batch, which is loaded twice as q and k are; dW once a group, or twice a mini-batch."""
    yield from _backward_tensors(linear_state(s), s)
    yield Moved(2 * s.view, loads=1)
    yield Moved(_linear_scratch(s) / s.group_tokens, loads=2, device=1 if _linear_scratch(s) > cache else 0)
    resident = s.D <= RESIDENT_HEAD_DIM
    yield Moved(linear_state(s) / s.group_tokens, loads=1, stores=1 if resident else 0)
    yield Moved(linear_state(s) / s.b, loads=0 if resident else 2, stores=0 if resident else 1)


def _mlp_backward_tensors(s: Sizes, cache: float) -> Iterator[Moved]:
    """And what the recomputation reads and leaves; W on its way forth and back, dW, and a mini-batch's activations."""
    yield from _backward_tensors(mlp_state(s), s)
    yield Moved(s.view, loads=1)
    yield from _recompute_tensors(mlp_state(s), s)
    yield Moved(norm_parameters(s) / s.b, loads=1)
    yield Moved(mlp_state(s) / s.group_tokens, stores=1)
    yield Moved(_mlp_steps(s) / s.group_tokens, loads=1, stores=1, device=2 if _mlp_scratch(s) > cache else 0)
    crossings = 2 if _mlp_work(s) > cache else 0
    # Forth W is loaded by both sweeps and stored by the second; back it is loaded by all three and stored by the first.
    yield Moved(mlp_state(s) / s.b, loads=2, stores=1, device=crossings)
    yield Moved(mlp_state(s) / s.b, loads=3, stores=1, device=crossings)
    yield Moved(mlp_state(s) / s.b, loads=2, stores=1, device=crossings)
    # Six tensors, and dZ1_bar in the place of Z1_bar.
    yield Moved(s.F * s.element, loads=10, stores=7, device=6 * crossings)


def _linear_scratch(s: Sizes) -> int:
    """A program's, for a group: W1 in the views' type and b1."""
    return s.group_tokens // s.b * (s.D * s.D * s.element + s.D * FLOAT)


def _mlp_work(s: Sizes) -> int:
    """A program's, for a mini-batch: W, dW, and Z1, Z1_bar, X2, X2_bar, a part of dZ1 and dH in the views' type."""
    return 2 * mlp_state(s) + 6 * s.b * s.F * s.element


def _mlp_steps(s: Sizes) -> int:
    """A program's, for a group: G1 and G2 in the views' type."""
    return s.group_tokens * (s.F + s.D) * s.element


def _mlp_scratch(s: Sizes) -> int:
    return _mlp_work(s) + _mlp_steps(s)


def _decode_tensors(state: int, loads: int, s: Sizes) -> Iterator[Moved]:
    """Q, k, v, eta and z; W; the sum of steps since the mini-batch began, before and after."""
    yield given(3 * s.view)
    yield given(FLOAT)
    yield result(s.view)
    yield given(state, loads)
    yield given(state)
    yield result(state)
    yield given(norm_parameters(s))


def _linear_decode_tensors(s: Sizes, cache: float) -> Iterator[Moved]:  # noqa: ARG001 - one signature for all
    yield from _decode_tensors(linear_state(s), 1, s)


def _mlp_decode_tensors(s: Sizes, cache: float) -> Iterator[Moved]:  # noqa: ARG001 - one signature for all
    """Both layers' W twice: for the train view, and when the step is known for the test view."""
    yield from _decode_tensors(mlp_state(s), 2, s)


def _none(s: Sizes) -> int:  # noqa: ARG001 - one signature for all
    return 0


def _all_programs(s: Sizes) -> int:  # noqa: ARG001 - one signature for all
    """Where scratch goes from launch to launch."""
    return PROGRAMS


def _of_mlp_forward(s: Sizes) -> int:
    """Two programs on a multiprocessor, or one where they take eight warps."""
    return 2 * MULTIPROCESSORS if s.D <= RESIDENT_HEAD_DIM else MULTIPROCESSORS


def _one_each(s: Sizes) -> int:  # noqa: ARG001 - one signature for all
    return MULTIPROCESSORS


class Kernel(NamedTuple):
    """How a kernel is counted.

    Attributes:
        products: FLOPs of a mini-batch.
        tensors: what is moved, given the bytes of the L2 cache for one program.
        scratch: bytes of it.
        at_once: programs whose scratch is in use at a time.
    """

    products: Callable[[Sizes], int]
    tensors: Callable[[Sizes, float], Iterator[Moved]]
    scratch: Callable[[Sizes], int] = _none
    at_once: Callable[[Sizes], int] = _all_programs


KERNELS: dict[str, Kernel] = {
    "linear_forward": Kernel(_linear_forward_products, _linear_forward_tensors),
    "linear_recompute": Kernel(_linear_recompute_products, _linear_recompute_tensors, _linear_scratch),
    "linear_backward": Kernel(_linear_backward_products, _linear_backward_tensors, _linear_scratch),
    "linear_decode": Kernel(_linear_decode_products, _linear_decode_tensors),
    "mlp_forward": Kernel(_mlp_forward_products, _mlp_forward_tensors, mlp_state, _of_mlp_forward),
    "mlp_forward_on_chip": Kernel(_mlp_forward_products, _mlp_on_chip_tensors),
    "mlp_backward": Kernel(_mlp_backward_products, _mlp_backward_tensors, _mlp_scratch, _one_each),
    "mlp_decode": Kernel(_mlp_decode_products, _mlp_decode_tensors),
}
