"""Progress bars on standard error: redrawn on a terminal, a line now and then in a log file."""

import sys
from collections.abc import Iterable, Sized
from typing import IO, Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
"""Seconds between two lines of a bar where standard error is no terminal."""

LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
"""Such a line, if the end is known."""


def progress_bar(iterable: Iterable[Any] | None = None, *, show: bool = True, **options: Any) -> tqdm:
    """Return a bar of tqdm, which writes no carriage returns where standard error is no terminal.

    There it writes a line every 10 seconds at most, and at its end one more unless ``leave`` is False.

    Args:
        iterable: counted while it is read; None: the caller calls ``update``.
        show: False: write nothing.
        **options: those of tqdm, such as ``desc``, ``total``, ``unit`` and ``leave``.
    """
    if sys.stderr.isatty():
        return tqdm(iterable, disable=not show, **options)
    total = options.get("total") or (len(iterable) if isinstance(iterable, Sized) else None)
    options |= {"file": _Lines(sys.stderr), "bar_format": LINE if total else None}
    options |= dict.fromkeys(("mininterval", "maxinterval"), SECONDS_BETWEEN_LINES)
    return _CalmBar(iterable, disable=not show, **options)


class _CalmBar(tqdm):
    """A bar that says nothing before it has begun to count."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the state, or ``msg``."""
        if self.n > self.initial:
            super().display(msg, pos)


class _Lines:
    """A file for tqdm: what tqdm writes over an earlier state becomes a line of its own."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, text: str) -> None:
        """Write the text as a line, without the characters that move a terminal's cursor; nothing if it is empty."""
        if line := text.strip("\r\n "):
            self.file.write(f"{line}\n")

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()
