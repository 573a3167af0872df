"""Random arguments and results of the compiled kernels, to compare with the definition: token by token in float64."""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Device of Triton's kernels: compiled on a GPU, in the interpreter on a CPU."""

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Dtype of the views -> largest error, relative to the largest entry of the tensor. bfloat16 rounds 8 times as coarsely
as float16."""

NORM_SHARE = 0.4
"""Largest error of a whole tensor, ||found - expected|| / ||expected||, as a share of ``TOLERANCE``. A block of wrong
small entries is far below the largest entry, but not below this."""


class Case(NamedTuple):
    """Sizes: D, F (0 for TTT-Linear), b, T."""

    head_dim: int
    hidden: int
    mini_batch_size: int
    tokens: int


class Arguments(NamedTuple):
    W: tuple[Tensor, ...]
    scale: Tensor
    shift: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    eta: Tensor
    tau: Tensor

    def tensors(self) -> list[Tensor]:
        return [*self.W, *self[1:]]

    def first_token(self) -> "Arguments":
        return self._replace(**{name: getattr(self, name)[:, :, :1] for name in ("q", "k", "v", "eta")})

    def map(self, function) -> "Arguments":  # type: ignore[no-untyped-def]
        return Arguments(tuple(map(function, self.W)), *map(function, self[1:]))


NAMES = ["W1", "b1", "W2", "b2", "scale", "shift", "q", "k", "v", "eta", "tau"]


def arguments(case: Case, dtype: torch.dtype = torch.float64, B: int = 2, H: int = 3) -> Arguments:
    """Return random leaves: views in the layout of a projection, heads adjacent, and a tau with a clamped zero."""
    D, hidden, b, T = case
    generator = torch.Generator().manual_seed(sum(case))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    widths = [D, hidden, D] if hidden else [D, D]
    W: list[Tensor] = []
    for inputs, outputs in pairwise(widths):
        W += [normal(B, H, inputs, outputs) / inputs**0.5, normal(B, H, 1, outputs) * 0.1]
    scale, shift = 1 + 0.3 * normal(H, 1, D), 0.1 * normal(H, 1, D)
    scale[0, 0, :3] = 0
    q, k, v = (normal(B, T, H, D).transpose(1, 2) for _ in range(3))
    eta = torch.rand(B, H, T, generator=generator, dtype=torch.float64) / D
    tau = (1 / torch.arange(1, b + 1, dtype=torch.float64) + 0.2 * normal(b)).clamp(min=0)
    tau[b // 2] = 0 if b > 2 else tau[b // 2]
    return Arguments(tuple(W), scale, shift, q, k, v, eta, tau).map(lambda x: x.to(dtype).requires_grad_())


def f_res(W: tuple[Tensor, ...], u: Tensor) -> Tensor:
    """Apply (W1, b1) or (W1, b1, W2, b2), or without biases (W1,) or (W1, W2)."""
    bias = len(W) > 1 and W[1].shape[-2] == 1
    weights, biases = (W[::2], W[1::2]) if bias else (W, [0.0] * len(W))
    hidden = u @ weights[0] + biases[0]
    return F.gelu(hidden, approximate="tanh") @ weights[1] + biases[1] if len(weights) == 2 else hidden


def f(W: tuple[Tensor, ...], scale: Tensor, shift: Tensor, u: Tensor) -> Tensor:
    unscaled = F.layer_norm(f_res(W, u), u.shape[-1:], eps=1e-6)
    return u + scale * unscaled + shift


def primal(given: Arguments) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute the definition: every token's gradient by autograd, at W before the mini-batch."""
    W, scale, shift, q, k, v, eta, tau = given
    b, outputs = tau.numel(), []
    for start in range(0, q.shape[2], b):
        steps, W_i = [torch.zeros_like(w) for w in W], W
        for i in range(b):
            token = slice(start + i, start + i + 1)
            loss = 0.5 * (f(W, scale, shift, k[:, :, token]) - v[:, :, token]).square().sum()
            gradients = torch.autograd.grad(loss, W, create_graph=True)
            steps = [s + eta[:, :, token, None] * g for s, g in zip(steps, gradients, strict=True)]
            W_i = tuple(w - tau[i] * s for w, s in zip(W, steps, strict=True))
            outputs.append(f(W_i, scale, shift, q[:, :, token]))
        W = W_i
    return torch.cat(outputs, dim=2), W


def results(kernel, given: Arguments) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    """Return outputs, final state and, from random upstream gradients of both, the gradient of every input."""
    z, W_last = kernel(given)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in (z, *W_last)]
    gradients = torch.autograd.grad((z, *W_last), given.tensors(), upstream)
    names = NAMES if len(given.W) == 4 else [*NAMES[:2], *NAMES[4:]]
    found = {"z": z, **{f"{name}_last": w for name, w in zip(NAMES, W_last, strict=False)}}
    return found | {f"d{name}": x for name, x in zip(names, gradients, strict=True)}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Compare the largest error with the largest entry, and the norm of the error with the norm, tensor by tensor."""
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        difference = found[name].double() - x
        error, of_norm = difference.abs().max() / x.abs().max(), difference.norm() / x.norm()
        assert error < tolerance, f"{name}: {error:.1e}"
        assert of_norm < NORM_SHARE * tolerance, f"{name}: {of_norm:.1e} of its norm"


def rounded(given: Arguments, dtype: torch.dtype) -> Arguments:
    """Return the views in ``dtype`` and the rest in float32, as the Triton kernels read them."""
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in (given.q, given.k, given.v))
    return given.map(lambda x: x.detach().float().requires_grad_())._replace(q=q, k=k, v=v)


def of(case: Case, dtype: torch.dtype = torch.float32, batch: int = 1, heads: int = 2) -> Arguments:
    """Return ``rounded`` random arguments on ``DEVICE``."""
    return rounded(arguments(case, torch.float64, batch, heads), dtype).map(
        lambda x: x.detach().to(DEVICE).requires_grad_()
    )


def decoded_in_place(given: Arguments, state: torch.dtype, table: Tensor | None = None) -> dict[str, Tensor]:
    """Decode token by token in place, rotated by ``table``.

    The sums hold NaN at first, because a first token does not read them.
    """
    from ttt.kernels.triton.decoding import decode_in_place  # only some users of this module have Triton

    W = tuple(w.to(state, memory_format=torch.contiguous_format, copy=True) for w in given.W)
    step = tuple(torch.full_like(w, float("nan")) for w in W)
    place = torch.zeros((), dtype=torch.int32, device=DEVICE)
    addresses, outputs = [x.data_ptr() for x in (*W, *step)], []
    for t in range(given.q.shape[2]):
        token = (x[:, :, t : t + 1] for x in (given.q, given.k, given.v, given.eta))
        outputs.append(decode_in_place(W, step, given.scale, given.shift, *token, given.tau, place, table))
    assert place.item() == given.q.shape[2]
    assert [x.data_ptr() for x in (*W, *step)] == addresses
    return {"z": torch.cat(outputs, dim=2)} | {str(i): w for i, w in enumerate(W)}


def angles(given: Arguments) -> Tensor:
    """Return random angles of RoPE for every place in a mini-batch, [b, D / 2], float64."""
    generator = torch.Generator().manual_seed(2)
    b, D = given.tau.numel(), given.q.shape[-1]
    return 6.3 * torch.rand(b, D // 2, generator=generator, dtype=torch.float64)


def rotation(given: Arguments, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return cosines and sines of ``angles`` as the operators read them, [b, D]; Triton's take float32."""
    return torch.stack([angles(given).cos(), angles(given).sin()], dim=-1).flatten(1).to(DEVICE, dtype)


def rotated_primal(given: Arguments, views: torch.dtype = torch.float64) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute ``primal`` with q and k rotated by ``angles``, pair by pair, and rounded to ``views``."""
    angle = angles(given).repeat(given.q.shape[2] // given.tau.numel(), 1).to(given.q.device)

    def rotated(x: Tensor) -> Tensor:
        even, odd = x[..., ::2], x[..., 1::2]
        pairs = [even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()]
        exactly = torch.stack(pairs, dim=-1).flatten(-2)
        return exactly + (exactly.to(views) - exactly).detach()

    return primal(given._replace(q=rotated(given.q), k=rotated(given.k)))


def exact(given: Arguments) -> Arguments:
    """Return the same numbers in float64."""
    return given.map(lambda x: x.detach().double().requires_grad_())
