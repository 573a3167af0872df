"""``ttt-plot compare``: a picture, and on request a table, of any runs over any keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ttt.cli.arguments import Arguments

if TYPE_CHECKING:
    from ttt.analysis.question import Comparison, Question
    from ttt.analysis.store import Results

COMPARE = "compare"
"""Name given in place of a figure's name."""

KEYS = {"x": "KEY", "y": "VALUE", "z": "KEY", "lines": "KEY,KEY"}
"""Key of the command line -> placeholder of its value."""

TABLE = "--table"

MAP = "compare_map"
"""Name of the files of a heat map that is drawn beside curves."""


def compare(results: Results, arguments: Arguments, out: Path) -> None:
    """Draw the comparison that the command line asks for; with ``--table``, also write and print its table.

    If it asks for no axes, curves over two numeric keys have a heat map beside them.

    Raises:
        UserError: a key or measured value that no run has; nothing to compare; a file that cannot be written.
    """
    # Imported here: the imports take seconds, and help and usage errors do not need them.
    from ttt.analysis.question import Question, compare_runs
    from ttt.plots.compare import figure_of, warnings
    from ttt.plots.compare_table import WRITERS, as_markdown
    from ttt.plots.files import save, stopped_note
    from ttt.results.atomic import write_text

    values = arguments.values
    lines = tuple(key.strip() for key in values.get("lines", "").split(",") if key.strip())
    asked = {key: values[key] for key in ("x", "y", "z") if key in values}
    comparison = compare_runs(results, Question(lines=lines, **asked))
    figure = figure_of(comparison)
    note = stopped_note(results, comparison.table)
    paths = save(figure, comparison.table, out, note)
    if not lines and not {"x", "z"} & asked.keys() and (question := _as_heat_map(comparison)):
        heat_map = compare_runs(results, question)
        paths += save(figure_of(heat_map, MAP), heat_map.table, out, note)
    if TABLE in arguments.flags:
        for kind, written in WRITERS.items():
            paths.append(out / f"{figure.id}_table.{kind}")
            write_text(paths[-1], written(comparison))
        print(as_markdown(comparison))
    print("\n".join(map(str, paths)))
    for sentence in warnings(comparison):
        print(sentence, file=sys.stderr)


def _as_heat_map(comparison: Comparison) -> Question | None:
    """Return the question of the heat map of curves over two numeric keys, if runs fill at least half of it."""
    from ttt.analysis.question import Question

    axes, table = comparison.axes, comparison.table
    if comparison.x is not None or not axes.x or len(axes.lines) != 1 or table[axes.lines[0]].dtype.kind not in "if":
        return None
    cells = table[[axes.x, axes.lines[0]]].dropna()
    most = cells[axes.x].nunique() * cells[axes.lines[0]].nunique()
    return Question(axes.x, comparison.y.name, axes.lines[0]) if 2 * len(cells.drop_duplicates()) >= most else None
