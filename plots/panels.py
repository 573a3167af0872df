"""Panels, lines with a band over seeds, axes and captions, shared by the figures.

Tables in this module have the columns ``COMPARED_AT``, ``LINE``, parameters and run_id of ``Results.runs``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, cast

from ttt.analysis.labels import COMPARED_AT, METHOD

from .style import LABELS, LineStyle, Method, method_styles

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

LINE = [*METHOD, "changed"]
"""Columns of ``Results.runs`` that identify a line of a panel."""

ID_COLUMNS = ["run_id", *COMPARED_AT, *LINE, "seed", "parameters"]
"""Columns of ``Results.runs`` that identify the run of a number in the table of a figure."""

PANEL_WIDTH, LEAST_WIDTH, PANEL_HEIGHT, CAPTION_HEIGHT = 2.7, 3.4, 2.1, 0.6
"""Inches."""

LEGEND_LINE, LEGEND_CHARACTER, LEGEND_ROW = 0.5, 0.06, 0.17
"""Inches of an entry of the legend: length of its line, width of a character, and height."""

CAPTION_SIZE, CHARACTERS_PER_INCH = 6.5, 21
"""Font size in points, and the number of characters of that size that fit in an inch at least."""

CAPTION_LINE, MOST_LINES = 0.12, 4
"""Inches of a line of the caption, and the number of lines that ``CAPTION_HEIGHT`` holds."""

CHARACTER = 0.0083
"""Inches of the width of a character for each point of its font size."""

BESIDE_PANEL = 0.4
"""Inches of the numbers and the label beside a panel; its title is centred over the panel alone."""

NARROW = 1.1
"""An axis whose ends differ by less than this factor is widened."""

MARK = "mark"
"""Group id (``gid``) of artists that mark diverged runs or numbers of the paper: the last entries of the legend."""

TICKS = (
    tuple(tenths / 10 for tenths in range(10, 100)),
    tuple(halves / 2 for halves in range(2, 20)),
    (1, 1.2, 1.4, 1.7, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
    (1, 1.5, 2, 3, 4, 5, 6, 8),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 5),
    (1, 3),
    (1,),
)
"""Choices of ticks within a decade of a logarithmic axis, the densest first."""
MOST_TICKS = 7


def panels(table: DataFrame) -> tuple[Canvas, list[tuple[Axes, DataFrame]]]:
    """Return a figure with one panel per data set, size and context, and each panel's part of ``table``.

    Panels are sorted by size, then by context; with several contexts, each row has one size. Panels of one data set and
    context share their y axis.
    """
    parts = _parts(table)
    columns = min(table["ctx"].nunique() if table["ctx"].nunique() > 1 else len(parts), 4)
    canvas, axes = grid(len(parts), columns, PANEL_HEIGHT, sharey=one_axis(table))
    several_data = table["data"].nunique() > 1
    for panel, part in zip(axes, parts, strict=True):
        panel.set_title(_title(part, several_data))
    return canvas, list(zip(axes, parts, strict=True))


def one_axis(table: DataFrame) -> bool:
    """Return whether all panels share the axis of losses: those of other data or contexts do not compare."""
    return bool(table["data"].nunique() == 1 and table["ctx"].nunique() == 1)


def grid(
    number: int, columns: int, height: float, sharex: bool = False, sharey: bool = True
) -> tuple[Canvas, list[Axes]]:
    """Return a figure with ``number`` panels of ``height`` inches in rows of ``columns``, and the panels.

    With ``sharex`` all have one x axis, with ``sharey`` one y axis: for values that compare across panels.
    """
    from matplotlib.figure import Figure as Canvas

    rows = math.ceil(number / columns)
    size = max(PANEL_WIDTH * columns, LEAST_WIDTH), height * rows + CAPTION_HEIGHT
    canvas = Canvas(figsize=size, layout="constrained")
    axes = canvas.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for empty in axes[number:]:
        empty.set_axis_off()
    return canvas, list(axes[:number])


def styles_of(table: DataFrame) -> dict[Method, LineStyle]:
    """Return the style of each method of a picture, no two alike, in the order of the legend."""
    return method_styles(table[LINE].drop_duplicates().itertuples(index=False, name=None))


def lines(part: DataFrame, styles: Mapping[Method, LineStyle]) -> Iterator[tuple[LineStyle, DataFrame]]:
    """Yield the style and the rows, of all seeds, of each method in a panel, in the order of the legend.

    ``styles`` is ``styles_of`` the whole picture, so that a method looks the same in all panels.
    """
    by_line = {cast(Method, key): rows for key, rows in part.groupby(LINE, observed=True)}
    for method, style in styles.items():
        if method in by_line:
            yield style, by_line[method]


def over_seeds(rows: DataFrame, x: str, y: str) -> DataFrame:
    """Return mean, min and max of ``y`` over the runs of a line at each ``x``, the index."""
    return rows.groupby(x)[y].agg(["mean", "min", "max"])


def band(axes: Axes, line: DataFrame, style: LineStyle, number: int) -> None:
    """Draw a line of ``over_seeds`` with its band. ``number``: its place in the panel, which offsets its markers."""
    axes.fill_between(line.index, line["min"], line["max"], color=style.colour, alpha=0.15, linewidth=0)
    axes.plot(line.index, line["mean"], **style.line, label=style.label, markevery=(0.05 * number, 0.2))


def legend(canvas: Canvas) -> None:
    """Add one legend for all panels above them, and enlarge the figure by its height."""
    entries: dict[str, Artist] = {}
    for axes in canvas.axes:
        handles, names = axes.get_legend_handles_labels()
        entries |= zip(names, handles, strict=True)
    names = sorted(entries, key=lambda name: _rank_in_legend(name, entries[name]))
    longest = int((canvas.get_figwidth() - LEGEND_LINE) / LEGEND_CHARACTER)
    wrapped = [textwrap.fill(name, longest) for name in names]
    width = LEGEND_LINE + LEGEND_CHARACTER * min(longest, max(map(len, entries)))
    columns = min(len(entries), max(1, int(canvas.get_figwidth() / width)))
    canvas.legend([entries[name] for name in names], wrapped, loc="outside upper center", ncols=columns)
    rows = math.ceil(len(entries) / columns) + sum(name.count("\n") for name in wrapped)
    canvas.set_figheight(canvas.get_figheight() + LEGEND_ROW * rows)


def _rank_in_legend(name: str, artist: Artist) -> int:
    """Return a sort key: the methods of ``LABELS``, other methods, then marks of diverged runs and stated numbers."""
    # The container of a line with error bars is not an artist and has no group id.
    if getattr(artist, "get_gid", lambda: None)() == MARK:
        return len(LABELS) + 1
    return LABELS.index(name) if name in LABELS else len(LABELS)


def give_room(axes: Axes) -> None:
    """Set margins around the points, perhaps a single one, of logarithmic axes. Call it after drawing all panels."""
    axes.margins(0.08, 0.12)
    x, y = axes.get_shared_x_axes().get_siblings(axes), axes.get_shared_y_axes().get_siblings(axes)
    ends_x = [end for panel in x for end in panel.dataLim.intervalx if math.isfinite(end)]
    ends_y = [end for panel in y for end in panel.dataLim.intervaly if math.isfinite(end)]
    narrow_x, narrow_y = (bool(ends) and max(ends) / min(ends) < NARROW for ends in (ends_x, ends_y))
    # Before setting either limit: setting one also computes the other.
    axes.set_autoscalex_on(not narrow_x)
    axes.set_autoscaley_on(not narrow_y)
    if narrow_x:
        axes.set_xlim(min(ends_x) / NARROW, max(ends_x) * NARROW)
    if narrow_y:
        axes.set_ylim(min(ends_y) / NARROW, max(ends_y) * NARROW)


def labels(canvas: Canvas, x: str, y: str) -> None:
    """Label the x axis of the lowest panel of each column and the y axis of the first panel of each row."""
    visible = [axes for axes in canvas.axes if axes.axison]
    columns = visible[0].get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    for number, axes in enumerate(visible):
        axes.set_xlabel(x if number + columns >= len(visible) else "")
        axes.set_ylabel(y if number % columns == 0 else "")


def caption(canvas: Canvas, *sentences: str) -> None:
    """Set the small print below the panels, such as how the numbers were smoothed and averaged.

    Lines beyond the ``CAPTION_HEIGHT`` of a figure enlarge it.
    """
    width = int(CHARACTERS_PER_INCH * canvas.get_figwidth())
    lines_before = canvas.get_supxlabel().count("\n") + 1
    text = _filled(" ".join(filter(None, sentences)), width)
    more = max(MOST_LINES, text.count("\n") + 1) - max(MOST_LINES, lines_before)
    canvas.set_figheight(canvas.get_figheight() + CAPTION_LINE * more)
    canvas.supxlabel(text, fontsize=CAPTION_SIZE, color="0.35")


def _filled(text: str, width: int) -> str:
    """Return the text in lines that end neither within a setting, ``b = 16``, nor at a hyphen."""
    space = "\N{NO-BREAK SPACE}"
    lines = textwrap.wrap(text.replace(" = ", f"{space}={space}"), width, break_on_hyphens=False)
    return "\n".join(lines).replace(f"{space}={space}", " = ")


def fit_texts(canvas: Canvas) -> None:
    """Wrap titles and labels of axes that are longer than their panel, so that the edge does not cut them."""
    grids = {axes: spec.get_gridspec() for axes in canvas.axes if (spec := axes.get_subplotspec())}
    rows = max((grid.nrows for grid in grids.values()), default=1)
    columns = max((grid.ncols for grid in grids.values()), default=1)
    wide, high = canvas.get_figwidth() / columns, (canvas.get_figheight() - CAPTION_HEIGHT) / rows
    for axes in canvas.axes:
        for text, inches in ((axes.title, wide - BESIDE_PANEL), (axes.xaxis.label, wide), (axes.yaxis.label, high)):
            words, longest = text.get_text(), int(inches / (CHARACTER * float(text.get_fontsize())))
            # Mathematical text is short, and its source is not.
            if "$" not in words and max(map(len, words.split("\n"))) > longest:
                text.set_text("\n".join(_filled(line, longest) for line in words.split("\n")))


def seeds_sentence(table: DataFrame, line: Sequence[str] = (*COMPARED_AT, *LINE)) -> str:
    """Describe lines and bands; empty if no line has several seeds. ``line``: the columns that identify a line."""
    seeds = table.groupby([*line], observed=True, dropna=False)["run_id"].nunique()
    if seeds.max() == 1:
        return ""
    return f"Lines: mean of {span(seeds.min(), seeds.max())} seeds; bands: lowest to highest."


def span(low: float, high: float) -> str:
    """Format ``low``, or ``low-high`` if they differ, as whole numbers with an en dash."""
    return f"{low:,.0f}" if low == high else f"{low:,.0f}\N{EN DASH}{high:,.0f}"


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: 20, 50, 100 instead of powers of ten."""
    ticks = _log_ticks(axis, MOST_TICKS)
    _set_ticks(axis, ticks, [f"{tick:g}" for tick in ticks])


def scientific_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with a few large numbers in mathematical notation, such as 2e10."""
    ticks = _log_ticks(axis, 4)
    powers = [math.floor(math.log10(tick) + 1e-9) for tick in ticks]
    leading = [f"{tick / 10.0**power:g}" for tick, power in zip(ticks, powers, strict=True)]
    times = ["" if number == "1" else rf"{number}\times" for number in leading]
    _set_ticks(axis, ticks, [f"${factor}10^{{{power}}}$" for factor, power in zip(times, powers, strict=True)])


def powers_of_two(axis: Axis, highest: float, step: int = 2) -> None:
    """Label a logarithmic axis with every ``step``-th power of two, counted down from ``highest``."""
    low, _ = axis.get_view_interval()
    exponents = range(math.floor(math.log2(highest)), math.ceil(math.log2(low)) - 1, -step)
    ticks = [2.0**exponent for exponent in exponents]
    _set_ticks(axis, ticks, [f"{tick:g}" for tick in ticks])


def _log_ticks(axis: Axis, most: int) -> list[float]:
    """Return the densest choice of at most ``most`` ticks without a gap of half the axis, if there is one."""
    low, high = axis.get_view_interval()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [[number * 10.0**decade for decade in decades for number in choice] for choice in TICKS]
    choices = [[number for number in choice if low <= number <= high] for choice in numbers]
    few = [choice for choice in choices if len(choice) <= most] or choices[-1:]

    def widest_gap(choice: list[float]) -> float:
        positions = [math.log(tick / low) / math.log(high / low) for tick in (low, *choice, high)]
        return max(after - before for before, after in pairwise(positions))

    return next((choice for choice in few if widest_gap(choice) < 0.5), few[0])


def _set_ticks(axis: Axis, ticks: list[float], names: list[str]) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_minor_locator(NullLocator())
    axis.set_ticks(ticks, names)


def _parts(table: DataFrame) -> list[DataFrame]:
    parameters = table.groupby("size")["parameters"].min()
    parts = [part for _, part in table.groupby(COMPARED_AT, observed=True)]
    return sorted(parts, key=lambda part: (part["data"].iloc[0], parameters[part["size"].iloc[0]], part["ctx"].iloc[0]))


def _title(part: DataFrame, several_data: bool) -> str:
    data, size, ctx = (part[column].iloc[0] for column in COMPARED_AT)
    title = f"size {size}, context of {ctx:,} tokens"
    return f"{data}, {title}" if several_data else title
