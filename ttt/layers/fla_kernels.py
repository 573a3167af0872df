"""Adapters for the kernels of the package flash-linear-attention (``fla``), which run on GPUs.

Shapes: B batch, H heads, T tokens, D key width, V value width. The kernels take tokens before heads, and a state in
float32. They have not been run with these adapters: the tests replace them by the recurrences that they document.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ttt.layers.chunks import Recurrence

DTYPES = (torch.bfloat16, torch.float16)
"""Dtypes of tokens: the package's delta rule refuses float32."""


@cache
def delta_rule() -> Recurrence | None:
    """Return the package's delta rule, with or without a decay, or None if it is not installed.

    Arguments and results are those of ``ttt.layers.delta_rule.delta_rule_by_token``.
    """
    plain = _imported("fla.ops.delta_rule", "chunk_delta_rule")
    gated = _imported("fla.ops.gated_delta_rule", "chunk_gated_delta_rule")
    if plain is None or gated is None:
        return None

    def kernel(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
        tokens = {"q": q, "k": k, "v": v, "beta": beta.to(q.dtype)}
        if g is None:
            return _called(plain, tokens, S)
        return _called(gated, tokens | {"g": g.float()}, S)

    return kernel


@cache
def decayed_sum() -> Recurrence | None:
    """Return the package's gated linear attention, with a decay for each row, or None if it is not installed.

    Arguments and results are those of ``ttt.layers.decayed_sum.decayed_sum_by_token``.
    """
    chunk_gla = _imported("fla.ops.gla", "chunk_gla")
    if chunk_gla is None:
        return None

    def kernel(q: Tensor, k: Tensor, v: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        return _called(chunk_gla, {"q": q, "k": k, "v": v, "g": g.float()}, S)

    return kernel


def _imported(module: str, name: str) -> Callable[..., Any] | None:
    try:
        return getattr(import_module(module), name)
    except ImportError:
        return None


def _called(function: Callable[..., Any], tokens: dict[str, Tensor], S: Tensor) -> tuple[Tensor, Tensor]:
    # Queries are scaled by the layer.
    tokens = {name: x.transpose(1, 2).contiguous() for name, x in tokens.items()}
    z_BTHV, S = function(**tokens, scale=1.0, initial_state=S.float(), output_final_state=True)
    return z_BTHV.transpose(1, 2), S
