"""Modules whose operations have a faster implementation on CPUs, chosen by the ``kernel`` group."""

from torch import nn

from ttt.config.schema import KernelConfig


class ByKernel:
    """A module with a choice of implementations.

    Attributes:
        kernel: what names the implementation.
    """

    kernel = KernelConfig()


def set_kernel(module: nn.Module, kernel: KernelConfig) -> None:
    """Set the kernel of a module and of all modules in it."""
    for each in module.modules():
        if isinstance(each, ByKernel):
            each.kernel = kernel
