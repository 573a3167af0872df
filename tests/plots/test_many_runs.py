import time
from pathlib import Path

import pytest
from synthetic import LAPTOP_METHODS, make_latency, make_run

from ttt.analysis.store import load_results
from ttt.plots.files import save
from ttt.plots.registry import figures

FEW_SEEDS, MANY_SEEDS = 3, 14


def _make_runs(folder: Path, seeds: int) -> None:
    for seed in range(seeds):
        for model, backbone in LAPTOP_METHODS:
            for size in ("s1", "s2", "s3"):
                for ctx in (64, 128, 256, 512):
                    perplexity = 40 + seed + ctx / 100
                    make_run(folder, model, backbone, size, ctx, seed, 4, perplexity=perplexity, evaluated=seed < 2)
    make_latency(folder)


def _draw_all(folder: Path) -> tuple[int, set[str], float]:
    """Return the number of runs, the names of the figures drawn, and the processor seconds used."""
    started = time.process_time()
    results = load_results(folder)
    names = set()
    for figure in figures().values():
        table = figure.table(results)
        if len(table):
            names.add(save(figure, table, folder / "figures")[0].stem)
    return len(results.runs), names, time.process_time() - started


@pytest.mark.slow
def test_the_time_to_draw_a_thousand_runs_grows_no_faster_than_their_number(tmp_path: Path) -> None:
    _make_runs(tmp_path / "few", FEW_SEEDS)
    _make_runs(tmp_path / "many", MANY_SEEDS)
    _draw_all(tmp_path / "few")  # imports and font caches are not part of the comparison
    few_runs, _, few_seconds = _draw_all(tmp_path / "few")
    many_runs, names, many_seconds = _draw_all(tmp_path / "many")
    assert many_runs > 1000
    assert {"pile_scaling", "books_complete", "context", "best_context", "training", "per_token"} < names
    # Reading and drawing take time in proportion to the runs, beside a fixed part per figure.
    assert many_seconds / few_seconds < many_runs / few_runs
    print(f"{few_runs} runs {few_seconds:.1f} s, {many_runs} runs {many_seconds:.1f} s")
