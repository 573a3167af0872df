"""Cross entropy in the memory of its logits.

Shapes: N tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED_ENTRIES, DEVICE_ENTRIES = 2**18, 2**26
"""Logits worked on at once: on a CPU what stays in its cache, elsewhere what keeps the number of calls small."""


def cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Cross entropy [N] in nats of the tokens ``targets_N`` under the distributions softmax(``logits_NV``).

    The backward pass writes the gradient over the logits: at a context of 32k, log-probabilities and gradients of
    their own would take more memory than the rest of a small model. So there can be one backward pass alone (torch
    raises at a second one), and nobody else may need the logits.
    """
    return _CrossEntropy.apply(logits_NV, targets_N)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        largest_N, log_sum_N = logits_NV.amax(-1), torch.empty_like(logits_NV[:, 0])
        parts = (x.split(_rows(logits_NV)) for x in (logits_NV, largest_N, log_sum_N))
        for logits, largest, log_sum in zip(*parts, strict=True):
            log_sum.copy_((logits - largest[:, None]).exp_().sum(-1).log_())
        ctx.save_for_backward(logits_NV, largest_N, log_sum_N, targets_N)
        # In this order a small loss keeps its digits.
        return log_sum_N - (logits_NV.gather(-1, targets_N[:, None])[:, 0] - largest_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor, None]:
        logits_NV, *by_token = ctx.saved_tensors
        rows = _rows(logits_NV)
        parts = (x.split(rows) for x in (logits_NV, *by_token, upstream_N))
        for logits, largest, log_sum, targets, upstream in zip(*parts, strict=True):
            logits.sub_(largest[:, None]).sub_(log_sum[:, None]).exp_().mul_(upstream[:, None])
            logits.scatter_add_(-1, targets[:, None], -upstream[:, None])
        return logits_NV, None


def _rows(logits_NV: Tensor) -> int:
    entries = CACHED_ENTRIES if logits_NV.device.type == "cpu" else DEVICE_ENTRIES
    return max(1, entries // logits_NV.shape[1])
