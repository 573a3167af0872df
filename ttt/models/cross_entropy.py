"""Cross entropy that reuses the memory of its logits.

Shapes: N tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED_ENTRIES, DEVICE_ENTRIES = 2**18, 2**26
"""Number of logits processed at once: few enough for a CPU's cache; on other devices, enough to make few calls."""


def cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return the cross entropy [N] in nats of the tokens ``targets_N`` under softmax(``logits_NV``).

    The backward pass overwrites the logits with their gradient: at a context of 32k, separate log-probabilities and
    gradients would take more memory than the rest of a small model. So only one backward pass is possible (torch
    raises an error at a second one), and nothing else may use the logits.
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
        # In this order a small loss keeps its precision.
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
