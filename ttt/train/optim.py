"""The paper's optimisation: AdamW, linear warm-up, cosine (Appendix C)."""

import math

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ttt.config.schema import RecipeConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; norms, biases and other vectors do not.

    A module names further exceptions among its own parameters in ``no_weight_decay``.
    """
    exempt = {
        f"{module_name}.{name}".lstrip(".")
        for module_name, module in model.named_modules()
        for name in getattr(module, "no_weight_decay", ())
    }
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (kept if parameter.ndim < 2 or name in exempt else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def adamw(model: nn.Module, recipe: RecipeConfig) -> Optimizer:
    """The optimizer, at the peak learning rate."""
    beta1, beta2 = recipe.betas
    return AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate, betas=(beta1, beta2))


def warmup_steps(recipe: RecipeConfig, steps: int) -> int:
    """Steps of warm-up of a recipe of ``steps`` steps."""
    return round(recipe.warmup * steps)


def learning_rate(step: int, recipe: RecipeConfig, steps: int) -> float:
    """The rate of step ``step`` = 0 ... ``steps`` - 1: linear to the peak, then a cosine to the final rate."""
    warmup = warmup_steps(recipe, steps)
    peak, final = recipe.learning_rate, recipe.final_learning_rate
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2


def schedule(optimizer: Optimizer, recipe: RecipeConfig, steps: int) -> LambdaLR:
    """``learning_rate`` as a scheduler that is stepped once an optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate(step, recipe, steps) / recipe.learning_rate)


def clip_gradients(model: nn.Module, limit: float) -> torch.Tensor:
    """Scales all gradients down to a total norm of ``limit`` (0: leaves them) and returns the norm before."""
    limit = limit or math.inf
    if isinstance(model, FullyShardedDataParallel):  # only the wrapper sees the shards of all ranks
        return model.clip_grad_norm_(limit)
    return nn.utils.clip_grad_norm_(model.parameters(), limit)
