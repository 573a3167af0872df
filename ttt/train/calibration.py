"""The speed of training on this device, measured in about a second with random tokens.

Shapes: B sequences of a device's batch, S = T + 1 tokens.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from ttt.config.plan import plan_steps
from ttt.config.schema import TrainConfig
from ttt.layers.compiled import compile_blocks
from ttt.models.build import build_model
from ttt.models.checkpointing import checkpoint_blocks
from ttt.models.device import choose_device, choose_precision
from ttt.models.language_model import mean_loss
from ttt.models.memory import keep_freed_memory
from ttt.train.optim import clip_gradients, decayed_parameters, make_optimizer

SECONDS = 1.0
"""Batches are repeated for this long, at least twice, after a first one that also compiles kernels."""

MOST_FLOPS = {"cpu": 2e11, "mps": 5e12, "cuda": 1e15}
"""Kind of device -> FLOPs of the largest batch to measure: some seconds."""

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def measured_speed(config: TrainConfig, flops_per_token: float, seconds: float | None = None) -> float | None:
    """Return the tokens per second of training on one device, or None if one sequence would take too long.

    It trains on as many sequences as a batch of the run has, or on fewer that fit into ``MOST_FLOPS``. Several devices
    count as one times their number. Batches are repeated for ``seconds``; None: ``SECONDS``.

    Raises:
        UserError: the device is not present, or the model cannot be built.
    """
    trainer, ctx = config.trainer, config.ctx.length
    device = choose_device(trainer.device, "trainer.device")
    fitting = int(MOST_FLOPS[device.type] / (flops_per_token * ctx))
    if fitting == 0:
        return None
    if device.type == "cpu":
        keep_freed_memory()
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    torch.set_float32_matmul_precision(trainer.matmul_precision)
    plan = plan_steps(config)
    batch = min(plan.device_batch, fitting)
    # The updates of a step share its time among its batches.
    step = _one_batch(config, device, batch, plan.accumulate)
    step(0)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = SECONDS if seconds is None else seconds
    started, batches = time.perf_counter(), 0
    while batches < 2 or time.perf_counter() - started < seconds:
        step(batches)
        batches += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    return batches * batch * ctx / (time.perf_counter() - started) * trainer.devices * trainer.nodes


def _one_batch(config: TrainConfig, device: torch.device, batch: int, accumulate: int) -> Callable[[int], None]:
    """Return a function that computes the gradients of batch ``number``, and updates the weights after each step."""
    model = build_model(config.model, config.size, config.backbone, config.kernel, config.data.vocab_size).to(device)
    if config.trainer.compile:
        compile_blocks(model.blocks, device)
    if config.trainer.activation_checkpointing == "blocks":
        checkpoint_blocks(model)
    optimizer = make_optimizer(model, decayed_parameters(model, config.recipe.decay), config.recipe)
    half = HALF.get(choose_precision(config.trainer.precision, device))
    ids_BS = torch.randint(config.data.vocab_size, (batch, config.ctx.length + 1), device=device)

    def step(number: int) -> None:
        with torch.autocast(device.type, half) if half else nullcontext():
            loss = mean_loss(model, ids_BS)
        loss.backward()
        if number % accumulate == 0:
            clip_gradients(model, config.recipe.clip)
            optimizer.step()
            optimizer.zero_grad()

    return step
