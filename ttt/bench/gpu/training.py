"""Stage ``train``: the paper's smallest model for 30 steps, the Triton kernels beside the dual form.

Both models have equal weights and read equal batches of Python source, one token a byte, so that nothing has to be
prepared or downloaded.
"""

import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ttt.bench.gpu.card import card
from ttt.bench.gpu.tables import Table
from ttt.config.gpus import gpu_named
from ttt.config.layers import TTTConfig
from ttt.config.schema import BackboneConfig, KernelConfig, SizeConfig
from ttt.models.build import build_model
from ttt.models.language_model import mean_loss

SIZE = SizeConfig("125m", 768, 12, 12, 2048)
LAYERS = {
    "linear": TTTConfig("ttt_linear", inner_model="linear"),
    "mlp": TTTConfig("ttt_mlp", inner_model="mlp", hidden=[4], eta_base=0.1, eta_base_start=0.01),
}
STEPS, BATCH, TOKENS, RATE = 30, 16, 2048, 1e-3
VOCAB = 256
KERNELS = ("triton", "dual")


def train(table: Table, folder: Path, seconds: float) -> None:  # noqa: ARG001 - the limit stops it
    """Add losses and rates of some steps.

    Raises:
        UserError: there is no card.
    """
    device = card()
    for layer in LAYERS:
        compare_training(table, layer, device, SIZE, batches(BATCH, TOKENS, STEPS))


def batches(batch: int, tokens: int, steps: int) -> list[Tensor]:
    """Return a batch of byte ids [B, T + 1] for each step, from the source of Python's library in order of name."""
    needed, text = batch * (tokens + 1) * steps, bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) >= needed:
            break
    ids = torch.frombuffer(bytearray(text[:needed]), dtype=torch.uint8).long()
    return list(ids.reshape(steps, batch, tokens + 1))


def compare_training(table: Table, layer: str, device: torch.device, size: SizeConfig, given: list[Tensor]) -> None:
    """Train a model with each kernel on the same batches, in turns, and add the steps 1, 2, 5, 10, 20 and the last."""
    runs = {kernel: _steps(layer, kernel, device, size, given) for kernel in KERNELS}
    gpu = gpu_named(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    for step in range(1, len(given) + 1):
        measured = {kernel: next(run) for kernel, run in runs.items()}
        if step not in (1, 2, 5, 10, 20, len(given)):
            continue
        cells: dict[str, object] = {"layer": layer, "step": step}
        for kernel, (loss, rate, flops) in measured.items():
            cells |= {f"loss_{kernel}": f"{loss:.4f}", f"tokens_s_{kernel}": f"{rate:,.0f}"}
            if gpu:
                cells[f"MFU_{kernel}"] = f"{100 * flops / gpu.half_flops:.1f}"
        table.add(**cells)


def _steps(
    layer: str, kernel: str, device: torch.device, size: SizeConfig, given: list[Tensor]
) -> Iterator[tuple[float, float, float]]:
    """Yield loss, tokens/s and FLOP/s of the matrix products of both passes, after each step of training."""
    torch.manual_seed(0)
    with device:
        model = build_model(LAYERS[layer], size, BackboneConfig("mamba"), KernelConfig(kernel), VOCAB)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for ids_BS in given:
        ids_BS = ids_BS.to(device)
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = mean_loss(model, ids_BS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shown = loss.item()
        taken, (batch, length) = time.perf_counter() - started, ids_BS.shape
        yield shown, batch * (length - 1) / taken, 3 * batch * model.flops(length - 1) / taken
