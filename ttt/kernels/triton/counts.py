"""FLOPs and bytes of the kernels, counted from their code, per token and head.

Shapes: D head width, F hidden width of TTT-MLP, b mini-batch size, T tokens; P and R are D and b padded to powers of
two of at least 16; W all parameters of the inner model, float32. A product of [m, k] and [k, n] has 2 m k n FLOPs,
including padding, which is computed too. Elementwise operations are not counted.

Device memory or L2: an input or an output of a kernel crosses device memory once, even if it is loaded more often.
Scratch is written and read again. It stays in the L2 cache if the scratch of all programs that run at a time fits in
``L2_BYTES``; otherwise it crosses device memory once out and once in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ttt.kernels.triton.sizes import RESIDENT_HEAD_DIM, forward_warps, padded

FLOAT = 4
"""Bytes of a float32."""

MULTIPROCESSORS = 132
"""Of an H100. An A100 has 108, a B200 148."""

PROGRAMS = 2 * MULTIPROCESSORS
"""Sequences times heads: two programs per multiprocessor, at the same time if of four warps, in turn if of eight."""

L2_BYTES = 50_000_000
"""The L2 cache of an H100. An A100 has 40 MB, a B200 126 MB."""


@dataclass(frozen=True)
class Sizes:
    """Sizes on which the counts depend.

    Attributes:
        D: head width.
        F: hidden width of TTT-MLP.
        b: mini-batch size.
        element: bytes per number of the views.
        tokens: T, a multiple of ``group`` mini-batches.
        group: mini-batches for each W that the forward pass keeps, as ``kernel.checkpoint_group``.
        state: bytes per number of the state of a decoded token; elsewhere the state is float32.
    """

    D: int
    F: int
    b: int
    element: int
    tokens: int
    group: int
    state: int = FLOAT

    @cached_property
    def P(self) -> int:  # noqa: N802
        """The head width padded."""
        return padded(self.D)

    @cached_property
    def R(self) -> int:  # noqa: N802
        """The mini-batch size padded."""
        return padded(self.b)

    @property
    def view(self) -> int:
        """Bytes of one view of one token."""
        return self.D * self.element

    @property
    def norm(self) -> int:
        """Bytes of LN's scale and shift."""
        return FLOAT * 2 * self.D

    @property
    def rotation(self) -> int:
        """Bytes of the cosines and sines of RoPE, which all programs share."""
        return FLOAT * self.b * self.D

    @property
    def group_tokens(self) -> int:
        """Tokens for each kept W; at most ``tokens``."""
        return min(self.group * self.b, self.tokens)


class Moved(NamedTuple):
    """Bytes of one tensor, per token and head.

    Attributes:
        size: the tensor's bytes.
        loads: number of times each byte is loaded.
        stores: number of times each byte is stored.
        device: number of times each byte crosses device memory.
        least: number of times each byte must cross it.
    """

    size: float
    loads: float = 0
    stores: float = 0
    device: float = 0
    least: float = 0


class Work(NamedTuple):
    """The work of one program.

    Attributes:
        flops: FLOPs of matrix products per mini-batch.
        moved: the tensors that it loads or stores.
        scratch: bytes that it has in scratch at a time.
    """

    flops: int
    moved: list[Moved]
    scratch: int = 0


@dataclass(frozen=True)
class Counts:
    """Counts per token and head; ``scratch`` is per program.

    Attributes:
        flops: FLOPs of matrix products.
        device_bytes: bytes from and to device memory.
        least_bytes: bytes if every input is read once and every output written once.
        l2_bytes: bytes of all loads and stores.
        scratch: bytes that one program has in scratch at a time.
    """

    flops: float
    device_bytes: float
    least_bytes: float
    l2_bytes: float
    scratch: int


def count(kernel: str, sizes: Sizes) -> Counts:
    """Return the counts of a kernel; for a backward kernel they include its recomputation.

    Raises:
        KeyError: no kernel has this name.
    """
    work = KERNELS[kernel](sizes)
    return Counts(
        flops=work.flops / sizes.b,
        device_bytes=sum(m.size * m.device for m in work.moved),
        least_bytes=sum(m.size * m.least for m in work.moved),
        l2_bytes=sum(m.size * (m.loads + m.stores) for m in work.moved),
        scratch=work.scratch,
    )


RECOMPUTED_BY = {"linear_backward": "linear_recompute"}
"""Backward kernel -> kernel that recomputes the states of a group for it; TTT-MLP's recomputes them itself."""


def linear_state(s: Sizes) -> int:
    """Return the bytes of W1 and b1."""
    return FLOAT * (s.D * s.D + s.D)


def mlp_state(s: Sizes) -> int:
    """Return the bytes of W1, b1, W2 and b2."""
    return FLOAT * (2 * s.D * s.F + s.F + s.D)


def linear_forward(s: Sizes) -> Work:
    """Products: K W, Q W and K^T G; Q K^T and A G."""
    return Work(2 * (3 * s.R * s.P * s.P + 2 * s.R * s.R * s.P), _forward(linear_state(s), s))


def linear_recompute(s: Sizes) -> Work:
    """Products: K W and K^T G. W after the group is stored, but not used."""
    state, scratch = linear_state(s), _linear_scratch(s)
    moved = [
        *_recompute(state, s),
        Moved(state / s.group_tokens, stores=1),
        Moved(s.rotation / s.group_tokens, loads=1),
        Moved(scratch / s.group_tokens, stores=1, device=_leaves_l2(scratch)),
    ]
    return Work(2 * 2 * s.R * s.P * s.P, moved, scratch)


def linear_backward(s: Sizes) -> Work:
    """Products: eight with W or dW, six between tokens. All tiles of a mini-batch are loaded once, LN once per group.

    dW is loaded and stored once per group, or, if it is not in registers, loaded twice and stored once per mini-batch.
    """
    state, scratch, before = linear_state(s), _linear_scratch(s), linear_recompute(s)
    resident = s.D <= RESIDENT_HEAD_DIM
    moved = [
        *before.moved,
        *_backward(state, s),
        Moved((s.norm + s.rotation) / s.group_tokens, loads=1),
        Moved(scratch / s.group_tokens, loads=1, device=_leaves_l2(scratch)),
        Moved(state / s.group_tokens, loads=1, stores=resident),
        Moved(state / s.b, loads=0 if resident else 2, stores=not resident),
    ]
    return Work(before.flops + 2 * (8 * s.R * s.P * s.P + 6 * s.R * s.R * s.P), moved, scratch)


def linear_decode(s: Sizes) -> Work:
    """Products of one token: K W, Q W and the step; times b, because ``count`` divides by it."""
    return Work(s.b * 2 * 3 * s.D * s.D, _decode(linear_state(s), 1, s))


def mlp_forward(s: Sizes) -> Work:
    """Scratch: W, which both passes load and the second stores."""
    state = mlp_state(s)
    leaves = _leaves_l2(state, PROGRAMS * 4 // forward_warps(s.D))
    moved = [
        *_forward(state, s),
        Moved(state / s.b, loads=2, stores=1, device=2 * leaves),
        Moved(s.norm / s.b, loads=2),
    ]
    return Work(_mlp_forward_flops(s, 8), moved, state)


def mlp_forward_on_chip(s: Sizes) -> Work:
    """Without scratch: W is in registers, and b1 and b2 of each mini-batch go through L2."""
    moved = [*_forward(mlp_state(s), s), Moved(FLOAT * (s.F + s.D) / s.b, loads=1, stores=1)]
    return Work(_mlp_forward_flops(s, 7), moved)


def mlp_backward(s: Sizes) -> Work:
    """Products with W or dW: six to recompute the group, and six, eight and seven in the three passes back.

    Products between tokens: two and four of the hidden width, and six of the head width. Scratch of a mini-batch: W,
    dW, and in the views' type Z1, Z1_bar, X2, X2_bar, a part of dZ1 and dH; of a group: G1 and G2 in the views' type.
    """
    state = mlp_state(s)
    work, steps = 2 * state + 6 * s.b * s.F * s.element, s.group_tokens * (s.F + s.D) * s.element
    crossings = 2 * _leaves_l2(work, MULTIPROCESSORS)
    moved = [
        *_backward(state, s),
        Moved(s.norm / s.b, loads=1),
        Moved(s.view, loads=1),
        *_recompute(state, s),
        Moved(s.norm / s.b, loads=1),
        Moved(state / s.group_tokens, stores=1),
        # For the recomputation and for the way back.
        Moved(s.rotation / s.group_tokens, loads=2),
        Moved(steps / s.group_tokens, loads=1, stores=1, device=2 * _leaves_l2(work + steps, MULTIPROCESSORS)),
        # W: both passes of the recomputation load it, the second stores it; all three back load it, the first stores.
        Moved(state / s.b, loads=2, stores=1, device=crossings),
        Moved(state / s.b, loads=3, stores=1, device=crossings),
        # dW.
        Moved(state / s.b, loads=2, stores=1, device=crossings),
        # Six activations, and dZ1_bar in the memory of Z1_bar.
        Moved(s.F * s.element, loads=10, stores=7, device=6 * crossings),
    ]
    flops = 2 * (27 * s.R * s.P * s.F + 6 * s.R * s.R * s.F + 6 * s.R * s.R * s.P)
    return Work(flops, moved, work + steps)


def mlp_decode(s: Sizes) -> Work:
    """Products of one token: Z1, Z2, G1, Z1_bar, Z2_bar and two steps; times b, because ``count`` divides by it.

    W is loaded twice: for the train view and, once the step is known, for the test view.
    """
    return Work(s.b * 2 * 7 * s.D * s.F, _decode(mlp_state(s), 2, s))


KERNELS: dict[str, Callable[[Sizes], Work]] = {
    kernel.__name__: kernel
    for kernel in (
        linear_forward,
        linear_recompute,
        linear_backward,
        linear_decode,
        mlp_forward,
        mlp_forward_on_chip,
        mlp_backward,
        mlp_decode,
    )
}


def _leaves_l2(scratch: int, programs: int = PROGRAMS) -> bool:
    """Return whether scratch of ``programs`` programs exceeds the L2 cache; by default of all, as between launches."""
    return scratch * programs > L2_BYTES


def _linear_scratch(s: Sizes) -> int:
    """Return the bytes of W1 in the views' type and b1 before each mini-batch of a group."""
    return s.group_tokens // s.b * (s.D * s.D * s.element + s.D * FLOAT)


def _mlp_forward_flops(s: Sizes, products: int) -> int:
    """Count Z1, Z2, G1, Z1_bar, Z2_bar, two steps of W and, as the eighth, Z1 again.

    The other products are A1 G1, X2_bar X2^T, Q K^T and A2 G2.
    """
    return 2 * (products * s.R * s.P * s.F + 2 * s.R * s.R * s.F + 2 * s.R * s.R * s.P)


def _input(size: float, times: float = 1) -> Moved:
    return Moved(size, loads=times, device=1, least=1)


def _output(size: float) -> Moved:
    return Moved(size, stores=1, device=1, least=1)


def _forward(state: int, s: Sizes) -> list[Moved]:
    """Return q, k, v and eta; z; W_0, the last W, and a W per group, which the backward pass needs; LN."""
    views = [_input(3 * s.view), _input(FLOAT), _output(s.view)]
    states = [_input(state / s.tokens), _output(state / s.tokens), Moved(state / s.group_tokens, stores=1, device=1)]
    return [*views, *states, _input(s.norm / s.tokens), Moved(s.rotation / s.tokens, loads=1)]


def _recompute(state: int, s: Sizes) -> list[Moved]:
    """Return k, v, eta, the kept W and LN."""
    sizes = (2 * s.view, FLOAT, state / s.group_tokens, s.norm / s.group_tokens)
    return [Moved(size, loads=1, device=1) for size in sizes]


def _backward(state: int, s: Sizes) -> list[Moved]:
    """Return q, k, v and dz; eta; dq, dk and dv; deta; the gradients of the last W and of W_0; LN and its gradients."""
    return [
        _input(4 * s.view),
        _input(FLOAT),
        _output(3 * s.view),
        _output(FLOAT),
        Moved(2 * state / s.tokens, device=1, least=1),
        Moved(s.norm / s.tokens, device=1, least=1),
        # The sums over groups of the gradients of scale and shift.
        Moved(s.norm / s.group_tokens, loads=1, stores=1),
    ]


def _decode(state: int, loads: int, s: Sizes) -> list[Moved]:
    """Return q, k, v, eta and z; W; the sum of steps since the mini-batch began, before and after; LN."""
    views, state = [_input(3 * s.view), _input(FLOAT), _output(s.view)], state * s.state // FLOAT
    rotation = Moved(s.rotation / s.b, loads=1)
    return [*views, _input(state, loads), _input(state), _output(state), _input(s.norm), rotation]
