"""Linear maps by the faster of two libraries: torch's own products (MKL or OpenBLAS) or oneDNN, which torch contains.

On processors of other makers than Intel, MKL takes AVX2 where they have AVX-512, and it is slow at widths that are no
multiple of its tile: oneDNN takes 0.5 to 0.9 of its time there. The two differ in rounding alone.

Shapes: M rows, K inputs, N outputs.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from platformdirs import user_cache_dir
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ttt.kernels.cpu.build import instruction_sets

SMALLEST = 2**22
"""Multiplications below which a product is torch's: starting oneDNN costs more than it gains."""

MOST_ROWS = 2048
"""Rows of the products that are measured; more rows take the choice for this number."""

GAIN = 0.9
"""oneDNN is chosen where it takes less than this share of the time: torch adds a product to a sum at no cost."""

REPETITIONS = 7

log = logging.getLogger(__name__)


def linear(x: Tensor, weight: Tensor, library: str) -> Tensor:
    """Return ``x @ weight.T``, [..., K] and [N, K] -> [..., N], as ``F.linear`` does.

    ``library`` is a value of ``kernel.matmul``: torch, onednn, or auto for the faster one, which is measured once per
    machine and shape (rows rounded down to a power of two) and remembered in the user's cache. oneDNN computes only
    float32 on CPUs, at most one derivative, and no small products; all others are torch's.
    """
    (y,) = linears(x, (weight,), library)
    return y


def linears(x: Tensor, weights: Sequence[Tensor], library: str) -> tuple[Tensor, ...]:
    """Return ``linear`` of each weight. The products of the backward pass add the gradients of x in place."""
    if library == "torch" or not all(_is_for_onednn(x, weight) for weight in weights):
        return tuple(F.linear(x, weight) for weight in weights)
    return _Linears.apply(library, x, *weights)


def product(x: Tensor, weight: Tensor, library: str) -> Tensor:
    """Return what ``linear`` returns, without gradients, for the forward and backward passes of other functions."""
    return _onednn(x, weight) if _takes_onednn(x, weight, library) else F.linear(x, weight)


def add_product(total: Tensor, x: Tensor, weight: Tensor, library: str) -> None:
    """Add ``product(x, weight, library)``, [M, N], to ``total`` in its memory."""
    if _takes_onednn(x, weight, library):
        total += _onednn(x, weight)
    else:
        torch.addmm(total, x, weight.mT, out=total)  # addmm_ is not counted by torch's counter of FLOPs


def sum_of_products(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b, or add it to an earlier sum in its memory. The sum is in at least float32."""
    exact = torch.promote_types(a.dtype, torch.float32)
    if total is None:
        return (a @ b).to(exact)
    return torch.addmm(total, a, b, out=total) if a.dtype == exact else total.add_(a @ b)


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return float tensors in the type that autocast, where it is on, gives the factors of a product."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    half = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(half) for x in tensors)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, library: str, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        ctx.set_materialize_grads(False)
        ctx.library = library
        return tuple(product(x, weight, library) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dy_by_map: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        _, needs_dx, *needs_d_weight = ctx.needs_input_grad
        dx: Tensor | None = None
        d_weights: list[Tensor | None] = [None] * len(weights)
        for number, (dy, weight) in enumerate(zip(dy_by_map, weights, strict=True)):
            if dy is None:
                continue
            dy_MN = dy.flatten(0, -2)
            if needs_dx and dx is None:
                dx = product(dy_MN, weight.mT, ctx.library)
            elif dx is not None:
                add_product(dx, dy_MN, weight.mT, ctx.library)
            if needs_d_weight[number]:
                # Both libraries take the same time for it.
                d_weights[number] = dy_MN.mT @ x.flatten(0, -2)
        return None, None if dx is None else dx.view(x.shape), *d_weights


def _takes_onednn(x: Tensor, weight: Tensor, library: str) -> bool:
    """Return whether oneDNN computes a product."""
    if library == "torch" or not _is_for_onednn(x, weight):
        return False
    rows, (N, K) = x.numel() // x.shape[-1], weight.shape
    return library == "onednn" or _is_onednn_faster(rows, K, N, weight.stride(1) == 1)


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN can and should be considered for a product."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= SMALLEST
        # After a convolution tokens are adjacent; torch reads them, and returns the gradient, in this layout.
        and x.stride(-1) == 1
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        # Modes such as the counters of FLOPs and memory know torch's own operators.
        and _get_current_dispatch_mode() is None
        and _has_onednn()
    )


@cache
def _has_onednn() -> bool:
    """Return whether this torch has the operator; some builds lack the library."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return result


def _is_onednn_faster(rows: int, K: int, N: int, transposed: bool) -> bool:
    M = min(1 << (rows.bit_length() - 1), MOST_ROWS)
    return _choice(f"{M}x{K}x{N}{'T' if transposed else ''} on {torch.get_num_threads()}", M, K, N, transposed)


@cache
def _choice(key: str, M: int, K: int, N: int, transposed: bool) -> bool:
    """Return the remembered choice for a shape, or measure it and remember it."""
    machine = hashlib.sha256(f"{instruction_sets()} {torch.__version__} {GAIN} {REPETITIONS}".encode()).hexdigest()[:16]
    path = Path(user_cache_dir("ttt-suite")) / "matmul" / f"{machine}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            choices = _read(path)
            if not isinstance(choices.get(key), bool):
                choices[key] = _measured(M, K, N, transposed)
                scratch = path.with_suffix(".new")
                scratch.write_text(json.dumps(choices, indent=1, sort_keys=True), encoding="utf-8")
                scratch.replace(path)
            return choices[key]
    except OSError as error:
        log.info("kernel.matmul=auto: choices cannot be remembered: %s", error)
        return _measured(M, K, N, transposed)


def _read(path: Path) -> dict[str, bool]:
    try:
        choices = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return choices if isinstance(choices, dict) else {}


def _measured(M: int, K: int, N: int, transposed: bool) -> bool:
    """Return whether oneDNN takes less time, by the shortest of alternating calls, which other work delays least."""
    with torch.inference_mode():
        x, weight = torch.ones(M, K), torch.ones(N, K) if transposed else torch.ones(K, N).mT
        times: dict[Callable[[Tensor, Tensor], Tensor], list[float]] = {F.linear: [], _onednn: []}
        for _ in range(1 + REPETITIONS):
            for call, seconds in times.items():
                start = time.perf_counter()
                call(x, weight)
                seconds.append(time.perf_counter() - start)
    # The first calls of both prepare code for the shape.
    torch_s, onednn_s = (min(seconds[1:]) for seconds in times.values())
    return onednn_s < GAIN * torch_s
