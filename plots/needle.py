"""Right answers about lines planted in long text, by depth and length: a heat map for each method and task."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ttt.analysis.comparison import SIZE
from ttt.analysis.recall import found_lines

from .panels import ID_COLUMNS, LINE, caption, span, styles_of
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.image import AxesImage
    from pandas import DataFrame

    from ttt.analysis.store import Results

WIDTH, HEIGHT, MARGIN = 2.2, 1.5, 0.9
"""Inches of a heat map, and of what stands around all of them."""

TASKS = {"single": "one line", "several": "one of four lines", "variable": "through two variables"}
"""Task -> title of its column."""

COLOURS = "cividis"
"""Told apart by readers with any colour vision, and in grey."""


def table(results: Results) -> DataFrame:
    """Return one row per run, task, length and depth: ``right``, a share of ``cases``, and ``loss`` (nats).

    Of each text and size, the table has the texts on which most runs were probed.
    """
    rows = found_lines(results)
    same = [*SIZE, "task", "length", "depth", "targets"]
    counts = rows.groupby(same, observed=True)["run_id"].nunique().reset_index(name="runs")
    counts = counts.sort_values("runs", kind="stable").drop_duplicates(same[:-1], keep="last")
    rows = rows.merge(counts[same], on=same)
    columns = [*ID_COLUMNS, "split", "step", "task", "length", "depth", "cases", "right", "loss"]
    return rows[columns].sort_values(["data", "size", "ctx", "run_id", "task", "length", "depth"], ignore_index=True)


def draw(table: DataFrame) -> Canvas:
    """Draw a row of heat maps for each method, size and context, and a column for each task."""
    from matplotlib.figure import Figure as Canvas

    styles = styles_of(table)
    case = ["data", "size", "parameters", "ctx"]
    parts = [
        (f"{style.label}\n{key[1]} at {key[3]}", rows)
        for key, of_case in table.groupby(case, observed=True)
        for style, rows in ((styles[line], part) for line, part in _by_line(of_case))
    ]
    tasks = [task for task in TASKS if task in set(table["task"])]
    canvas = Canvas(figsize=(WIDTH * len(tasks) + MARGIN, HEIGHT * len(parts) + MARGIN), layout="constrained")
    grid = canvas.subplots(len(parts), len(tasks), squeeze=False, sharey=True)
    for row, (name, part) in enumerate(parts):
        for axes, task in zip(grid[row], tasks, strict=True):
            image = _draw_map(axes, part[part["task"] == task], int(part["ctx"].iloc[0]))
            if row == 0:
                axes.set_title(TASKS[task])
        grid[row][0].set_ylabel(f"{name}\nDepth")
    for axes in grid[-1]:
        axes.set_xlabel("Length (tokens)")
    canvas.colorbar(image, ax=grid, label="Right answers (share)", shrink=0.8)
    cases = span(table["cases"].min(), table["cases"].max())
    caption(
        canvas,
        f"Answers of one token to a question at the end of {table['split'].iloc[0]} text; {cases} texts a cell and "
        "seed, mean over seeds. Depth 0: the line stands at the start of the text. Right of the dotted line texts are "
        "longer than the training's context.",
    )
    return canvas


def _by_line(rows: DataFrame) -> list[tuple[tuple[str, str, str, str], DataFrame]]:
    return [(cast("tuple[str, str, str, str]", key), part) for key, part in rows.groupby(LINE, observed=True)]


def _draw_map(axes: Axes, rows: DataFrame, ctx: int) -> AxesImage:
    """Draw the mean over seeds, with its number in each cell; depth grows downwards, as in the text."""
    means = rows.pivot_table(index="depth", columns="length", values="right", aggfunc="mean")
    axes.grid(False)
    values = means.to_numpy(dtype=float)
    image = axes.imshow(values, cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in ((place, float(values[place])) for place in _cells(*values.shape)):
        axes.text(column, row, f"{value:.2f}".lstrip("0") if value < 1 else "1", ha="center", va="center", fontsize=5.5,
                  color="black" if value > 0.5 else "white")  # fmt: skip
    axes.set_xticks(range(means.shape[1]), [f"{length:,}" for length in means.columns], fontsize=6)
    axes.set_yticks(range(means.shape[0]), [f"{depth:g}" for depth in means.index])
    longer = sum(int(str(length)) <= ctx for length in means.columns)
    if 0 < longer < means.shape[1]:
        axes.axvline(longer - 0.5, color="white", linestyle=":", linewidth=1.2)
    return image


def _cells(rows: int, columns: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(rows) for column in range(columns)]


FIGURE = Figure(
    id="needle",
    title="Right answers about lines planted in long text, by depth and length",
    paper="not in the paper",
    needs="runs that were probed with planted lines",
    give="ttt-eval run=FOLDER probe=needle",
    table=table,
    draw=draw,
)
