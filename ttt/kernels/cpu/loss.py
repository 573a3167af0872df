"""The compiled cross entropy of logits with its gradient as a torch operator.

Shapes: N tokens, V vocabulary.
"""

import torch
from torch import Tensor

from ttt.kernels.cpu.build import load, load_unless_compiling

_LIBRARY = torch.library.Library("ttt_cpu", "FRAGMENT")
_LIBRARY.define("cross_entropy_(Tensor(a!) logits, Tensor targets) -> Tensor")


def cross_entropy_(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return the cross entropy [N] in nats and turn the logits into its gradients, softmax(logits) - one_hot(targets).

    Without gradients of its own. Equal inputs give equal bytes for any number of threads.

    Args:
        logits_NV: contiguous, float32 or float64, on the CPU.
        targets_N: ids of the right tokens.

    Raises:
        CompilerError: the kernel cannot be compiled on this machine.
        RuntimeError: inconsistent sizes, or an id that is not in the vocabulary.
    """
    load_unless_compiling()
    losses_N: Tensor = torch.ops.ttt_cpu.cross_entropy_(logits_NV, targets_N)
    return losses_N


@torch.library.register_fake("ttt_cpu::cross_entropy_", lib=_LIBRARY)
def _(logits: Tensor, targets: Tensor) -> Tensor:
    load()
    return logits.new_empty(targets.shape)
