"""The picture of a comparison over any keys: curves, bars or a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ttt.analysis.labels import EVERYWHERE
from ttt.analysis.measures import COSTS, shown_split
from ttt.analysis.names import axis_name, run_name, setting_name, shared_departures, shown_value
from ttt.config.errors import counted

from .intervals import OF_THE_LOSS, intervals_sentence, spread_of, with_intervals
from .panels import (
    CAPTION_HEIGHT,
    LEAST_WIDTH,
    PANEL_WIDTH,
    caption,
    legend,
    plain_log_ticks,
    scientific_log_ticks,
    span,
)
from .points import draw_points
from .registry import Figure
from .style import LineStyle, styles_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame, Series

    from ttt.analysis.question import Comparison

CURVES_HEIGHT, BAR_HEIGHT, LINE_HEIGHT, CELL_WIDTH, CELL_HEIGHT = 2.4, 0.26, 0.15, 0.62, 0.36
"""Inches."""

MOST_COLUMNS, MOST_TICKS, MOST_ALONG = 3, 8, 3

LOG_FROM = 4
"""An x axis is logarithmic if its largest value is at least this many times its smallest."""

FRONTIER = "lowest at this cost or less"


def figure_of(comparison: Comparison, name: str = "compare") -> Figure:
    """Return the figure of a comparison; ``name``: that of its files."""
    return Figure(
        id=name,
        title=f"{comparison.y.label} of runs of your choice",
        paper="not in the paper",
        needs="finished runs that differ in a setting",
        give="ttt-train",
        table=lambda _: comparison.table,
        draw=lambda table: draw(table, comparison),
    )


def draw(table: DataFrame, comparison: Comparison) -> Canvas:
    """Draw the picture of a table of runs, with axes of its own for each data set and context."""
    axes = comparison.axes
    if comparison.y.name in OF_THE_LOSS:
        table = with_intervals(comparison.results, table, shown_split(comparison.results), comparison.y.name)
    drawn_as = _draw_heat_maps if axes.z else _draw_curves if axes.x else _draw_bars
    canvas = drawn_as(table, comparison)
    caption(canvas, *_sentences(table, comparison), *warnings(comparison))
    return canvas


def over_seeds(rows: DataFrame, x: str, y: str) -> DataFrame:
    """Return ``spread_of`` the values ``y`` of each point, indexed by the mean of ``x``, rising."""
    groups = rows.groupby("point")
    points = spread_of(groups, y)
    return points.set_index(groups[x].mean().astype(float)).sort_index()


def warnings(comparison: Comparison) -> Iterator[str]:
    """Yield sentences about lines that nobody asked for, and about runs that are not drawn."""
    if comparison.axes.extra:
        yield f"The runs also differ in {', '.join(comparison.axes.extra)}, which therefore have lines of their own."
    if comparison.left_out:
        reasons = (f"{counted(number, 'run')} {reason}" for reason, number in comparison.left_out.items())
        yield f"Left out: {', '.join(reasons)}."


def _sentences(table: DataFrame, comparison: Comparison) -> Iterator[str]:
    """Yield the sentences of the caption: seeds, what all runs share, and what else changes."""
    seeds = table.groupby("point")["run_id"].nunique()
    spread = "" if comparison.axes.z else ", from lowest to highest"
    yield f"Mean of {span(seeds.min(), seeds.max())} seeds{spread}." if seeds.max() > 1 else "One seed."
    yield _widths_sentence(table) if comparison.axes.z else intervals_sentence(table)
    yield _shared(table, comparison)
    axes, along = comparison.axes, comparison.along
    if axes.x and comparison.x is None and table[axes.x].isna().any():
        yield f"Horizontal: runs without {axes.x}."
    if along:
        more = f" and {len(along) - MOST_ALONG} more" if len(along) > MOST_ALONG else ""
        both = f"{axes.x} and {axes.z}" if axes.z else axes.x
        yield f"Together with {both} change {', '.join(along[:MOST_ALONG])}{more}."


def _widths_sentence(table: DataFrame) -> str:
    """Return the sentence about intervals over documents for a picture without bars, or an empty text."""
    if "judged_documents" not in table:
        return ""
    half = (table["high"] - table["low"]).mean() / 2
    return intervals_sentence(table, f"95% intervals, about \N{PLUS-MINUS SIGN}{half:.2g},")


def _shared(table: DataFrame, comparison: Comparison) -> str:
    """Name the method, size and departures from the standard that all runs have and no label names."""
    labels = comparison.results.labels
    shared = shared_departures(labels[run_id] for run_id in table["run_id"])
    first, words = table.iloc[0], []
    methods = table[["model", "backbone", "start"]].drop_duplicates()
    if len(methods) == 1:
        words.append(run_name(labels[first["run_id"]], first["start"], shared))
    else:
        words += [setting_name(key, value) for key, value in shared.items()]
    if table["size"].nunique() == 1:
        words.append(f"size {first['size']}")
    named = table["line"] if not comparison.axes.z or table["line"].nunique() > 1 else table["line"].iloc[:0]
    mark = f"{EVERYWHERE}\N{NO-BREAK SPACE}" if named.str.contains(EVERYWHERE, regex=False).any() else ""
    return f"{mark}All runs: {', '.join(words)}." if words else ""


def _parts(table: DataFrame, keys: list[str]) -> list[DataFrame]:
    return [part for _, part in table.groupby(keys, dropna=False, sort=False)] if keys else [table]


def _title(part: DataFrame, panel: list[str]) -> str:
    first = part.iloc[0]
    words = {"data": lambda: str(first["data"]), "ctx": lambda: f"context of {first['ctx']:,} tokens"}
    return ", ".join(words[key]() for key in panel)


def _draw_curves(table: DataFrame, comparison: Comparison) -> Canvas:
    from matplotlib.figure import Figure as Canvas

    axes, y = comparison.axes, comparison.y
    parts = _parts(table, axes.panel)
    columns = min(len(parts), MOST_COLUMNS)
    rows = math.ceil(len(parts) / columns)
    size = max(PANEL_WIDTH * columns, LEAST_WIDTH), CURVES_HEIGHT * rows + CAPTION_HEIGHT
    canvas = Canvas(figsize=size, layout="constrained")
    grid = list(canvas.subplots(rows, columns, squeeze=False).ravel())
    numbers = len(axes.lines) == 1 and table[axes.lines[0]].dtype.kind in "if"
    names = list(dict.fromkeys(table["line"]))
    styles = styles_apart(names, graded=numbers)
    for panel, part in zip(grid, parts, strict=False):
        for name in names:
            _draw_line(panel, part[part["line"] == name], comparison, styles[name])
        if axes.x in COSTS:
            _draw_frontier(panel, over_seeds(part, axes.x, y.name))
        _set_x(panel, part[axes.x].dropna().astype(float), axes.x)
        label = comparison.x.label if comparison.x else axis_name(axes.x)
        panel.set(title=_title(part, axes.panel), xlabel=label, ylabel=y.label)
    for empty in grid[len(parts) :]:
        empty.set_axis_off()
    legend(canvas)
    return canvas


def _draw_line(panel: Panel, rows: DataFrame, comparison: Comparison, style: LineStyle) -> None:
    x, y = comparison.axes.x, comparison.y.name
    placed = rows[x].notna()
    draw_points(panel, over_seeds(rows[placed], x, y), style)
    for _, across in rows[~placed].groupby("point"):
        dashes = (0, style.dashes) if style.dashes else "-"
        spread = spread_of(across.groupby("point"), y).iloc[0]
        panel.axhline(spread["mean"], color=style.colour, linestyle=dashes, label=style.label)
        panel.axhspan(spread["min"], spread["max"], color=style.colour, alpha=0.15, linewidth=0)


def _draw_frontier(panel: Panel, points: DataFrame) -> None:
    lowest = points["mean"].groupby(level=0).min().cummin()
    panel.step(lowest.index, lowest, where="post", color="0.7", linewidth=3, alpha=0.6, zorder=0, label=FRONTIER)


def _set_x(panel: Panel, values: Series, key: str) -> None:
    """Choose the scale, and put a tick at each value if there are few."""
    ticks: list[float] = sorted({float(value) for value in values.to_numpy()})
    is_log = bool(ticks) and ticks[0] > 0 and ticks[-1] / ticks[0] >= LOG_FROM
    if is_log:
        panel.set_xscale("log")
    if key in COSTS and is_log:
        (scientific_log_ticks if ticks[-1] > 1e5 else plain_log_ticks)(panel.xaxis)
    elif key not in COSTS and len(ticks) <= MOST_TICKS:
        panel.minorticks_off()
        panel.set_xticks(ticks, [shown_value(tick) for tick in ticks])
    elif is_log:
        plain_log_ticks(panel.xaxis)


def _draw_bars(table: DataFrame, comparison: Comparison) -> Canvas:
    """Draw a bar for each name, with its number."""
    from matplotlib.figure import Figure as Canvas

    y = comparison.y
    parts = _parts(table, comparison.axes.panel)
    bars = [spread_of(part.groupby("line", sort=False), y.name) for part in parts]
    heights = [len(bar) + 2 for bar in bars]
    names = list(dict.fromkeys(table["line"]))
    styles = styles_apart(names)
    lines = max(_wrapped(name).count("\n") + 1 for bar in bars for name in bar.index)
    height = max(BAR_HEIGHT, LINE_HEIGHT * lines)
    size = LEAST_WIDTH + PANEL_WIDTH, height * sum(heights) + CAPTION_HEIGHT
    canvas = Canvas(figsize=size, layout="constrained")
    grid = canvas.subplots(len(parts), 1, squeeze=False, height_ratios=heights).ravel()
    for panel, part, bar in zip(grid, parts, bars, strict=True):
        several = bar["max"] > bar["min"]
        whiskers = [(bar["mean"] - bar["min"]).where(several), (bar["max"] - bar["mean"]).where(several)]
        colours = [styles[name].colour for name in bar.index]
        panel.barh(range(len(bar)), bar["mean"], xerr=whiskers, color=colours, alpha=0.75, height=0.7, capsize=1.8)
        for place, (mean, highest) in enumerate(zip(bar["mean"], bar["max"], strict=True)):
            panel.annotate(_number(mean), (highest, place), (4, 0), textcoords="offset points", va="center", fontsize=7)
        panel.set_yticks(range(len(bar)), [_wrapped(name) for name in bar.index])
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
        panel.margins(x=0.12)
        panel.set(title=_title(part, comparison.axes.panel), xlabel=y.label)
    return canvas


def _number(value: float) -> str:
    """Return a number with four digits, zeros at its end included, so that numbers of one picture are alike."""
    return f"{value:#.4g}".rstrip(".")


def _wrapped(name: str) -> str:
    import textwrap

    return textwrap.fill(name, 34)


def _draw_heat_maps(table: DataFrame, comparison: Comparison) -> Canvas:
    """Draw a heat map, with its own colours, for each panel and line."""
    from matplotlib.figure import Figure as Canvas

    axes, y = comparison.axes, comparison.y
    parts = _parts(table, [*axes.panel, "line"])
    columns = min(len(parts), 2)
    rows = math.ceil(len(parts) / columns)
    wide, high = table[axes.x].nunique(), table[axes.z].nunique()
    width, height = max(CELL_WIDTH * wide + 1.7, LEAST_WIDTH), CELL_HEIGHT * high + 1.1
    canvas = Canvas(figsize=(width * columns, height * rows + CAPTION_HEIGHT), layout="constrained")
    grid = list(canvas.subplots(rows, columns, squeeze=False).ravel())
    several = table["line"].nunique() > 1
    for panel, part in zip(grid, parts, strict=False):
        _draw_cells(panel, part.pivot_table(y.name, axes.z, axes.x, aggfunc="mean", observed=True))
        line = f"{part['line'].iloc[0]}\n" if several else ""
        panel.set(title=line + _title(part, axes.panel), xlabel=axis_name(axes.x), ylabel=axis_name(axes.z))
        canvas.colorbar(panel.images[0], ax=panel, label=y.label)
    for empty in grid[len(parts) :]:
        empty.set_axis_off()
    return canvas


def _draw_cells(panel: Panel, cells: DataFrame) -> None:
    values = cells.to_numpy(float)
    image = panel.imshow(values, cmap="viridis", origin="lower", aspect="auto")
    for row, column in ((row, column) for row in range(values.shape[0]) for column in range(values.shape[1])):
        value = values[row, column]
        if math.isnan(value):
            panel.text(column, row, "no run", ha="center", va="center", fontsize=6, color="0.5")
        else:
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            panel.text(column, row, _number(value), ha="center", va="center", fontsize=7, color="w" if dark else "k")
    panel.set_xticks(range(values.shape[1]), [shown_value(value) for value in cells.columns])
    panel.set_yticks(range(values.shape[0]), [shown_value(value) for value in cells.index])
    panel.grid(visible=False)
