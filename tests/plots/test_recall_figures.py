"""The figures of recall: which runs they draw, where, and that other figures leave these runs out."""

from pathlib import Path

import numpy as np
from synthetic import make_answering, make_needle, make_run

from ttt.analysis.store import load_results
from ttt.plots.registry import figures
from ttt.plots.style import paper_style
from ttt.results.record import RunFolder

FIGURES = figures()


def test_accuracy_is_drawn_by_state_and_by_pairs_at_the_best_rate(tmp_path: Path) -> None:
    for seed in (0, 1):
        for pairs, accuracy in ((4, 0.9), (8, 0.6)):
            make_answering(tmp_path, "ttt_linear", accuracy + 0.1 * seed, seed, pairs)
        # More heads of one width make a smaller state.
        make_answering(tmp_path, "ttt_linear", 0.5, seed, 8, state=1024, heads=4)
        make_answering(tmp_path, "ttt_mlp", 0.95, seed, 8, state=32768)
    make_answering(tmp_path, "ttt_mlp", 0.2, 0, 8, state=32768, rate=1e-2)
    make_run(tmp_path, size="w64", ctx=64, steps=8, perplexity=60)
    results, figure = load_results(tmp_path), FIGURES["recall"]
    table = figure.table(figure.of(results))
    assert len(table) == 8
    assert table["accuracy"].min() == 0.5
    with paper_style():
        canvas = figure.draw(table)
        canvas.draw_without_rendering()
    by_state, by_pairs = canvas.axes
    (pairs_of_linear,) = [line for line in by_pairs.containers if line.get_label() == "TTT-Linear (M)"]
    assert np.allclose(pairs_of_linear[0].get_xydata(), [[4, 0.95], [8, 0.65]])
    (states_of_linear,) = [line for line in by_state.containers if line.get_label() == "TTT-Linear (M)"]
    assert np.allclose(states_of_linear[0].get_xydata(), [[1024, 0.5], [4096, 0.65]])
    assert "Left: 8 pairs; right: 1 head." in canvas.get_supxlabel()
    assert by_state.get_ylabel() == "Right answers (validation, share)"
    assert "2 seeds" in canvas.get_supxlabel()
    # The figures about text have only the run on text.
    others = FIGURES["training"]
    assert others.table(others.of(results))["run_id"].nunique() == 1


def test_a_heat_map_has_the_mean_over_seeds_in_its_place(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = make_run(tmp_path, size="w64", ctx=256, seed=seed, steps=30, perplexity=60, evaluated=False)
        make_needle(RunFolder(run.path))
    figure = FIGURES["needle"]
    with paper_style():
        canvas = figure.draw(figure.table(load_results(tmp_path)))
        canvas.draw_without_rendering()
    *maps, _ = canvas.axes
    assert [axes.get_title() for axes in maps] == ["one line", "one of four lines", "through two variables"]
    shown = maps[0].images[0].get_array()
    assert shown.shape == (3, 3)
    # Rows are depths from the start of the text, columns are lengths.
    assert shown[0].tolist() == [0.25, 0.125, 0.0625]
    assert shown[2].tolist() == [0.75, 0.625, 0.5625]
    assert [text.get_text() for text in maps[0].texts][:2] == [".25", ".12"]
