"""Parameters and FLOPs of a configuration, without the memory of a model."""

import torch

from ttt.config.schema import TrainConfig
from ttt.models.build import build_model
from ttt.models.flops import training_flops


def count(config: TrainConfig, tokens: int) -> tuple[int, float]:
    """Parameters of the model, the tied embedding once, and FLOPs of training it on so many tokens.

    The vocabulary is taken as ``data.vocab_size``.

    Raises:
        UserError: the model cannot be built.
    """
    with torch.device("meta"):
        model = build_model(config.model, config.size, config.backbone, config.kernel, config.data.vocab_size)
    return sum(parameter.numel() for parameter in model.parameters()), training_flops(model, config.ctx.length, tokens)
