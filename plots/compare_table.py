"""The numbers of a comparison over seeds as a table: for people, papers and programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ttt.analysis.names import axis_name, setting_name, shown_value

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from ttt.analysis.question import Comparison

ACROSS = "any"
"""Value of the x axis in the row of a run that has no such key."""

LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "\N{EN DASH}": "--"}


def over_seeds(comparison: Comparison) -> DataFrame:
    """Return a row for each point: its keys and line; mean, min and max of the measured value; number of seeds."""
    axes, y = comparison.axes, comparison.y.name
    keys = [key for key in dict.fromkeys([*axes.keys, "line"]) if comparison.x is None or key != axes.x]
    groups = comparison.table.groupby("point", sort=False)
    rows = groups[keys].first()
    if comparison.x:
        rows[axes.x] = groups[axes.x].mean()
    return rows.join(groups[y].agg(["mean", "min", "max", "count"]).rename(columns={"count": "seeds"}))


def cells(comparison: Comparison) -> list[list[str]]:
    """Return the rows of a table for readers, headings first.

    Lines are columns where a key is on the x axis; otherwise each point has a row.
    """
    axes, points = comparison.axes, over_seeds(comparison)
    panel = [key for key in axes.panel if points[key].nunique() > 1]
    panel_names = [axis_name(key) for key in panel]
    if not axes.x or comparison.x:
        x = [axes.x] if axes.x else []
        head = [*panel_names, "run", *(comparison.x.label for _ in x if comparison.x), comparison.y.label, "seeds"]
        rows = [
            [
                *(shown_value(row[key]) for key in panel),
                row["line"],
                *(f"{row[key]:.4g}" for key in x),
                _cell(row),
                str(row["seeds"]),
            ]
            for _, row in points.iterrows()
        ]
        return [head, *rows]
    column = axes.z or "line"
    names = list(dict.fromkeys(points[column]))
    index = [*panel, *(["line"] if axes.z and points["line"].nunique() > 1 else []), axes.x]
    rows = []
    for values, group in points.groupby(index, dropna=False):
        by_name = {row[column]: _cell(row) for _, row in group.iterrows()}
        shown = [ACROSS if value != value else shown_value(value) for value in values]
        rows.append([*shown, *(by_name.get(name, "") for name in names)])
    heads = [setting_name(axes.z, name) if axes.z else str(name) for name in names]
    return [[axis_name(key) for key in index] + heads, *rows]


def as_csv(comparison: Comparison) -> str:
    """Return ``over_seeds`` as CSV."""
    return str(over_seeds(comparison).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def as_markdown(comparison: Comparison) -> str:
    """Return ``cells`` in Markdown."""
    head, *rows = cells(comparison)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_latex(comparison: Comparison) -> str:
    """Return ``cells`` as a LaTeX tabular, with the rules of the package booktabs."""
    head, *rows = ([_in_latex(cell) for cell in row] for row in cells(comparison))
    body = [_latex_row(row) for row in rows]
    layout = "l" + "r" * (len(head) - 1)
    lines = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", _latex_row(head), r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", ""])


WRITERS: dict[str, Callable[[Comparison], str]] = {"csv": as_csv, "md": as_markdown, "tex": as_latex}
"""End of a file's name -> writer."""


def _cell(row: Series) -> str:
    spread = f" ({row['min']:.4g}\N{EN DASH}{row['max']:.4g})" if row["seeds"] > 1 else ""
    return f"{row['mean']:.4g}{spread}"


def _latex_row(row: Sequence[str]) -> str:
    return " & ".join(row) + r" \\"


def _in_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
