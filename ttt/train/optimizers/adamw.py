"""AdamW, the paper's optimizer (Appendix C)."""

from typing import Any

from torch.optim import AdamW

from ttt.config.schema import RecipeConfig
from ttt.train.optimizers.registry import register_optimizer
from ttt.train.optimizers.uncompiled import uncompiled


@register_optimizer("adamw")
def adamw(groups: list[dict[str, Any]], recipe: RecipeConfig) -> AdamW:
    """Return AdamW with the recipe's betas; on GPUs one kernel updates all parameters."""
    beta1, beta2 = recipe.betas
    fused = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return uncompiled(AdamW)(groups, lr=recipe.learning_rate, betas=(beta1, beta2), fused=fused or None)
