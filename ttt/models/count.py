"""Count parameters and FLOPs of a configuration without allocating a model."""

from dataclasses import replace

import torch

from ttt.config.layers import HybridConfig
from ttt.config.schema import TrainConfig
from ttt.models.build import build_model
from ttt.models.flops import training_flops


def count(config: TrainConfig, tokens: int) -> tuple[int, float]:
    """Return the parameters of the model, the tied embedding once, and the FLOPs of training it on ``tokens`` tokens.

    The vocabulary has ``data.vocab_size`` entries. Only one block is built, because all are alike, or the
    pattern of a hybrid.

    Raises:
        UserError: the model cannot be built.
    """
    pattern = len(config.model.pattern) if isinstance(config.model, HybridConfig) else 1
    size = replace(config.size, blocks=pattern)
    with torch.device("meta"):
        model = build_model(config.model, size, config.backbone, config.kernel, config.data.vocab_size)
    others = config.size.blocks // pattern - 1
    parameters = sum(parameter.numel() for parameter in model.parameters())
    parameters += others * sum(parameter.numel() for parameter in model.blocks.parameters())
    model.blocks.extend(list(model.blocks) * others)
    return parameters, training_flops(model, config.ctx.length, tokens)
