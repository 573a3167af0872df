"""A run as a point: perplexity against training FLOPs or context length, one line a method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ttt.results.variants import METHOD, SETTING

from .panels import DIVERGED, RUN_COLUMNS, STATED, lines, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from ttt.results.store import Results

    from .style import Look

POINT_COLUMNS = [
    *RUN_COLUMNS,
    "learning_rate",
    "rope_base",
    "tokens_planned",
    "flops",
    "perplexity",
    "status",
    "role",
]
"""Of every run that a figure of points considered; ``role`` says whether it is drawn, and else why not."""

STAND_INS = ("pile", "books")
"""The names of the data that the paper's figures are about; anything else may stand for them."""

DIVERGED_HEIGHT = 0.965
"""Where the marks of diverged runs lie, as a share of the panel's height."""

PERPLEXITY_LABEL = "Validation perplexity (per token)"


class Stated(NamedTuple):
    """A number of the paper: where it lies and what it is the number of."""

    x: float
    perplexity: float


def points(results: Results) -> DataFrame:
    """Every run of a standard method, one row each: ``POINT_COLUMNS``. Without rows where none has a perplexity."""
    from ttt.results.comparison import methods

    rows = methods(results)
    # Linear attention is a row of Table 1, and none of the methods that the paper compares at several sizes.
    rows = rows[rows["model"] != "linear_attention"]
    return as_points(results, rows)


def as_points(results: Results, rows: DataFrame, *more: str) -> DataFrame:
    """``POINT_COLUMNS`` and ``more`` of rows that ``ttt.results.comparison.compare`` gave."""
    bases = [results.settings[run_id].get("model.rope_base", "") for run_id in rows["run_id"]]
    table = rows.assign(rope_base=bases, perplexity=rows["validation_perplexity"])[[*POINT_COLUMNS, *more]]
    return table if drawn(table).size else table.iloc[:0]


def drawn(table: DataFrame) -> DataFrame:
    """The runs that are drawn as points."""
    return table[table["role"] == "drawn"]


def of_data(table: DataFrame, wanted: str) -> DataFrame:
    """The runs on the data named ``wanted``, or where there are none, on the data with the most runs that stands in."""
    if (table["data"] == wanted).any():
        return table[table["data"] == wanted]
    others = table[~table["data"].isin(STAND_INS)]
    names = others["data"].value_counts()
    return others[others["data"] == (names.index[0] if len(names) else "")]


def draw_lines(axes: Axes, part: DataFrame, x: str) -> None:
    """A line a method through the means over seeds, with bars from the lowest to the highest seed.

    Runs that diverged are crosses in their method's colour at the panel's top.
    """
    for look, rows in lines(part):
        draw_points(axes, over_seeds_of(drawn(rows), x), look)
        mark_diverged(axes, rows, x, look)


def draw_points(axes: Axes, points: DataFrame, look: Look) -> None:
    """The line through points of ``over_seeds_of``, if there are any."""
    if len(points):
        bars = points["mean"] - points["min"], points["max"] - points["mean"]
        axes.errorbar(points.index, points["mean"], bars, **look.line, label=look.label, capsize=1.8, elinewidth=0.8)


def over_seeds_of(rows: DataFrame, x: str) -> DataFrame:
    """Mean, min and max of the perplexity of each size and context, by their mean ``x``, which rises."""
    groups = rows.groupby(["size", "ctx"], observed=True)
    points = groups["perplexity"].agg(["mean", "min", "max"]).astype(float)
    return points.set_index(groups[x].mean().astype(float)).sort_index()


def mark_diverged(axes: Axes, rows: DataFrame, x: str, look: Look) -> None:
    """Crosses at the panel's top at the ``x`` of the runs that diverged."""
    places = sorted(set(rows.loc[rows["role"] == "diverged", x].dropna()))
    if places:
        axes.plot(
            places,
            [DIVERGED_HEIGHT] * len(places),
            linestyle="none",
            marker="x",
            markersize=5,
            markeredgewidth=1.4,
            color=look.colour,
            transform=axes.get_xaxis_transform(),
            label=f"{look.label}{DIVERGED}",
        )


def draw_stated(axes: Axes, stated: list[Stated], source: str) -> None:
    """The paper's numbers as hollow stars, which nothing measured is drawn with, and their source in the legend."""
    if stated:
        axes.plot(
            [number.x for number in stated],
            [number.perplexity for number in stated],
            linestyle="none",
            marker="*",
            markersize=9,
            markerfacecolor="white",
            color="0.25",
            label=f"{STATED}{source}",
            zorder=5,
        )


def notes(table: DataFrame, *more: str) -> list[str]:
    """Sentences of the caption: seeds, what was tried, and every run that is not drawn, by reason.

    ``more`` are columns besides setting and method that tell points apart.
    """
    shown = drawn(table)
    seeds = shown.groupby([*SETTING, *METHOD, "variant", *more], observed=True)["run_id"].nunique()
    several = f"Mean of {span(seeds.min(), seeds.max())} seeds; the spread is from the lowest to the highest seed."
    counted = dict(table["role"].value_counts())
    return [
        several if seeds.max() > 1 else "One seed.",
        _tried(counted),
        "Crosses at the top: runs that diverged." if "diverged" in counted else "",
        *_left_out(table),
    ]


def _tried(counted: dict[str, int]) -> str:
    from ttt.results.comparison import Role

    other = counted.get(Role.OTHER_SETTING, 0)
    return (
        f"Where several learning rates or RoPE bases were tried, the best by validation is drawn, "
        f"of those with the most seeds ({runs(other)} not)."
        if other
        else ""
    )


def _left_out(table: DataFrame) -> Iterator[str]:
    from ttt.results.comparison import Role

    told = (Role.DRAWN, Role.DIVERGED, Role.OTHER_SETTING)
    for role in sorted(set(table["role"].dropna()) - set(told)):
        rows = table[table["role"] == role]
        if len(rows):
            names = ", ".join(sorted(rows["run_id"])[:3]) + (", ..." if len(rows) > 3 else "")
            yield f"Not drawn, {role}: {runs(len(rows))} ({names})."


def runs(number: int) -> str:
    """1 run, 2 runs."""
    return f"{number} run" if number == 1 else f"{number} runs"
