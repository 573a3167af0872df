"""Cross entropy of the output head: of all logits, whose memory it reuses, or of a few tokens' logits at a time.

Shapes: N tokens, C model width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttt.config.schema import KernelConfig
from ttt.kernels.cpu.loss import cross_entropy_
from ttt.kernels.dispatch import computes_compiled
from ttt.kernels.matmul import product, sum_of_products

CACHED_ENTRIES, DEVICE_ENTRIES = 2**18, 2**26
"""Number of logits processed at once: few enough for a CPU's cache; on other devices, enough to make few calls."""

LEAST_ROWS = 1024
"""Tokens whose logits ``head_losses`` computes at once, at least: fewer would make its products slow."""


def head_losses(h_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, kernel: KernelConfig) -> Tensor:
    """Return the cross entropy [N] in nats of the tokens ``targets_N`` under softmax(``h_NC @ weight_VC.T``).

    At a context of 32k all logits would be the largest tensor of a small model. Here those of a few tokens exist at a
    time, and none is kept: the forward pass computes the gradients of h and of the weight for losses of weight 1. The
    backward pass scales them. Only where the tokens' losses have different weights, so that the gradient of the weight
    is another sum, it computes logits again.

    Args:
        h_NC: input of the head; in mixed precision the products are in half precision.
        weight_VC: the head's weight.
        targets_N: ids of the right tokens.
        kernel: its ``matmul`` names the library of the products; on CPUs the compiled kernel computes the losses where
            its ``name`` allows it.
    """
    device = h_NC.device.type
    if torch.is_autocast_enabled(device):
        half = torch.get_autocast_dtype(device)
        h_NC, weight_VC = h_NC.to(half), weight_VC.to(half)
    with torch.autocast(device, enabled=False):
        losses_N: Tensor = _HeadLosses.apply(h_NC, weight_VC, targets_N, kernel, torch.is_grad_enabled())
    return losses_N


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, kernel: KernelConfig, differentiated: bool
    ) -> Tensor:
        exact = torch.promote_types(h_NC.dtype, torch.float32)
        losses_N = h_NC.new_empty(len(h_NC), dtype=exact)
        dh_NC = torch.empty_like(h_NC) if differentiated else None
        d_weight_VC: Tensor | None = None
        for rows in _parts(h_NC, weight_VC):
            h = h_NC[rows]
            logits = product(h, weight_VC, kernel.matmul).to(exact)
            losses_N[rows], d_logits = _losses_and_gradient(logits, targets_N[rows], kernel)
            if dh_NC is not None:
                d_logits = d_logits.to(h.dtype)
                dh_NC[rows] = product(d_logits, weight_VC.mT, kernel.matmul)
                d_weight_VC = sum_of_products(d_weight_VC, d_logits.mT, h)
        ctx.kernel = kernel
        ctx.save_for_backward(h_NC, weight_VC, targets_N, dh_NC, d_weight_VC)
        return losses_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        h_NC, weight_VC, targets_N, dh_NC, d_weight_VC = ctx.saved_tensors
        # A mean over all tokens: autograd expands one number. Comparing numbers would wait for a GPU.
        if upstream_N.stride(0) == 0:
            d_weight_VC = d_weight_VC * upstream_N[0]
        else:
            exact, d_weight_VC = d_weight_VC.dtype, None
            for rows in _parts(h_NC, weight_VC):
                logits = product(h_NC[rows], weight_VC, ctx.kernel.matmul).to(exact)
                _, d_logits = _losses_and_gradient(logits, targets_N[rows], ctx.kernel)
                d_logits = d_logits.mul_(upstream_N[rows, None]).to(h_NC.dtype)
                d_weight_VC = sum_of_products(d_weight_VC, d_logits.mT, h_NC[rows])
        dh_NC = (dh_NC * upstream_N[:, None]).to(h_NC.dtype)
        return dh_NC, d_weight_VC.to(weight_VC.dtype), None, None, None


def _parts(h_NC: Tensor, weight_VC: Tensor) -> Iterator[slice]:
    entries = CACHED_ENTRIES if h_NC.device.type == "cpu" else DEVICE_ENTRIES
    size = max(LEAST_ROWS, entries // len(weight_VC))
    # One part of no rows, if there are none.
    return (slice(start, start + size) for start in range(0, max(1, len(h_NC)), size))


def _losses_and_gradient(logits: Tensor, targets: Tensor, kernel: KernelConfig) -> tuple[Tensor, Tensor]:
    """Return the cross entropy and its gradient in the memory of the logits, or in that of their log-probabilities."""
    if computes_compiled(kernel, logits):
        return cross_entropy_(logits, targets), logits
    log_p, targets = logits.log_softmax(-1), targets[:, None]
    losses = -log_p.gather(-1, targets)[:, 0]
    return losses, log_p.exp_().scatter_add_(-1, targets, log_p.new_full((), -1).expand(targets.shape))


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
