"""FLOPs of the inner loop's matrix products: a multiplication and an addition are two."""

from itertools import accumulate

from ttt.inner.models.base import InnerModel
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.scan import piece_lengths


def inner_flops(model: InnerModel, head_dim: int, tokens: int, mini_batch_size: int) -> int:
    """Forward pass of one head over one sequence of ``tokens`` tokens: in the dual form where the model has one.

    In the primal form a token costs f_res and its gradient at the train view, and f_res at the test view.
    """
    if isinstance(model, InnerMLP):
        return _dual_flops(model, head_dim, tokens, mini_batch_size)
    return 4 * tokens * model.flops(head_dim)


def _dual_flops(model: InnerMLP, head_dim: int, tokens: int, mini_batch_size: int) -> int:
    """For every layer: output, weight update, a query's product with W, the two of the attention-like correction.

    All layers but the first also take the gradient's way back. Where a mini-batch is read in several pieces, the
    later ones multiply their queries with the sum of steps so far too.
    """
    lengths = piece_lengths(tokens, mini_batch_size)
    pairs = sum(length * length for length in lengths)
    starts = [start % mini_batch_size for start in accumulate(lengths, initial=0)]
    later = sum(length for length, start in zip(lengths, starts, strict=False) if start)
    total = 0
    for layer, (inputs, outputs) in enumerate(model.widths(head_dim)):
        products_with_W = (3 if layer == 0 else 4) * tokens + later
        total += 2 * (products_with_W * inputs * outputs + pairs * (inputs + outputs))
    return total
