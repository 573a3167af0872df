"""Count parameters and FLOPs of a configuration without allocating a model."""

import torch

from ttt.config.schema import TrainConfig
from ttt.models.build import build_model
from ttt.models.flops import training_flops


def count(config: TrainConfig, tokens: int) -> tuple[int, float]:
    """Return the parameters of the model, the tied embedding once, and the FLOPs of training it on ``tokens`` tokens.

    The vocabulary has ``data.vocab_size`` entries.

    Raises:
        UserError: the model cannot be built.
    """
    with torch.device("meta"):
        model = build_model(config.model, config.size, config.backbone, config.kernel, config.data.vocab_size)
    return sum(parameter.numel() for parameter in model.parameters()), training_flops(model, config.ctx.length, tokens)
