"""Imports of Lightning that take two seconds of processor time less, for the many processes that tests start."""

from lightning_utilities.core.imports import RequirementCache

UNUSED = ("transformers", "matplotlib")


def skip_unused_imports() -> None:
    """Hide from torchmetrics, which Lightning imports, two packages that it imports wherever they are installed.

    Only text and plotted metrics need them, and no run has such a metric. Call it before Lightning is imported.
    """
    check = RequirementCache._check_available

    def without_unused(self: RequirementCache) -> None:
        if (self.requirement or "").partition(">")[0] in UNUSED:
            self.available, self.message = False, "not imported in tests"
        else:
            check(self)

    RequirementCache._check_available = without_unused  # type: ignore[method-assign]
