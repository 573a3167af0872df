"""The kernels of one token as operators of torch: with a new state, or in place, as a CUDA graph needs it.

Shapes: B batch, H heads, D head width, b mini-batch size; W as of ``ttt.kernels.triton.op.inner_loop``.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ttt.kernels.adapter import with_biases
from ttt.kernels.triton import launch
from ttt.kernels.triton.op import Params, check, rows, views_of

_INPUTS = "Tensor scale, Tensor shift, Tensor q, Tensor k, Tensor v, Tensor eta, Tensor tau, Tensor? rotation"
_LIBRARY = torch.library.Library("ttt_triton", "FRAGMENT")
_LIBRARY.define(f"decode(Tensor[] W, Tensor[] step, {_INPUTS}, int offset, bool bias) -> (Tensor, Tensor[])")
_LIBRARY.define(f"decode_in_place(Tensor(a!)[] W, Tensor(b!)[] step, {_INPUTS}, Tensor(c!) place, bool bias) -> Tensor")

LARGEST_MINI_BATCH = 64
"""See ``ttt.kernels.triton.sizes.unsupported_sizes``."""


def decode_token(
    W: Params,
    step: Params,
    scale: Tensor,
    shift: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    offset: int,
    rotation: Tensor | None = None,
) -> tuple[Tensor, Params]:
    """Compute one token anywhere in a mini-batch, without derivatives.

    The arguments of ``inner_loop`` with T = 1, and:
        W: may be in half precision.
        step: sum of eta_j grad loss_j(W) over the earlier tokens of the mini-batch, shaped as W; empty if there are
            none.
        offset: number of earlier tokens in the mini-batch, 0 ... b - 1.

    Returns:
        z [B, H, 1, D], and the sum including this token, or, if ``offset`` is b - 1, W of the next mini-batch.

    Raises:
        RuntimeError: as ``inner_loop``, or an argument that requires a gradient.
    """
    W, bias = with_biases(W)
    step = with_biases(step)[0]
    inputs = scale, shift, q, k, v, eta, tau, rotation
    z, after = torch.ops.ttt_triton.decode(list(W), list(step), *inputs, offset, bias)
    return z, tuple(after if bias else after[::2])


def decode_in_place(
    W: Params,
    step: Params,
    scale: Tensor,
    shift: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    place: Tensor,
    rotation: Tensor | None = None,
) -> Tensor:
    """Compute one token and write the state after it over the state before it. A CUDA graph can contain the call.

    The arguments of ``decode_token``, W and ``step`` contiguous and of one type, float32 or half precision; all is
    computed in float32, and the state is rounded once per token. And:
        place: number of tokens since a mini-batch began, a scalar, int32, on the device; 1 is added. At a multiple of b
            ``step`` is not read, and at the last token of a mini-batch W is written instead of ``step``.

    Returns:
        z [B, H, 1, D].

    Raises:
        RuntimeError: as ``decode_token``, or a state whose sequences share memory.
    """
    W, bias = with_biases(W)
    step = with_biases(step)[0]
    inputs = scale, shift, q, k, v, eta, tau, rotation
    return torch.ops.ttt_triton.decode_in_place(list(W), list(step), *inputs, place, bias)


@lru_cache(maxsize=8)
def _places(device: torch.device) -> Tensor:
    """Return the numbers below ``LARGEST_MINI_BATCH``, one in 16 bytes: kernels are compiled for this alignment."""
    with torch.inference_mode(False):
        return torch.arange(LARGEST_MINI_BATCH, dtype=torch.int32, device=device).repeat_interleave(4)


def _decode(
    W: list[Tensor],
    step: list[Tensor],
    scale: Tensor,
    shift: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    rotation: Tensor | None,
    offset: int,
    bias: bool,
) -> tuple[Tensor, list[Tensor]]:
    check(W, scale, shift, q, k, v, eta, tau, rotation, decodes=True)
    torch._check(0 <= offset < tau.numel(), lambda: f"offset {offset} is not within a mini-batch")
    torch._check(bool(step) or not offset, lambda: "a token within a mini-batch needs the sum of its earlier steps")
    _check_step(W, step or W)
    after = [torch.empty_like(w, memory_format=torch.contiguous_format) for w in W]
    # At the start of a mini-batch the kernel reads no sum, but Triton needs a tensor for every pointer.
    summed = [x.contiguous() for x in step] or after
    token = launch.Token(W, summed, after, after, _places(q.device)[4 * offset :])
    return launch.decode(views_of(scale, shift, q, k, v, eta, tau, rotation), token, bias).transpose(1, 2), after


def _decode_fake(W: list[Tensor], step: list[Tensor], *given: Any) -> tuple[Tensor, list[Tensor]]:  # noqa: ARG001
    *tensors, _, _ = given
    check(W, *tensors, decodes=True)
    return rows(tensors[2]), [torch.empty_like(w, memory_format=torch.contiguous_format) for w in W]


def _check_in_place(W: list[Tensor], step: list[Tensor], q: Tensor, place: Tensor) -> None:
    _check_step(W, step)
    torch._check(all(x.is_contiguous() for x in (*W, *step)), lambda: "a state in place must be contiguous")
    torch._check(
        place.shape == () and place.dtype == torch.int32 and place.device == q.device,
        lambda: f"expected a place, a scalar of int32 on {q.device}",
    )


def _check_step(W: list[Tensor], step: list[Tensor]) -> None:
    torch._check([x.shape for x in step] == [w.shape for w in W], lambda: "step and W differ in shape")
    torch._check(all(x.dtype == W[0].dtype for x in (*W, *step)), lambda: "step and W differ in type")


def _decode_in_place(
    W: list[Tensor],
    step: list[Tensor],
    scale: Tensor,
    shift: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    rotation: Tensor | None,
    place: Tensor,
    bias: bool,
) -> Tensor:
    check(W, scale, shift, q, k, v, eta, tau, rotation, decodes=True)
    _check_in_place(W, step, q, place)
    z = launch.decode(views_of(scale, shift, q, k, v, eta, tau, rotation), launch.Token(W, step, W, step, place), bias)
    place += 1
    return z.transpose(1, 2)


def _decode_in_place_fake(W: list[Tensor], step: list[Tensor], *given: Any) -> Tensor:
    *tensors, place, _ = given
    check(W, *tensors, decodes=True)
    _check_in_place(W, step, tensors[2], place)
    return rows(tensors[2])


def _no_derivative(*_: object) -> None:
    raise RuntimeError("the Triton decode kernel has no derivatives: use kernel=dual for them")


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("decode", _decode, _device)
    _LIBRARY.impl("decode_in_place", _decode_in_place, _device)
torch.library.register_fake("ttt_triton::decode", _decode_fake, lib=_LIBRARY)
torch.library.register_fake("ttt_triton::decode_in_place", _decode_in_place_fake, lib=_LIBRARY)
torch.library.register_autograd("ttt_triton::decode", _no_derivative, lib=_LIBRARY)
