"""The choice between the implementations of a recurrence, by the ``kernel`` group of the configuration."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from ttt.config.errors import bad_value
from ttt.config.schema import KernelConfig
from ttt.kernels.dispatch import PACKAGES, check_name, why_not_here
from ttt.layers.chunks import Recurrence

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecurrenceKernels:
    """The implementations of one recurrence; all have the same arguments.

    Attributes:
        by_token: the recurrence as it is written, for ``kernel=primal`` and single tokens.
        in_chunks: with matrix products in PyTorch, on any device.
        package: the option of the group ``kernel`` for a package's kernels on GPUs.
        load: returns the package's kernels, or None if it is not installed.
        dtypes: the dtypes of tokens that they take.
    """

    by_token: Recurrence
    in_chunks: Recurrence
    package: str
    load: Callable[[], Recurrence | None]
    dtypes: tuple[torch.dtype, ...]

    def check(self, kernel: KernelConfig) -> None:
        """Check that this recurrence has the kernel.

        Raises:
            UserError: no such kernel, another package's, or a package that is not installed.
        """
        check_package(kernel, self.package, self.load)

    def choose(self, kernel: KernelConfig, x: Tensor, tokens: int) -> Recurrence:
        """Return the implementation for ``tokens`` tokens with the device and dtype of ``x``.

        ``auto`` is the package's on a GPU, if it is installed and takes the dtype.

        Raises:
            UserError: the package's kernels were asked for and cannot run.
        """
        if kernel.name == "primal" or tokens == 1:
            return self.by_token
        if kernel.name not in ("auto", self.package):
            return self.in_chunks
        reason = self._why_not(x.device, x.dtype)
        if reason and kernel.name == self.package:
            raise bad_value("kernel.name", kernel.name, f"{reason}; choose auto")
        if reason:
            _log_plain(self.package, str(x.device), reason)
        return self.in_chunks if reason else self._loaded()

    def package_for(self, kernel: KernelConfig, device: torch.device, dtype: torch.dtype, tokens: int) -> str | None:
        """Return the name of the package whose kernels ``choose`` returns for such tokens; None: PyTorch."""
        of_package = kernel.name in ("auto", self.package) and tokens > 1 and not self._why_not(device, dtype)
        return PACKAGES[self.package] if of_package else None

    def _why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Return why the package's kernels cannot take tokens with this device and dtype, or None."""
        if device.type != "cuda":
            return f"it runs on GPUs, not on {device.type}"
        if dtype not in self.dtypes:
            taken = " or ".join(str(each).removeprefix("torch.") for each in self.dtypes)
            return f"it takes {taken}, not {str(dtype).removeprefix('torch.')}"
        return None if self.load() else "it is not installed"

    def _loaded(self) -> Recurrence:
        loaded = self.load()
        assert loaded is not None
        return loaded


def recurrences_of(model: nn.Module) -> set[RecurrenceKernels]:
    """Return the recurrences of the layers in a model."""
    found = (getattr(module, "recurrence", None) for module in model.modules())
    return {each for each in found if isinstance(each, RecurrenceKernels)}


def check_package(kernel: KernelConfig, package: str, load: Callable[[], object]) -> None:
    """Check that ``kernel`` is no package's, or that of ``package``, which ``load`` imports.

    Raises:
        UserError: no such kernel, another package's, or a package that is not installed.
    """
    check_name(kernel)
    if kernel.name not in PACKAGES:
        return
    if kernel.name != package:
        raise bad_value("kernel.name", kernel.name, f"has no kernel for this layer; choose auto or {package}")
    if load() is None:
        reason = f"needs the package {PACKAGES[package]}, which is not installed; choose auto"
        raise bad_value("kernel.name", kernel.name, reason)


def check_device(kernel: KernelConfig, device: torch.device) -> None:
    """Check that ``kernel`` is no package's, or that its kernels run on this kind of device.

    Raises:
        UserError: they do not.
    """
    if kernel.name in PACKAGES and (reason := why_not_here(kernel.name, device)):
        raise bad_value("kernel.name", kernel.name, f"{reason}; choose auto")


@cache
def _log_plain(package: str, device: str, reason: str) -> None:
    """Log once why PyTorch computes the recurrence, where users expect the package: on GPUs."""
    if device != "cpu":
        log.warning("kernel: plain PyTorch on %s instead of the kernels of %s: %s", device, PACKAGES[package], reason)
