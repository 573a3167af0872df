"""The picture and the table of a comparison over any keys."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_run

from ttt.analysis.question import Comparison, Question, compare_runs
from ttt.analysis.store import load_results
from ttt.plots.compare import FRONTIER, figure_of, warnings
from ttt.plots.compare_table import as_csv, as_latex, as_markdown
from ttt.plots.style import COLOURS, paper_style, styles_apart


def make_point(folder: Path, *names: str, **settings: Any) -> None:
    make_run(folder, *names, **{"steps": 1, "evaluated": False} | settings)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for b in (4, 16, 64):
        for eta in (1.0, 2.0):
            for seed in (0, 1):
                make_point(folder, mini_batch_size=b, eta_base=eta, seed=seed, perplexity=30.0 + b + 10 * eta + seed)
    return folder


def answer(folder: Path, **asked: Any) -> Comparison:
    return compare_runs(load_results(folder), Question(**asked))


def drawn(comparison: Comparison) -> Any:
    with paper_style():
        canvas = figure_of(comparison).draw(comparison.table)
        canvas.draw_without_rendering()
    return canvas


def caption(canvas: Any) -> str:
    return str(canvas.get_supxlabel()).replace("\n", " ")


def test_curves_have_the_mean_over_seeds_and_say_what_all_runs_are(sweep: Path) -> None:
    canvas = drawn(answer(sweep))
    (axes,) = canvas.axes
    handles, names = axes.get_legend_handles_labels()
    assert names == ["eta = 1", "eta = 2"]
    assert list(handles[0][0].get_ydata()) == [44.5, 56.5, 104.5]
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "Mini-batch size b (tokens)")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["4", "16", "64"]
    assert "Mean of 2 seeds" in caption(canvas)
    assert "All runs: TTT-Linear (M), size w128." in caption(canvas)


def test_a_heat_map_has_the_number_in_each_cell_and_none_where_no_run_is(sweep: Path, tmp_path: Path) -> None:
    canvas = drawn(answer(sweep, x="model.mini_batch_size", z="model.eta_base"))
    panel = canvas.axes[0]
    assert [text.get_text() for text in panel.texts] == ["44.50", "56.50", "104.5", "54.50", "66.50", "114.5"]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("Mini-batch size b (tokens)", "Inner learning rate eta")
    for b, eta in ((1, 1.0), (2, 1.0), (1, 2.0)):
        make_point(tmp_path, mini_batch_size=b, eta_base=eta, perplexity=40.0)
    canvas = drawn(answer(tmp_path, x="model.mini_batch_size", z="model.eta_base"))
    assert [text.get_text() for text in canvas.axes[0].texts] == ["40.00", "40.00", "40.00", "no run"]


def test_bars_have_names_and_numbers_and_each_context_its_own_axis(tmp_path: Path) -> None:
    for ctx in (512, 1024):
        make_point(tmp_path, "mamba", "own", ctx=ctx, perplexity=42.0)
        make_point(tmp_path, ctx=ctx, perplexity=40.0)
        make_point(tmp_path, ctx=ctx, norm=False, perplexity=50.0)
    canvas = drawn(answer(tmp_path))
    assert [axes.get_title() for axes in canvas.axes] == [
        f"pycode, context of {ctx} tokens" for ctx in ("512", "1,024")
    ]
    names = [tick.get_text() for tick in canvas.axes[0].get_yticklabels()]
    assert names == ["TTT-Linear (M), norm = false", "TTT-Linear (M)", "Mamba"]
    assert [text.get_text() for text in canvas.axes[0].texts] == ["50.00", "40.00", "42.00"]
    first, second = canvas.axes
    assert not first.get_shared_x_axes().joined(first, second)


def test_panels_of_other_data_share_no_axis(tmp_path: Path) -> None:
    for data in ("pycode", "books"):
        for b in (1, 4):
            make_point(tmp_path, mini_batch_size=b, data=data, perplexity=40.0)
    first, second = drawn(answer(tmp_path)).axes
    assert {first.get_title(), second.get_title()} == {f"{data}, context of 512 tokens" for data in ("pycode", "books")}
    assert not first.get_shared_y_axes().joined(first, second)


def test_a_run_without_the_key_is_a_horizontal_line_and_a_missing_result_is_said(tmp_path: Path) -> None:
    for b in (1, 4, 16):
        make_point(tmp_path, mini_batch_size=b, perplexity=40.0)
    make_point(tmp_path, "mamba", "own", perplexity=45.0)
    make_point(tmp_path, "ttt_mlp", status="diverged")
    comparison = answer(tmp_path)
    canvas = drawn(comparison)
    assert list(canvas.axes[0].lines[-1].get_ydata()) == [45.0, 45.0]
    assert "Horizontal: runs without model.mini_batch_size." in caption(canvas)
    assert list(warnings(comparison)) == ["Left out: 1 run without perplexity (diverged)."]
    assert "Left out: 1 run without perplexity (diverged)." in caption(canvas)


def test_against_a_cost_the_lowest_value_at_each_cost_is_drawn(tmp_path: Path) -> None:
    for size, perplexity in (("w64", 60.0), ("w128", 40.0)):
        make_point(tmp_path, size=size, perplexity=perplexity)
        make_point(tmp_path, "mamba", "own", size=size, perplexity=perplexity + 5)
    axes = drawn(answer(tmp_path, x="flops")).axes[0]
    assert axes.get_legend_handles_labels()[1].count(FRONTIER) == 1
    (frontier,) = [line for line in axes.lines if line.get_label() == FRONTIER]
    assert list(frontier.get_ydata()) == [60.0, 40.0]


def test_a_name_that_is_wider_than_the_picture_is_wrapped(tmp_path: Path) -> None:
    long = {"norm": False, "residual": False, "learnable_norm": "n", "forget_gate": "f"}
    for b in (1, 4, 16):
        make_point(tmp_path, mini_batch_size=b, perplexity=40.0)
        make_point(tmp_path, mini_batch_size=b, perplexity=50.0, **long)
    canvas = drawn(answer(tmp_path))
    box = canvas.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= canvas.bbox.width


def test_the_table_is_written_for_people_papers_and_programs(sweep: Path) -> None:
    comparison = answer(sweep)
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert len(rows) == 6
    assert rows[0]["seeds"] == "2"
    assert (rows[0]["mean"], rows[0]["min"], rows[0]["max"]) == ("44.5", "44", "45")
    head, _, first, *_ = as_markdown(comparison).splitlines()
    assert head == "| Mini-batch size b (tokens) | eta = 1 | eta = 2 |"
    assert first == "| 4 | 44.5 (44\N{EN DASH}45) | 54.5 (54\N{EN DASH}55) |"
    assert r"4 & 44.5 (44--45) & 54.5 (54--55) \\" in as_latex(comparison).splitlines()
    against = as_markdown(answer(sweep, x="flops", y="loss", lines=("model.eta_base", "model.mini_batch_size")))
    assert against.splitlines()[0] == "| run | Training FLOPs | Validation loss (nats/token) | seeds |"


def test_styles_differ_and_a_changed_method_never_has_the_papers() -> None:
    names = ["TTT-Linear (M)", *(f"TTT-Linear (M), b = {b}" for b in range(10))]
    styles = styles_apart(names)
    looks = [(style.colour, style.dashes, style.marker) for style in styles.values()]
    assert len(set(looks)) == len(names)
    assert styles["TTT-Linear (M)"].colour == COLOURS[0]
    assert all(style.colour != COLOURS[0] for name, style in styles.items() if name != "TTT-Linear (M)")
    colours = [style.colour for style in styles_apart([f"b = {b}" for b in (1, 2, 4)], graded=True).values()]
    assert len(set(colours)) == 3
