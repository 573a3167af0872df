"""Sizes that determine a kernel's code and the counts of its work. This module does not import Triton."""

KB = 1024

SMALL_SHARED = 99 * KB
"""Bytes of shared memory of a program on sm_86 and sm_89, the least of NVIDIA's GPUs since sm_80."""

RESIDENT_HEAD_DIM = 64
"""Largest D with which dW of TTT-Linear stays in registers: one of 128 x 128 would take half of them."""


def padded(size: int) -> int:
    """Return the side of a tile: a power of two of at least 16, as tl.dot needs."""
    return max(16, 1 << (size - 1).bit_length())


def forward_warps(head_dim: int) -> int:
    """Return the warps of a program of the forward kernels on NVIDIA's GPUs, except of ``mlp_forward_on_chip``."""
    return 4 if head_dim <= 64 else 8
