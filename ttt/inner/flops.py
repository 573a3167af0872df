"""FLOPs of the inner loop's matrix products (a multiplication and an addition are two); see ``ttt/models/FLOPS.md``."""

from itertools import accumulate

from ttt.inner.models.base import InnerModel
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.scan import chunk_lengths


def inner_flops(model: InnerModel, head_dim: int, tokens: int, mini_batch_size: int) -> int:
    """Return the FLOPs of one head's forward pass over one sequence, in the dual form if the model has one.

    In the primal form each token evaluates f_res and its gradient at the train view, and f_res at the test view.
    """
    if isinstance(model, InnerMLP):
        return _dual_flops(model, head_dim, tokens, mini_batch_size)
    return 4 * tokens * model.flops(head_dim)


def _dual_flops(model: InnerMLP, head_dim: int, tokens: int, mini_batch_size: int) -> int:
    """Count the dual form (Section 2.5), layer by layer of the inner model.

    A mini-batch longer than the longest chunk is split: queries after the first chunk are also multiplied by the sum
    of the earlier gradients, and only tokens of the same chunk interact in pairs.
    """
    lengths = chunk_lengths(tokens, mini_batch_size)
    starts = [start % mini_batch_size for start in accumulate(lengths, initial=0)]
    later = sum(length for length, start in zip(lengths, starts, strict=False) if start)
    pairs = sum(length * length for length in lengths)
    total = 0
    for layer, (inputs, outputs) in enumerate(model.widths(head_dim)):
        weights = inputs * outputs
        forward = tokens * weights  # X W, of the train view
        gradient = tokens * weights if layer else 0  # G W^T, back to the previous layer
        update = tokens * weights  # X^T G
        output = (tokens + later) * weights + pairs * (inputs + outputs)  # X_bar W, X_bar X^T and its product with G
        total += 2 * (forward + gradient + update + output)
    return total
