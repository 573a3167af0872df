"""Floating-point operations of training: a multiplication and an addition count as two.

``ttt.layers.flops`` counts the forward pass; ``FLOPS.md`` beside this file lists the formula of every part.
"""

from ttt.models.language_model import LanguageModel

BACKWARD = 2
"""Matrix products in the backward pass per product in the forward pass: one for the gradient of each factor."""


def training_flops(model: LanguageModel, ctx: int, tokens: int) -> float:
    """Count the matrix products of forward and backward passes over ``tokens`` tokens in sequences of ``ctx``.

    Recomputation by gradient checkpointing is not counted.
    """
    return of_training(model.flops(ctx)) * tokens / ctx


def of_training(forward: int) -> int:
    """Return the FLOPs of forward and backward pass together."""
    return (1 + BACKWARD) * forward
