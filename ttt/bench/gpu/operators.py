"""The operators of the kernels on random inputs, as functions without arguments.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ttt.inner.eta import token_scale
from ttt.layers.rope import rotations

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

GROUPS = {"linear": 16, "mlp": 64}
"""Default mini-batches per kept W; equal to ``DEFAULT_GROUP`` of the operators."""


ROPE_BASE = 10_000.0

IN_PLACE = "decode in place"
"""Use of the kernels of one token with the state in float16."""


class Sizes(NamedTuple):
    """Layer (linear or mlp), type of the views, B, H, T, D, b."""

    layer: str
    dtype: str
    B: int
    H: int
    T: int
    D: int = 64
    b: int = 16

    @property
    def programs(self) -> int:
        """Programs of a launch."""
        return self.B * self.H


class Inputs(NamedTuple):
    """All tensors of the operators, W as (W1, b1) or (W1, b1, W2, b2)."""

    W: list[Tensor]
    scale: Tensor
    shift: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    eta: Tensor
    tau: Tensor


def random_inputs(sizes: Sizes, device: torch.device, seed: int = 0) -> Inputs:
    """Return inputs whose state moves: normal views and weights, eta up to 1 / D, tau near 1 / i."""
    layer, dtype, B, H, T, D, b = sizes
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    widths = [D, 4 * D, D] if layer == "mlp" else [D, D]
    W: list[Tensor] = []
    for rows, columns in pairwise(widths):
        W += [normal(B, H, rows, columns) / rows**0.5, 0.1 * normal(B, H, 1, columns)]
    q, k, v = (normal(B, T, H, D).to(DTYPES[dtype]).transpose(1, 2) for _ in range(3))
    eta = torch.rand(B, H, T, generator=generator, device=device) / D
    tau = token_scale(0.1 * normal(b)).clamp(min=0.01)
    return Inputs(W, 1 + 0.3 * normal(H, 1, D), 0.1 * normal(H, 1, D), q, k, v, eta, tau)


def rotation(inputs: Inputs) -> Tensor:
    """Return RoPE's rotation of every place in a mini-batch, as ``InnerLoop`` has it, in float64."""
    places = torch.arange(inputs.tau.numel(), device=inputs.tau.device)
    return rotations(places, inputs.q.shape[-1], ROPE_BASE, torch.float64)


def rotation_table(inputs: Inputs) -> Tensor:
    """Return ``rotation`` as the operators read it."""
    return torch.view_as_real(rotation(inputs)).flatten(1).float()


def passes(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return functions that launch the forward kernel, the backward kernels, and the kernel of one token.

    The last is there twice: with a new state in float32, and with one in float16 in place, as the authors' kernel has.
    """
    import ttt.kernels.triton.decoding  # noqa: F401 - defines the operators, as does the module that it imports

    operators = torch.ops.ttt_triton
    inputs, group = random_inputs(sizes, device), GROUPS[sizes.layer]
    W, *others = *inputs, rotation_table(inputs)
    z, W_last, kept = operators.forward(W, *others, group, True, True)
    dz, step = torch.randn_like(z), [torch.zeros_like(w) for w in W]
    scale, shift, q, k, v, eta, *fixed = others
    token = [x[:, :, :1].contiguous() for x in (q, k, v, eta)]
    half = [[w.half() for w in W], [torch.zeros_like(w, dtype=torch.float16) for w in W]]
    place = torch.tensor(sizes.b // 2, dtype=torch.int32, device=device)
    return {
        "forward": lambda: operators.forward(W, *others, group, True, True),
        "backward": lambda: operators.backward(dz, W_last, kept, W, *others, group, True),
        "decode": lambda: operators.decode(W, step, scale, shift, *token, *fixed, sizes.b // 2, True),
        IN_PLACE: lambda: operators.decode_in_place(*half, scale, shift, *token, *fixed, place, True),
    }
