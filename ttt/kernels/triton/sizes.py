"""Sizes that determine a kernel's code and the counts of its work. This module does not import Triton."""

KB = 1024

SMALL_SHARED = 99 * KB
"""Bytes of shared memory of a program on sm_86 and sm_89, the least of NVIDIA's GPUs since sm_80."""

RESIDENT_HEAD_DIM = 64
"""Largest D with which dW of TTT-Linear stays in registers: one of 128 x 128 would take half of them."""

DEFAULT_GROUP = {1: 16, 2: 64}
"""Layers of the inner model -> mini-batches per kept W. A larger group keeps fewer W for the whole sequence and needs
more scratch for one group. W of TTT-MLP is 2 F times as large as a token's view: kept every 16 mini-batches, it would
cost the forward pass as much memory traffic as its views."""

LARGEST_GROUP = 128
"""Mini-batches per kept W of TTT-Linear if few programs run; with more, launches take no noticeable time."""

GROUP_SCRATCH = 32_000_000
"""Bytes of scratch of one group that leave room for other values in the L2 cache: 50 MB on an H100, 40 on an A100."""

MLP_ACTIVATIONS = 6
"""Scratch tensors [B, H, b, F] of ``mlp_backward`` for the activations of one mini-batch."""


def unsupported_sizes(head_dim: int, hidden: tuple[int, ...], mini_batch_size: int) -> str | None:
    """Return the reason why no Triton kernel has these sizes, or None; see ``ttt.kernels.triton.op.unsupported``."""
    if not 1 <= head_dim <= 128:
        return f"it supports head widths up to 128, not {head_dim}"
    if len(hidden) > 1 or any(width % 16 or width < 1 for width in hidden):
        return f"it supports one hidden layer whose width is a multiple of 16, not {hidden}"
    if not 1 <= mini_batch_size <= 64:
        return f"it supports mini-batches of up to 64 tokens, not b = {mini_batch_size}"
    return None


def default_group(layers: int, programs: int, head_dim: int, itemsize: int) -> int:
    """Return the mini-batches per kept W: ``DEFAULT_GROUP``, or more for TTT-Linear while few programs run.

    Its backward pass launches two kernels per group. At 32k tokens and b = 16 those are 256 launches a layer in groups
    of 16: with 32 programs Python launches them no faster than a GPU computes them. A larger group takes fewer launches
    and gives the same bytes.

    Args:
        layers: of the inner model, 1 or 2.
        programs: sequences times heads.
        head_dim: D.
        itemsize: bytes per number of the views.
    """
    group = DEFAULT_GROUP[layers]
    scratch = programs * (head_dim * head_dim * itemsize + 4 * head_dim)
    while layers == 1 and 2 * group <= LARGEST_GROUP and 2 * group * scratch <= GROUP_SCRATCH:
        group *= 2
    return group


def padded(size: int) -> int:
    """Return the side of a tile: a power of two of at least 16, as tl.dot needs."""
    return max(16, 1 << (size - 1).bit_length())


def forward_warps(head_dim: int) -> int:
    """Return the warps of a program of the forward kernels on NVIDIA's GPUs, except of ``mlp_forward_on_chip``."""
    return 4 if head_dim <= 64 else 8
