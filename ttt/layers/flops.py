"""Count the matrix products of a module's forward pass: a multiplication and an addition are two FLOPs."""

from torch import nn

from ttt.layers.convolution import CausalConv


def count_flops(module: nn.Module, tokens: int) -> int:
    """Return the FLOPs for one sequence of ``tokens`` tokens: the module's ``flops``, or the sum over its submodules.

    Linear maps and causal convolutions multiply every token by every weight once.
    """
    own = getattr(module, "flops", None)
    if own is not None:
        return own(tokens)
    if isinstance(module, nn.Linear | CausalConv):
        return 2 * tokens * module.weight.numel()
    return sum(count_flops(part, tokens) for part in module.children())
