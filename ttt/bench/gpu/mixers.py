"""Stage ``mixers``: whole sequence mixers at equal width and tokens: TTT, attention, and other layers if installed.

65,536 tokens of width 4096 at every length, the shapes at which flash-linear-attention publishes its times.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ttt.bench.gpu.card import card
from ttt.bench.gpu.operators import Sizes, random_inputs, rotation_table
from ttt.bench.gpu.tables import Table
from ttt.bench.timing import clock_of, repeated
from ttt.config.errors import first_line

LENGTHS = (2048, 8192, 32768)
ALL_TOKENS, WIDTH = 65536, 4096
WIDE_HEADS = 128
"""Head width of the layers of flash-linear-attention."""

STATES = 16
"""Mamba's state size."""

Mixer = Callable[[], Tensor]
Build = Callable[[int, int, int, torch.device], tuple[Mixer, list[Tensor]]]
"""``(B, T, width, device)`` -> the forward pass, and the tensors to differentiate."""


def mixers(table: Table, folder: Path, seconds: float) -> None:  # noqa: ARG001 - the limit stops it
    """Add a line for each mixer at each length.

    Raises:
        UserError: there is no card.
    """
    device = card()
    for tokens in LENGTHS:
        measure(table, ALL_TOKENS // tokens, tokens, WIDTH, device)


def measure(table: Table, B: int, T: int, width: int, device: torch.device) -> None:
    """Add a line for each mixer; one that is not installed or does not fit in memory is named."""
    for name, build in MIXERS.items():
        cells = {"mixer": name, "tokens": T, "B": B}
        try:
            forward, both = _times(build, B, T, width, device)
        except ImportError as error:
            table.add(**cells, note=f"not installed: {first_line(error)}")
        except torch.OutOfMemoryError:
            table.add(**cells, note="does not fit in memory")
        except Exception as error:  # another library's error must not stop the other mixers
            table.add(**cells, note=f"{type(error).__name__}: {first_line(error)}"[:80])
        else:
            rate = f"{B * T / both:,.0f}"
            table.add(**cells, forward_ms=f"{1e3 * forward:.2f}", both_ms=f"{1e3 * both:.2f}", tokens_s=rate)


def _times(build: Build, B: int, T: int, width: int, device: torch.device) -> tuple[float, float]:
    """Return the seconds of the forward pass and of both passes."""
    forward, leaves = build(B, T, width, device)
    upstream = torch.randn_like(forward())

    def both() -> object:
        return torch.autograd.grad(forward(), leaves, upstream, allow_unused=True)

    clock = clock_of(device)
    both()
    with torch.no_grad():
        alone = repeated(clock("s", forward))["s"]
    return alone, repeated(clock("s", both))["s"]


def _ttt(layer: str, B: int, T: int, width: int, device: torch.device) -> tuple[Mixer, list[Tensor]]:
    from ttt.kernels.triton.op import inner_loop

    inputs = random_inputs(Sizes(layer, "bf16" if device.type == "cuda" else "fp32", B, width // 64, T), device)
    leaves: list[Any] = [x.requires_grad_() for x in (*inputs.W, *(x.detach() for x in inputs[1:]))]
    n = len(inputs.W)
    scale, shift, q, k, v, eta, tau = leaves[n:]
    rotation = rotation_table(inputs)
    return lambda: inner_loop(tuple(leaves[:n]), scale, shift, q, k, v, eta, tau, rotation=rotation)[0], leaves


def _normal(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device, dtype=torch.bfloat16).requires_grad_()


def _attention(B: int, T: int, width: int, device: torch.device) -> tuple[Mixer, list[Tensor]]:
    q, k, v = (_normal(device, B, width // 64, T, 64) for _ in range(3))
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), [q, k, v]


def _gated_delta(B: int, T: int, width: int, device: torch.device) -> tuple[Mixer, list[Tensor]]:
    kernel: Any = import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule
    H = width // WIDE_HEADS
    q, k, v = (_normal(device, B, T, H, WIDE_HEADS) for _ in range(3))
    decay = F.logsigmoid(torch.randn(B, T, H, device=device)).requires_grad_()
    beta = torch.rand(B, T, H, device=device, dtype=torch.bfloat16).requires_grad_()
    return lambda: kernel(q, F.normalize(k, dim=-1), v, decay, beta)[0], [q, k, v, decay, beta]


def _gated_linear(B: int, T: int, width: int, device: torch.device) -> tuple[Mixer, list[Tensor]]:
    kernel: Any = import_module("fla.ops.gla").chunk_gla
    H = width // WIDE_HEADS
    q, k, v = (_normal(device, B, T, H, WIDE_HEADS) for _ in range(3))
    decay = F.logsigmoid(torch.randn(B, T, H, WIDE_HEADS, device=device)).requires_grad_()
    return lambda: kernel(q, k, v, decay)[0], [q, k, v, decay]


def _mamba(B: int, T: int, width: int, device: torch.device) -> tuple[Mixer, list[Tensor]]:
    kernel: Any = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    u, delta = _normal(device, B, width, T), _normal(device, B, width, T)
    A = -torch.rand(width, STATES, device=device).requires_grad_()
    inputs, outputs = _normal(device, B, STATES, T), _normal(device, B, STATES, T)
    return lambda: kernel(u, delta, A, inputs, outputs, delta_softplus=True), [u, delta, inputs, outputs]


MIXERS: dict[str, Build] = {
    "TTT-Linear": partial(_ttt, "linear"),
    "TTT-MLP": partial(_ttt, "mlp"),
    "attention": _attention,
    "fla GDN": _gated_delta,
    "fla GLA": _gated_linear,
    "mamba_ssm": _mamba,
}
