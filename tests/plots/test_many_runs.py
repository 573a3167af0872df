import time
from pathlib import Path

import pytest
from synthetic import LAPTOP_METHODS, make_latency, make_run

from ttt.plots.files import save
from ttt.plots.registry import figures
from ttt.results.store import load_results

MOST_SECONDS = 20


@pytest.mark.slow
def test_a_thousand_runs_are_drawn_in_time(tmp_path: Path) -> None:
    for seed in range(14):
        for model, backbone in LAPTOP_METHODS:
            for size in ("s1", "s2", "s3"):
                for ctx in (64, 128, 256, 512):
                    perplexity = 40 + seed + ctx / 100
                    make_run(tmp_path, model, backbone, size, ctx, seed, 4, perplexity=perplexity, evaluated=seed < 2)
    make_latency(tmp_path)
    # The process's own time: other processes must not fail this.
    started = time.process_time()
    results = load_results(tmp_path)
    assert len(results.runs) > 1000
    names = []
    for figure in figures().values():
        table = figure.table(results)
        if len(table):
            names.append(save(figure, table, tmp_path / "figures")[0].stem)
    assert {"pile_scaling", "books_complete", "context", "best_context", "training", "per_token"} < set(names)
    assert time.process_time() - started < MOST_SECONDS
