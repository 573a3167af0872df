"""Training curves: their moving average, their axes, and what the caption says about unfinished runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_run

from ttt.analysis.store import load_results
from ttt.plots.files import runs_note
from ttt.plots.style import paper_style
from ttt.plots.training import FIGURE, smoothed_over


def test_the_moving_average_is_over_the_share_of_steps_that_was_asked_for(tmp_path: Path) -> None:
    make_run(tmp_path, steps=40, ctx=64, evaluated=False)
    results = load_results(tmp_path)
    raw, whole = smoothed_over(0.0), smoothed_over(2.0)
    np.testing.assert_allclose(raw.table(results)["smoothed"], raw.table(results)["loss"])
    assert np.ptp(whole.table(results)["smoothed"]) == pytest.approx(0, abs=1e-9)
    with paper_style():
        assert "Moving average over 25% of the steps" in smoothed_over(0.25).draw(
            smoothed_over(0.25).table(results)
        ).get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize(("ctx", "data", "shared"), [(32, "pycode", False), (64, "books", False), (64, "pycode", True)])
def test_panels_of_other_data_or_contexts_do_not_share_an_axis(
    ctx: int, data: str, shared: bool, tmp_path: Path
) -> None:
    make_run(tmp_path, steps=20, ctx=64, evaluated=False)
    make_run(tmp_path, steps=20, ctx=ctx, data=data, size="w64", evaluated=False)
    results = load_results(tmp_path)
    with paper_style():
        first, second = FIGURE.draw(FIGURE.table(results)).axes
    assert (second in first.get_shared_y_axes().get_siblings(first)) == shared
    assert (first.get_ylim() == second.get_ylim()) == shared


def test_the_caption_says_how_far_unfinished_runs_were_trained(tmp_path: Path) -> None:
    make_run(tmp_path, steps=20, ctx=64, evaluated=False)
    make_run(tmp_path, steps=12, steps_planned=20, ctx=64, seed=1, status="interrupted", evaluated=False)
    results = load_results(tmp_path)
    said = runs_note(results, FIGURE.table(results))
    assert said == "Trained less than planned: 12 of 20 steps (1 run, interrupted)."


@pytest.mark.parametrize("stopped", [False, True])
def test_a_chosen_run_that_was_stopped_early_is_no_seed_of_whole_runs(stopped: bool, tmp_path: Path) -> None:
    make_run(tmp_path, steps=20, ctx=64, perplexity=40)
    make_run(tmp_path, steps=12, steps_planned=20, ctx=64, seed=1, perplexity=60)
    table = FIGURE.table(replace(load_results(tmp_path, stopped=stopped), chosen=True))
    assert set(table["changed"]) == ({"steps = 20", "steps = 12"} if stopped else {"", "steps = 12"})
