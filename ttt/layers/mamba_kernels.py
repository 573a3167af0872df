"""Adapters for the kernels of the ``mamba_ssm`` package, which run on CUDA devices.

Shapes: B batch, T tokens, E inner width, N state size; for Mamba-2 H heads of P channels, G groups of heads. The
kernels have not been run with these adapters: the tests replace them by the package's reference formulas.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ttt.layers.chunks import Recurrence

GatedScan = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]
]
"""``(u_BTE, dt_BTE, A_EN, B_BTN, C_BTN, D_E, z_BTE, dt_bias_E, h_BEN)`` -> the scan from h with softplus(dt + dt_bias),
times SiLU(z), and the last state."""


DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""Dtypes of tokens that Mamba-2's kernels take."""

MAMBA_2_CHUNK = 256
"""The package's default."""


@cache
def scan() -> GatedScan | None:
    """Return the package's fused scan, which starts from h = 0, or None if it is not installed.

    No gradient flows through its last state, which is therefore detached.
    """
    try:
        # The package can be imported without its compiled part, and then fails when it is called.
        import_module("selective_scan_cuda")
        selective_scan = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    except ImportError:
        return None

    def fused_scan(*inputs: Any) -> tuple[Tensor, Tensor]:
        u, dt, A, B, C, D, z, dt_bias, h = inputs
        assert h is None
        # The kernel takes time as the last axis, and parameters in float32.
        u, dt, B, C, z = (x.transpose(1, 2) for x in (u, dt, B, C, z))
        A, D, dt_bias = A.float(), D.float(), dt_bias.float()
        y_BET, last_BEN = selective_scan(
            u, dt, A, B, C, D, z=z, delta_bias=dt_bias, delta_softplus=True, return_last_state=True
        )
        return y_BET.transpose(1, 2), last_BEN.detach()

    return fused_scan


@cache
def step() -> GatedScan | None:
    """Return the package's kernel for one token of decoding (T = 1, no gradient), or None if it is not installed."""
    try:
        update = import_module("mamba_ssm.ops.triton.selective_state_update").selective_state_update
    except ImportError:
        return None

    def fused_step(*inputs: Any) -> tuple[Tensor, Tensor]:
        u, dt, A, B, C, D, z, dt_bias, h = inputs
        u, dt, B, C, z = (x.squeeze(1) for x in (u, dt, B, C, z))
        # The kernel overwrites its state, and callers may keep theirs.
        h = h.clone()
        y_BE = update(h, u, dt, A, B, C, D, z=z, dt_bias=dt_bias, dt_softplus=True)
        return y_BE.unsqueeze(1), h

    return fused_step


@cache
def state_space() -> Recurrence | None:
    """Return the package's chunked scan of Mamba-2, or None if it is not installed.

    Arguments and results are those of ``ttt.layers.mamba2.state_space``.
    """
    try:
        scan = import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    except ImportError:
        return None

    def fused_scan(
        u_BTHP: Tensor, delta_BTH: Tensor, A_H: Tensor, B_BTGN: Tensor, C_BTGN: Tensor, h_BHNP: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = (x.contiguous() for x in (u_BTHP, delta_BTH.float(), A_H.float(), B_BTGN, C_BTGN))
        before = h_BHNP.mT.contiguous()
        y_BTHP, h_BHPN = scan(*inputs, chunk_size=MAMBA_2_CHUNK, initial_states=before, return_final_states=True)
        return y_BTHP, h_BHPN.mT.contiguous()

    return fused_scan
