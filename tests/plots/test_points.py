"""The figures in which a run is a point: scaling, contexts, Table 1."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import LADDER_LOSSES, flops, make_copying, make_elsewhere, make_ladder, make_run

from ttt.analysis.store import load_results
from ttt.analysis.table_1 import TABLE_1
from ttt.cli.label import table_1_row
from ttt.config.label import TableForm
from ttt.plots.ablation import steps
from ttt.plots.files import runs_note
from ttt.plots.registry import figures
from ttt.plots.style import paper_style
from ttt.results.metrics import MetricLog

FIGURES = figures()


def drawn(name: str, folder: Path) -> Any:
    figure = FIGURES[name]
    with paper_style():
        canvas = figure.draw(figure.table(load_results(folder)))
        canvas.draw_without_rendering()
    return canvas


def lines_of(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Return the x and y of each line by label."""
    handles, labels = axes.get_legend_handles_labels()
    lines = [handle[0] if isinstance(handle, tuple) else handle for handle in handles]
    return {label: (list(line.get_xdata()), list(line.get_ydata())) for label, line in zip(labels, lines, strict=True)}


def note(name: str, folder: Path) -> str:
    results = load_results(folder)
    return runs_note(results, FIGURES[name].table(results))


def caption(canvas: Any) -> str:
    return canvas.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize("name", ["books_scaling", "books_complete"])
def test_scaling_has_a_panel_a_context_and_a_line_a_method(name: str, tmp_path: Path) -> None:
    for ctx in (512, 2048):
        for size, perplexity in (("w64", 90.0), ("w128", 40.0)):
            for seed in (0, 1):
                make_run(
                    tmp_path, size=size, ctx=ctx, seed=seed, steps=2, perplexity=perplexity + seed, evaluated=False
                )
            make_run(tmp_path, "transformer", "transformer", size, ctx, steps=2, perplexity=50, evaluated=False)
    canvas = drawn(name, tmp_path)
    panels = [axes for axes in canvas.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == [f"pycode, context of {ctx} tokens" for ctx in ("512", "2,048")]
    assert {(axes.get_xscale(), axes.get_yscale()) for axes in panels} == {("log", "log")}
    assert [axes.get_xlabel() for axes in panels] == ["Training FLOPs"] * 2
    x, y = lines_of(panels[0])["TTT-Linear (M)"]
    assert y == [90.5, 40.5][::1] if x[0] < x[1] else [40.5, 90.5]
    np.testing.assert_allclose(x, [2048 * flops("ttt_linear", size, 512) for size in ("w64", "w128")])
    assert "Mean of 1\N{EN DASH}2 seeds" in caption(canvas)


@pytest.mark.slow
def test_a_finetuned_transformer_is_a_method_of_its_own_and_costs_what_its_parent_cost(tmp_path: Path) -> None:
    parent = make_run(tmp_path, "transformer", "transformer", ctx=512, steps=10, perplexity=40)
    make_run(tmp_path, "transformer", "transformer", ctx=1024, steps=2, perplexity=38, parent=parent)
    lines = lines_of(drawn("books_complete", tmp_path).axes[1])
    assert list(lines) == ["TF finetune"]
    own, of_parent = (1024 * steps * flops("transformer", "w128", ctx) for steps, ctx in ((2, 1024), (10, 512)))
    np.testing.assert_allclose(lines["TF finetune"][0], [own + of_parent])
    assert "TF finetune" not in lines_of(drawn("books_scaling", tmp_path).axes[0])


@pytest.mark.slow
def test_a_figure_is_on_test_if_all_its_runs_are(tmp_path: Path) -> None:
    for ctx in (512, 2048):
        make_run(tmp_path, ctx=ctx, steps=1, perplexity=40 + ctx / 512, test=50.0, evaluated=False)
    for name in ("books_scaling", "context", "best_context"):
        table = FIGURES[name].table(load_results(tmp_path))
        assert set(table["split"]) == {"test"}
        assert set(table["perplexity"]) == {50.0}
    # Contexts are chosen by validation, at equal test perplexities.
    assert table.loc[table["best"], "ctx"].tolist() == [512]
    assert drawn("books_scaling", tmp_path).axes[0].get_ylabel() == "Test perplexity (per token)"
    make_run(tmp_path, "mamba", "own", ctx=512, steps=1, perplexity=60, evaluated=False)
    canvas = drawn("books_scaling", tmp_path)
    assert canvas.axes[0].get_ylabel() == "Validation perplexity (per token)"
    assert lines_of(canvas.axes[0])["TTT-Linear (M)"][1] == [41.0]


@pytest.mark.slow
def test_losses_by_token_index_are_on_test_if_all_runs_are(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, seed=seed, steps=1, perplexity=40) for seed in (0, 1)]
    for number, run in enumerate(runs):
        log = MetricLog.resume(run.metrics, run.path.name, None)
        log.add_many("test", 1, "loss", [5.0] * 512, "nats/token", range(1, 513))
        log.add_many("test", 1, "sequences", [64] * 512, "1", range(1, 513))
        log.write()
        table = FIGURES["per_token"].table(load_results(tmp_path))
        assert set(table["split"]) == {"test" if number else "validation"}
    np.testing.assert_allclose(table["loss"], 5.0)
    assert "windows of the test text" in caption(drawn("per_token", tmp_path))


def test_evaluations_of_several_splits_elsewhere_are_apart(tmp_path: Path) -> None:
    run = make_elsewhere(make_run(tmp_path, steps=30))
    record = json.loads(run.record.read_text())
    (name, where), new = *record["evaluations"].items(), "pycode-256-test-00000000"
    record["evaluations"][new] = where | {"split": "test"}
    run.record.write_text(json.dumps(record))
    run.evaluation(new).write_bytes(run.evaluation(name).read_bytes())
    table = FIGURES["elsewhere"].table(load_results(tmp_path))
    assert set(table["data"]) == {"pycode, validation", "pycode, test"}


def test_texts_of_one_name_and_other_digests_are_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, steps=1, perplexity=40, evaluated=False)
    other = make_run(tmp_path, seed=2, steps=1, perplexity=90, evaluated=False)
    record = json.loads(other.record.read_text())
    record["data"]["digest"] = "f" * 64
    other.record.write_text(json.dumps(record))
    canvas = drawn("books_scaling", tmp_path)
    assert canvas.axes[0].get_title() == "pycode (abc), context of 512 tokens"
    assert lines_of(canvas.axes[0])["TTT-Linear (M)"][1] == [40.0]
    assert "Left out: 1 (another text); ttt-plot compare draws any." in note("books_scaling", tmp_path)


def test_the_papers_contexts_of_the_papers_data_are_drawn(tmp_path: Path) -> None:
    for ctx in (512, 2048, 8192):
        for data in ("pile", "pycode"):
            make_run(tmp_path, ctx=ctx, steps=1, perplexity=20, evaluated=False, data=data)
    titles = [axes.get_title() for axes in drawn("pile_scaling", tmp_path).axes]
    assert titles == ["pile, context of 2,048 tokens", "pile, context of 8,192 tokens"]


def test_no_other_data_stands_in_for_the_pile(tmp_path: Path) -> None:
    make_run(tmp_path, steps=2, perplexity=40)
    assert FIGURES["pile_scaling"].table(load_results(tmp_path)).empty
    assert len(FIGURES["books_scaling"].table(load_results(tmp_path))) == 1


def test_a_diverged_run_is_a_cross_at_the_top_and_one_without_a_result_is_named(tmp_path: Path) -> None:
    make_run(tmp_path, steps=2, perplexity=40)
    make_run(tmp_path, "mamba", "own", steps=2, status="diverged")
    make_run(tmp_path, "ttt_mlp", steps=2, status="interrupted", evaluated=False)
    canvas = drawn("books_scaling", tmp_path)
    lines = lines_of(canvas.axes[0])
    assert [text.get_text() for text in canvas.legends[0].get_texts()] == ["TTT-Linear (M)", "Mamba: diverged"]
    assert 0.9 < lines["Mamba: diverged"][1][0] < 1
    assert "Crosses: diverged." in caption(canvas)
    assert note("books_scaling", tmp_path) == "Left out: 1 (not finished); ttt-plot compare draws any."
    table = FIGURES["books_scaling"].table(load_results(tmp_path))
    assert sorted(table["role"]) == ["diverged", "drawn", "no evaluation at the end of its schedule"]


def test_of_several_learning_rates_the_best_is_drawn_and_the_caption_says_so(tmp_path: Path) -> None:
    for rate, perplexity in ((5e-3, 40), (1e-2, 39), (2e-2, 41)):
        make_run(tmp_path, steps=2, perplexity=perplexity, learning_rate=rate, evaluated=False)
    canvas = drawn("books_scaling", tmp_path)
    assert lines_of(canvas.axes[0])["TTT-Linear (M)"][1] == [pytest.approx(39)]
    assert "Of several learning rates or RoPE bases, the best by validation." in caption(canvas)
    assert "Left out: 2 (worse setting)" in note("books_scaling", tmp_path)


def test_a_number_that_the_paper_states_is_a_star_with_its_source(tmp_path: Path) -> None:
    make_run(tmp_path, size="125m", ctx=2048, steps=1, perplexity=12, data="pile", evaluated=False)
    lines = lines_of(drawn("pile_scaling", tmp_path).axes[0])
    ((label, (_, stated)),) = [item for item in lines.items() if "stated" in item[0]]
    assert "Table 1" in label
    assert stated == [11.09]
    assert "stated" not in "".join(lines_of(drawn("books_scaling", add_pycode(tmp_path)).axes[0]))


def add_pycode(folder: Path) -> Path:
    make_run(folder, steps=1, perplexity=40, evaluated=False)
    return folder


def test_context_has_a_panel_a_size_and_needs_two_contexts(tmp_path: Path) -> None:
    for ctx, perplexity in ((256, 40), (512, 39), (1024, 38)):
        make_run(tmp_path, ctx=ctx, steps=1, perplexity=perplexity, evaluated=False)
    make_run(tmp_path, size="w64", steps=1, perplexity=90, evaluated=False)
    canvas = drawn("context", tmp_path)
    assert [axes.get_title() for axes in canvas.axes] == ["pycode, size w128"]
    assert lines_of(canvas.axes[0])["TTT-Linear (M)"][0] == [256, 512, 1024]
    assert [label.get_text() for label in canvas.axes[0].get_xticklabels()] == ["1024", "512", "256"]


def test_a_line_has_a_gap_at_a_context_that_was_not_measured(tmp_path: Path) -> None:
    for ctx in (256, 512, 1024):
        make_run(tmp_path, ctx=ctx, steps=1, perplexity=40, evaluated=False)
        if ctx != 512:
            make_run(tmp_path, "transformer", "transformer", ctx=ctx, steps=1, perplexity=30, evaluated=False)
            make_run(tmp_path, size="w64", ctx=ctx, steps=1, perplexity=90, evaluated=False)
    smaller, larger = drawn("context", tmp_path).axes
    x, y = lines_of(larger)["Transformer"]
    assert (x, [math.isnan(value) for value in y]) == ([256, 512, 1024], [False, True, False])
    # Also where no method of the size has this context.
    assert [math.isnan(value) for value in lines_of(smaller)["TTT-Linear (M)"][1]] == [False, True, False]
    assert smaller.get_ylim() == larger.get_ylim()


def test_scaling_has_one_range_of_flops_with_numbers_below_every_column(tmp_path: Path) -> None:
    for number in range(5):
        make_run(tmp_path, "transformer", "transformer", ctx=128 << number, steps=1, perplexity=40, evaluated=False)
    canvas = drawn("books_complete", tmp_path)
    panels = [axes for axes in canvas.axes if axes.axison]
    assert len(panels) == 5
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert all(axes.xaxis.get_tick_params()["labelbottom"] for axes in panels)


def test_best_context_joins_the_best_of_each_size(tmp_path: Path) -> None:
    for size, perplexities in {"w64": (80, 90), "w128": (50, 45)}.items():
        for ctx, perplexity in zip((256, 512), perplexities, strict=True):
            make_run(tmp_path, size=size, ctx=ctx, steps=1, perplexity=perplexity, evaluated=False)
    table = FIGURES["best_context"].table(load_results(tmp_path))
    best = set(table[table["best"]][["size", "ctx"]].itertuples(index=False, name=None))
    assert best == {("w64", 256), ("w128", 512)}
    _, y = lines_of(drawn("best_context", tmp_path).axes[0])["TTT-Linear (M)"]
    np.testing.assert_allclose(y, [80, 45])


@pytest.mark.slow
def test_ablation_has_the_rows_of_table_1_with_what_the_paper_states(tmp_path: Path) -> None:
    make_ladder(tmp_path, seeds=(0, 1), own_noise=0)
    table = FIGURES["ablation"].table(load_results(tmp_path))
    assert table["row"].tolist() == [row for row in range(1, 9) for _ in range(2)]
    assert dict(zip(table["row"], table["stated"], strict=True)) == {row: TABLE_1[row].stated for row in TABLE_1}
    np.testing.assert_allclose(table["stated"].unique(), [15.91, 15.23, 15.27, 14.05, 12.35, 11.99, 11.09])
    canvas = drawn("ablation", tmp_path)
    words = [text.get_text() for text in canvas.axes[0].texts]
    step = LADDER_LOSSES[4] - LADDER_LOSSES[3]
    assert f"{step:+.3f} [{step:+.3f}, {step:+.3f}]" in words
    dots = {line.get_label(): line for line in canvas.axes[1].lines}
    np.testing.assert_allclose(dots["the paper, 125M on the Pile"].get_xdata()[-1], np.log(11.09 / 11.99))
    (measured,) = canvas.axes[1].containers
    np.testing.assert_allclose(measured.lines[0].get_xdata(), np.diff(LADDER_LOSSES), atol=1e-9)


@pytest.mark.slow
def test_ablation_shows_the_forms_of_a_row_apart(tmp_path: Path) -> None:
    make_ladder(tmp_path, seeds=(0, 1), noise=0, own_noise=0)
    text = {"inner_bias": False, "halved_loss": False, "eta_over_dim": False, "token_scale": "none"}
    for form, row, loss in (({"rope_period": 16}, 5, 3.9), (text, 5, 4.5), (text, 6, 4.4)):
        _, _, settings = table_1_row(row, 512)
        for seed in (0, 1):
            changed = {"seed": seed, "steps": 8, "perplexity": math.exp(loss), "evaluated": False}
            make_run(tmp_path, "ttt_linear", "transformer", **changed, **(settings | form))
    table = FIGURES["ablation"].table(load_results(tmp_path))
    found = {key: value[0] for key, value in steps(table).items() if key[1] != TableForm.RELEASED}
    expected = {(6, TableForm.SHORT_ROPE): 3.9 - LADDER_LOSSES[4], (6, TableForm.PAPER): -0.1}
    assert found == pytest.approx(expected)


@pytest.mark.slow
def test_ablation_marks_the_rows_that_copy_from_context(tmp_path: Path) -> None:
    make_ladder(tmp_path, seeds=(0, 1), own_noise=0)
    plain = drawn("ablation", tmp_path)
    assert not any("copies" in line.get_label() for line in plain.axes[1].lines)
    make_copying(tmp_path, lambda name: name == "ttt_linear-mamba-w128-512-0")
    table = FIGURES["ablation"].table(load_results(tmp_path))
    assert table["copies"].tolist() == [False] * 14 + [True, False]
    canvas = drawn("ablation", tmp_path)
    last = canvas.axes[1].containers[-1]
    assert last.get_label() == "measured, copies from context"
    assert last.lines[0].get_markerfacecolor() == "white"
    assert last.lines[0].get_ydata() == pytest.approx([7.88])
    assert "row 8 (1 of 2 runs)" in caption(canvas)


def test_ablation_says_what_was_not_run(tmp_path: Path) -> None:
    make_run(tmp_path, "linear_attention", "transformer", steps=1, perplexity=90, evaluated=False)
    words = [text.get_text() for text in drawn("ablation", tmp_path).axes[0].texts]
    assert words.count("not run") == 7
