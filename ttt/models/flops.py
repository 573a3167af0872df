"""Floating-point operations of training: a multiplication and an addition count as two.

``ttt.layers.flops`` counts the forward pass; ``FLOPS.md`` beside this file has the formula of every part.
"""

from ttt.models.language_model import LanguageModel

BACKWARD = 2
"""Each matrix product of the forward pass has two in the backward pass, one for each factor's gradient."""


def training_flops(model: LanguageModel, ctx: int, tokens: int) -> float:
    """Matrix products of the forward and backward pass over ``tokens`` tokens in sequences of ``ctx``.

    What gradient checkpointing computes again is not counted.
    """
    return (1 + BACKWARD) * model.flops(ctx) * tokens / ctx
