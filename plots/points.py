"""Runs as points: perplexity against training FLOPs or context length, one line per method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ttt.analysis.comparison import RunRole, methods, reported_split
from ttt.analysis.labels import COMPARED_AT, METHOD

from .intervals import intervals_sentence, spread_of, with_intervals
from .panels import ID_COLUMNS, MARK, lines, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame, Series

    from ttt.analysis.store import Results

    from .style import LineStyle, Method

POINT_COLUMNS = [
    *ID_COLUMNS,
    "learning_rate",
    "rope_base",
    "tokens_planned",
    "flops",
    "split",
    "perplexity",
    "copies",
    "status",
    "role",
]
"""Columns of the tables of these figures. ``role`` is "drawn", or the reason why the run is not drawn.

``copies``: whether the run copies from context; missing if it was not measured.

``perplexity`` is on ``split``, the same for all rows: see ``ttt.analysis.comparison.reported_split``.
"""

RESULT_COLUMNS = ["data_digest", "test_loss", "test_tokens", "test_perplexity", "validation_perplexity"]
"""Columns from which ``reported`` makes ``split`` and ``perplexity``."""

STAND_INS = ("pile", "books")
"""Names of the data of the paper's figures; any other data can be a stand-in for them."""

DIVERGED_HEIGHT = 0.965
"""Height of the marks of diverged runs, as a share of the panel's height."""


class Stated(NamedTuple):
    """A number that the paper states, and its x coordinate."""

    x: float
    perplexity: float


def points(results: Results) -> DataFrame:
    """Return every run of a standard method with the columns of ``as_points``; no rows if no run has a perplexity."""
    rows = methods(results)
    # Linear attention is only a row of Table 1; the paper does not compare it at several sizes.
    rows = rows[rows["model"] != "linear_attention"]
    return as_points(results, rows)


def as_points(results: Results, rows: DataFrame, *more: str) -> DataFrame:
    """Add ``rope_base`` and ``perplexity``, on validation, to rows of ``ttt.analysis.comparison.compare``.

    The figure chooses its runs from the result and then calls ``reported``. ``more`` are further columns to keep.
    """
    bases = [results.settings[run_id].get("model.rope_base", "") for run_id in rows["run_id"]]
    table = rows.assign(rope_base=bases, split="validation", perplexity=rows["validation_perplexity"])
    table = table[[*POINT_COLUMNS, *more, *RESULT_COLUMNS]]
    return table if len(drawn(table)) else table.iloc[:0]


def reported(results: Results, table: DataFrame) -> DataFrame:
    """Return the runs of a figure with ``split`` and ``perplexity``: on test if all drawn runs have it.

    If some were judged on little text, the table also has the columns of ``with_intervals``.
    """
    split = reported_split(table)
    table = table.assign(split=split, perplexity=table[f"{split}_perplexity"]).drop(columns=RESULT_COLUMNS)
    return with_intervals(results, table, split, "perplexity")


def perplexity_label(table: DataFrame) -> str:
    """Return the label of the axis of perplexity: with the split."""
    return f"{table['split'].iloc[0].capitalize()} perplexity (per token)"


def drawn(table: DataFrame) -> DataFrame:
    """Return the runs that are drawn as points."""
    return table[table["role"] == RunRole.DRAWN]


def of_data(table: DataFrame, name: str) -> DataFrame:
    """Return the runs on the data set ``name``, or if there are none, on the stand-in with the most runs.

    Of several texts of this name, such as of other packages, the one with the most runs is drawn; the runs on the
    others, which come last, get the role ``OTHER_TEXT``.
    """
    import pandas as pd

    names = base_names(table)
    if not (names == name).any():
        stand_ins = names[~names.isin(STAND_INS)].value_counts()
        name = stand_ins.index[0] if len(stand_ins) else ""
    table = table[names == name]
    texts = table["data"].value_counts()
    of_text = table["data"] == (texts.index[0] if len(texts) else "")
    return pd.concat([table[of_text], table[~of_text].assign(role=RunRole.OTHER_TEXT.value)])


def base_names(table: DataFrame) -> Series:
    """Return the names of the data without the digests that tell texts of one name apart."""
    return table["data"].str.replace(r" \([^)]*\)$", "", regex=True)


def draw_lines(
    axes: Axes,
    part: DataFrame,
    styles: Mapping[Method, LineStyle],
    x: str,
    all_x: list[float] | None = None,
) -> None:
    """Draw one line per method through the means over seeds, with bars from the lowest to the highest seed.

    Diverged runs are crosses in the colour of their method at the top of the panel. With ``all_x``, a line has a gap at
    each of these places where its method has no point.
    """
    for style, rows in lines(part, styles):
        points = over_seeds_of(drawn(rows), x)
        draw_points(axes, points.reindex(all_x) if all_x is not None and len(points) else points, style)
        mark_diverged(axes, rows, x, style)


def draw_points(axes: Axes, points: DataFrame, style: LineStyle) -> None:
    """Draw the line through the points of ``over_seeds_of``, if there are any."""
    if len(points):
        bars = points["mean"] - points["min"], points["max"] - points["mean"]
        axes.errorbar(points.index, points["mean"], bars, **style.line, label=style.label, capsize=1.8, elinewidth=0.8)


def over_seeds_of(rows: DataFrame, x: str) -> DataFrame:
    """Return mean, min and max of the perplexity of each size and context, indexed by their mean ``x``, rising."""
    groups = rows.groupby(["size", "ctx"], observed=True)
    points = spread_of(groups, "perplexity")
    return points.set_index(groups[x].mean().astype(float)).sort_index()


def mark_diverged(axes: Axes, rows: DataFrame, x: str, style: LineStyle) -> None:
    """Draw crosses at the top of the panel at the ``x`` of diverged runs."""
    places = sorted(set(rows.loc[rows["role"] == RunRole.DIVERGED, x].dropna()))
    if places:
        axes.plot(
            places,
            [DIVERGED_HEIGHT] * len(places),
            linestyle="none",
            marker="x",
            markersize=5,
            markeredgewidth=1.4,
            color=style.colour,
            transform=axes.get_xaxis_transform(),
            label=f"{style.label}: diverged",
            gid=MARK,
        )


def draw_stated(axes: Axes, stated: list[Stated], source: str) -> None:
    """Draw the paper's numbers as hollow stars, a marker that no measurement has, with their source in the legend."""
    if stated:
        axes.plot(
            [number.x for number in stated],
            [number.perplexity for number in stated],
            linestyle="none",
            marker="*",
            markersize=9,
            markerfacecolor="white",
            color="0.25",
            label=f"stated, {source}",
            gid=MARK,
            zorder=5,
        )


def notes(table: DataFrame, *more: str) -> list[str]:
    """Return sentences of the caption: seeds, settings tried, diverged runs, and intervals over documents.

    ``more`` are columns besides setting and method that identify a point.
    """
    shown = drawn(table)
    seeds = shown.groupby([*COMPARED_AT, *METHOD, *more], observed=True)["run_id"].nunique()
    several = f"Mean of {span(seeds.min(), seeds.max())} seeds, from lowest to highest."
    roles = set(table["role"])
    return [
        several if seeds.max() > 1 else "One seed.",
        "Of several learning rates or RoPE bases, the best by validation." if RunRole.OTHER_SETTING in roles else "",
        "Crosses: diverged." if RunRole.DIVERGED in roles else "",
        intervals_sentence(shown),
    ]
