"""Imports of Lightning that take two seconds of processor time less, for the many processes that tests start."""

from functools import cache

from ttt.train.quick_imports import without_unused

_IN_THIS_PROCESS = without_unused()


@cache
def skip_unused_imports() -> None:
    """Hide from torchmetrics what no run needs, to the end of the process. Call it before Lightning is imported."""
    _IN_THIS_PROCESS.__enter__()
