"""No title, label or name is cut at the edge of a picture."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text
from synthetic import make_run

from ttt.analysis.question import Question, compare_runs
from ttt.analysis.store import load_results
from ttt.plots.compare import figure_of
from ttt.plots.panels import fit_texts
from ttt.plots.style import paper_style

LONG = "letters and diaries of the nineteenth century from the municipal archive of my town"
"""Name of a data set."""


def texts(canvas: Any) -> list[Text]:
    """Return all texts but the numbers of the x axis, which matplotlib also keeps beyond its ends."""
    legends = [text for legend in canvas.legends for text in legend.get_texts()]
    of_axes = [
        text
        for axes in canvas.axes
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels(), *axes.texts)
    ]
    return [*legends, *of_axes, *canvas.texts]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    for b in (4, 16):
        for eta in (1.0, 2.0):
            make_run(folder, mini_batch_size=b, eta_base=eta, steps=1, perplexity=40, evaluated=False, data=LONG)
    return folder


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"x": "model.mini_batch_size", "z": "model.eta_base"},
        {"lines": ("model.mini_batch_size", "model.eta_base")},
    ],
    ids=["curves", "heat map", "bars"],
)
def test_every_text_is_inside_the_picture(asked: dict[str, Any], runs: Path) -> None:
    comparison = compare_runs(load_results(runs), Question(**asked))
    with paper_style():
        canvas = figure_of(comparison).draw(comparison.table)
        fit_texts(canvas)
        canvas.draw_without_rendering()
    for text in texts(canvas):
        if text.get_text():
            box = text.get_window_extent()
            assert box.x0 >= -1, text.get_text()
            assert box.x1 <= canvas.bbox.width + 1, text.get_text()
            assert box.y0 >= -1, text.get_text()
            assert box.y1 <= canvas.bbox.height + 1, text.get_text()


def test_names_of_bars_with_several_lines_do_not_overlap(tmp_path: Path) -> None:
    layers = ["sliding_attention", "gated_deltanet", "linear_attention"]
    for rate in (5e-3, 1e-2, 2e-2):
        settings = {"pattern": layers, "learning_rate": rate}
        make_run(tmp_path, "hybrid", "transformer", steps=1, perplexity=40, evaluated=False, **settings)
    comparison = compare_runs(load_results(tmp_path), Question(lines=("model.pattern", "recipe.learning_rate")))
    with paper_style():
        canvas = figure_of(comparison).draw(comparison.table)
        canvas.draw_without_rendering()
    names = [text for text in canvas.axes[0].get_yticklabels() if text.get_text()]
    assert max(name.get_text().count("\n") for name in names) >= 2
    boxes = sorted((name.get_window_extent() for name in names), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(boxes))
