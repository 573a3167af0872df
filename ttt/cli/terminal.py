"""Output in colours, by rich, where standard output is a terminal; elsewhere the same text as it is."""

import sys
from collections.abc import Mapping
from typing import IO

Styles = Mapping[str, str]
"""Style of rich -> regular expression of the text that has it."""

COMMANDS: Styles = {
    "bold": r"(?m)^usage:|^[A-Z][\w' ]+:$|\bttt(?:-[a-z]+)?(?= )",
    "cyan": r"(?<![\w.])(?:--[a-z][a-z-]*|\+?[a-z_][\w.]*(?==))",
}
"""Of help texts and lists of commands."""

STATES: Styles = {
    "green": r"(?m)\b(?:finished|made)\b|^ +HELD\b|: held$",
    "red": r"(?m)\b(?:failed|diverged|killed|timed out|preempted|orphaned|deleted)\b|^ +REVERSED\b|: reversed$",
    "yellow": r"(?m)\b(?:running|queued|waiting|stopped|interrupted|cancelled)\b|^ +NOT RESOLVED\b|: not resolved$",
}
"""Of tables of runs and of claims."""

FIGURES: Styles = {"bold": r"(?m)^\w+(?=: )", "cyan": r"(?m)^  (?:paper|needs|from):"}
"""Of the list of figures."""


def show(text: str, styles: Styles, heading: bool = False) -> None:
    """Print a text.

    Args:
        text: its lines, which stay as they are.
        styles: its colours on a terminal.
        heading: whether its first line is the heading of a table, which a terminal shows in bold.
    """
    if not sys.stdout.isatty():
        print(text, flush=True)
        return
    _print(text, {**styles, "bold blue": r"\A.*"} if heading else styles, sys.stdout)


def show_error(line: str) -> None:
    """Print ``error: line`` on standard error."""
    if sys.stderr.isatty():
        _print(f"error: {line}", {"bold red": r"\Aerror:"}, sys.stderr)
    else:
        print(f"error: {line}", file=sys.stderr)


def _print(text: str, styles: Styles, file: IO[str]) -> None:
    # Imported here: most output goes into files and pipes, and a command that has failed should say so at once.
    from rich.console import Console
    from rich.text import Text

    styled = Text(text)
    for style, pattern in styles.items():
        styled.highlight_regex(pattern, style)
    Console(file=file).print(styled, soft_wrap=True)
