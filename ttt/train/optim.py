"""Parameter groups of the optimizer, and the paper's schedule: linear warm-up, cosine (Appendix C)."""

import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ttt.config.schema import RecipeConfig
from ttt.train.optimizers.registry import build_optimizer

FSDP_PREFIX = "_fsdp_wrapped_module."
"""Prefix that FSDP adds to the names of parameters."""


def decayed_parameters(model: nn.Module, decay: str = "matrices") -> frozenset[str]:
    """Return the names of the parameters with weight decay: matrices, but not norms, biases and other vectors.

    A module lists further exceptions among its own parameters in ``no_weight_decay``. With ``decay="all"`` there are
    no exceptions, as in the authors' JAX code, where ``get_weight_decay_exclusions`` is empty.
    """
    if decay == "all":
        return frozenset(name for name, _ in model.named_parameters())
    exempt = {
        f"{module_name}.{name}".lstrip(".")
        for module_name, module in model.named_modules()
        for name in getattr(module, "no_weight_decay", ())
    }
    return frozenset(name for name, p in model.named_parameters() if p.ndim >= 2 and name not in exempt)


def make_optimizer(model: nn.Module, decayed: frozenset[str], recipe: RecipeConfig) -> Optimizer:
    """Return the recipe's optimizer, at the peak learning rate.

    Args:
        model: possibly sharded by FSDP.
        decayed: the result of ``decayed_parameters`` before sharding, which flattens parameters.
        recipe: the optimizer's name, rates and weight decay.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name.replace(FSDP_PREFIX, "") in decayed].append(parameter)
    decay = {True: recipe.weight_decay, False: 0.0}
    return build_optimizer([{"params": groups[kind], "weight_decay": decay[kind]} for kind in (True, False)], recipe)


def warmup_steps(recipe: RecipeConfig, steps: int) -> int:
    """Return the number of warm-up steps of a recipe of ``steps`` steps."""
    return round(recipe.warmup * steps)


def learning_rate(step: int, recipe: RecipeConfig, steps: int) -> float:
    """Return the rate of step 0 ... ``steps`` - 1: linear to the peak, then cosine to the final rate."""
    warmup = warmup_steps(recipe, steps)
    peak, final = recipe.learning_rate, recipe.final_learning_rate
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2


def schedule(optimizer: Optimizer, recipe: RecipeConfig, steps: int) -> LambdaLR:
    """Return ``learning_rate`` as a scheduler, to be stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate(step, recipe, steps) / recipe.learning_rate)


def clip_gradients(model: nn.Module, limit: float) -> torch.Tensor:
    """Scale all gradients down to a total norm of ``limit`` (0: no limit) and return the norm before scaling."""
    limit = limit or math.inf
    # A model sharded by FSDP clips itself: only it sees the shards of all ranks. It is known by this method, because an
    # import of FSDP takes every run half a second.
    if callable(clip := getattr(model, "clip_grad_norm_", None)):
        norm: torch.Tensor = clip(limit)
        return norm
    return nn.utils.clip_grad_norm_(model.parameters(), limit)
