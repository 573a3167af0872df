"""Imports of Lightning that take two seconds of processor time less, for the many processes that tests start."""

from lightning_utilities.core import imports
from lightning_utilities.core.imports import RequirementCache

UNUSED = ("transformers", "matplotlib", "scipy")


def skip_unused_imports() -> None:
    """Hide from torchmetrics, which Lightning imports, three packages that it imports wherever they are installed.

    Only text and plotted metrics need them, and no run has such a metric. Call it before Lightning is imported.
    """
    check = RequirementCache._check_available

    def without_unused(self: RequirementCache) -> None:
        if (self.requirement or "").partition(">")[0] in UNUSED:
            self.available, self.message = False, "not imported in tests"
        else:
            check(self)

    found = imports.package_available
    RequirementCache._check_available = without_unused  # type: ignore[method-assign]
    imports.package_available = lambda name: name not in UNUSED and found(name)
