"""The time to draw figures against the number of runs."""

import time
from pathlib import Path

import pytest
from synthetic import LAPTOP_METHODS, make_latency, make_run

from ttt.analysis.store import load_results
from ttt.plots.registry import figures
from ttt.plots.style import paper_style

FEW_SEEDS, MANY_SEEDS = 1, 4


def _make_runs(folder: Path, seeds: int) -> None:
    for seed in range(seeds):
        for model, backbone in LAPTOP_METHODS:
            for size in ("w64", "w128"):
                for ctx in (64, 128, 256):
                    perplexity = 40 + seed + ctx / 100
                    make_run(folder, model, backbone, size, ctx, seed, 4, perplexity=perplexity, evaluated=seed < 2)
    make_latency(folder)


def _draw_all(folder: Path) -> tuple[int, dict[str, int], float]:
    """Return the number of runs, the number of shapes and texts in each figure, and the processor seconds used.

    The figures are not rendered: this takes a fixed time per figure, and a time in proportion to the shapes and texts.
    """
    started = time.process_time()
    results = load_results(folder)
    artists = {}
    for name, figure in figures().items():
        table = figure.table(results)
        if len(table):
            with paper_style():
                artists[name] = len(figure.draw(table).findobj())
    return len(results.runs), artists, time.process_time() - started


@pytest.mark.slow
def test_the_time_to_draw_grows_no_faster_than_the_number_of_runs(tmp_path: Path) -> None:
    _make_runs(tmp_path / "few", FEW_SEEDS)
    _make_runs(tmp_path / "many", MANY_SEEDS)
    _draw_all(tmp_path / "few")  # exclude imports and font caches from the comparison
    few_runs, few_artists, few_seconds = _draw_all(tmp_path / "few")
    many_runs, many_artists, many_seconds = _draw_all(tmp_path / "many")
    assert {"books_scaling", "books_complete", "context", "best_context", "training", "per_token"} < many_artists.keys()
    times = many_runs / few_runs
    assert times == MANY_SEEDS / FEW_SEEDS
    assert many_seconds / few_seconds < times
    assert all(many_artists[name] <= times * few_artists[name] for name in few_artists)
    print(f"{few_runs} runs {few_seconds:.1f} s, {many_runs} runs {many_seconds:.1f} s")
