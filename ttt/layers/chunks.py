"""Parts of recurrences that are computed chunk by chunk.

Shapes: T tokens, L tokens of a chunk, K chunks, D key width, V value width; ``...`` leading axes, such as batch and
heads.
"""

from collections.abc import Callable
from functools import wraps

import torch
import torch.nn.functional as F
from torch import Tensor

Recurrence = Callable[..., tuple[Tensor, Tensor]]
"""From tensors of all tokens and the state before them to the outputs and the state after them."""


def in_float32(recurrence: Recurrence) -> Recurrence:
    """Compute in float32, or in float64 if the tokens are: 16 bits would lose what a token adds to a long sum.

    The output has the dtype of the first tensor, the state the wider one.
    """

    @wraps(recurrence)
    def exact(*tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        first = tensors[0]
        assert first is not None
        dtype = torch.promote_types(first.dtype, torch.float32)
        with torch.autocast(first.device.type, enabled=False):
            z, S = recurrence(*(x if x is None else x.to(dtype) for x in tensors))
        return z.to(first.dtype), S

    return exact


def in_chunks(x: Tensor, L: int) -> Tensor:
    """Split the tokens into chunks, with zeros after the last: [..., T, D] -> [..., K, L, D]."""
    missing = -x.shape[-2] % L
    x = F.pad(x, (0, 0, 0, missing)) if missing else x
    return x.unflatten(-2, (-1, L))


def joined(x: Tensor, T: int) -> Tensor:
    """Join the chunks and drop the added zeros: [..., K, L, D] -> [..., T, D]."""
    return x.flatten(-3, -2)[..., :T, :]


def differences(sums: Tensor) -> Tensor:
    """Return sums_i - sums_j for j <= i and -inf for j > i: [..., L] -> [..., L, L].

    The sums are of logarithms of decays, which are at most 0, so that the exponential of a difference never overflows.
    """
    pairs = sums[..., :, None] - sums[..., None, :]
    later = torch.full(pairs.shape[-2:], -torch.inf, dtype=sums.dtype, device=sums.device).triu(1)
    # Added in place, which needs no copy, and nothing at all in the backward pass.
    return pairs.add_(later)


def starts_of_chunks(decay: Tensor, added: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """Compute S_{k+1} = decay_k * S_k + added_k over the chunks k.

    Args:
        decay: [..., K, 1 or D, 1].
        added: [..., K, D, V].
        S: the first S [..., D, V].

    Returns:
        S before each chunk [..., K, D, V], and S after the last.
    """
    starts = []
    for decay_k, added_k in zip(decay.unbind(-3), added.unbind(-3), strict=True):
        starts.append(S)
        S = torch.addcmul(added_k, decay_k, S)
    return torch.stack(starts, dim=-3), S
