"""The inner learning rate: per token and head, and its scale within a mini-batch.

Shapes: B batch, H heads, T tokens, C model width, D head width, b mini-batch size.
"""

import torch
from torch import Tensor


def inner_learning_rate(x_BTC: Tensor, weight_HC: Tensor, bias_H: Tensor, eta_base: Tensor | float) -> Tensor:
    """Return the rate eta [B, H, T] = eta_base * sigmoid(x theta_lr + beta_lr) (Section 2.7).

    Args:
        x_BTC: the layer's input.
        weight_HC: theta_lr.
        bias_H: beta_lr.
        eta_base: the upper limit of the rate; the released code divides it by D.
    """
    logits_BTH = x_BTC @ weight_HC.to(x_BTC.dtype).mT + bias_H.to(x_BTC.dtype)
    return eta_base * torch.sigmoid(logits_BTH).transpose(1, 2)


def token_scale(delta_b: Tensor) -> Tensor:
    """Return the scale tau [b] = max(0, 1 / i + delta_i) at position i = 1..b, as in the released code."""
    position = torch.arange(1, delta_b.numel() + 1, device=delta_b.device, dtype=delta_b.dtype)
    return torch.clamp(1 / position + delta_b, min=0)
