"""The three panels of the overview, each with and without data."""

import math
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_context_gain, make_latency, make_run

from ttt.analysis.store import load_results
from ttt.cli.label import table_1_row
from ttt.plots.overview import FIGURE, PANEL, table
from ttt.plots.style import paper_style


def drawn(folder: Path) -> Any:
    with paper_style():
        return FIGURE.draw(table(load_results(folder)))


def words(axes: Any) -> str:
    return " ".join(text.get_text().replace("\n", " ") for text in axes.texts)


def make_steps(folder: Path) -> None:
    for number, loss in ((4, 4.0), (5, 3.9), (6, 3.8)):
        _, _, settings = table_1_row(number, 512)
        for seed in (0, 1):
            perplexity = math.exp(loss + 0.01 * seed * number)
            more = {"seed": seed, "steps": 1, "perplexity": perplexity, "evaluated": False}
            make_run(folder, "ttt_linear", "transformer", **more, **settings)


@pytest.mark.slow
def test_every_panel_is_drawn_from_its_figure(tmp_path: Path) -> None:
    make_steps(tmp_path)
    for model, gain in (("mamba", 0.02), ("transformer", 0.01)):
        for size in ("s1", "s2"):
            if (model, size) != ("mamba", "s1"):
                backbone = "own" if model == "mamba" else model
                run = make_run(tmp_path, model, backbone, size, 1024, steps=8, perplexity=30, evaluated=False)
                make_context_gain(run, 1024, gain=gain)
    make_latency(tmp_path)
    found = table(load_results(tmp_path))
    assert set(found[PANEL]) == {"steps of Table 1", "gain by context", "time per token"}
    gains = found[found[PANEL] == "gain by context"]
    # The size with the most methods, without the controls.
    assert (set(gains["size"]), set(gains["control"]), set(gains["model"])) == (
        {"s2"},
        {"own"},
        {"mamba", "transformer"},
    )
    steps, gained, time = drawn(tmp_path).axes
    assert steps.get_yticklabels()[0].get_text() == "LN, residual"
    assert steps.containers[0].lines[0].get_xdata() == pytest.approx([-0.095, -0.095], abs=0.001)
    assert len(gained.containers) == 2
    assert [label.get_text() for label in gained.get_xticklabels()] == ["256", "768"]
    assert len(time.lines) == 4
    assert not words(steps) + words(gained) + words(time)


def test_a_panel_without_data_says_how_to_make_them(tmp_path: Path) -> None:
    make_latency(tmp_path)
    steps, gained, time = drawn(tmp_path).axes
    assert "sweep=ablation" in words(steps)
    assert "probe=context_gain" in words(gained)
    assert not words(time)
