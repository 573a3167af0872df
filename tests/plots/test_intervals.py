"""Error bars over documents where runs were judged on little text."""

import json
import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_run

from ttt.analysis.question import Question, compare_runs
from ttt.analysis.store import load_results
from ttt.claims.student import critical
from ttt.config.assets import assets
from ttt.plots.compare import figure_of
from ttt.plots.files import runs_note
from ttt.plots.intervals import half_widths
from ttt.plots.panels import caption
from ttt.plots.registry import figures
from ttt.plots.style import paper_style
from ttt.results.document_losses import write_document_losses
from ttt.results.record import RunFolder

TOKENS = np.array([100, 200, 100, 400])


def judged(
    folder: Path,
    per_token: list[float],
    documents: int = 4,
    model: str = "ttt_linear",
    evaluated: bool = False,
    **settings: float,
) -> RunFolder:
    """Write a run with these losses (nats/token) on four documents, of which its record counts ``documents``."""
    loss = float((TOKENS * per_token).sum() / TOKENS.sum())
    backbone = "own" if model == "mamba" else "mamba"
    run = make_run(folder, model, backbone, steps=1, evaluated=evaluated, perplexity=math.exp(loss), **settings)
    record = json.loads(run.record.read_text())
    result = record["results"]["validation"]
    result["tokens"] = 10**6
    result["judged"] = {"digest": "abc", "ctx": 512, "windows": "", "documents": documents}
    run.record.write_text(json.dumps(record))
    sums = np.arange(4), TOKENS * per_token, TOKENS
    write_document_losses(run.documents, run.path.name, "validation", 1, "abc", *sums)
    return run


def widths(folder: Path) -> dict[str, float]:
    results = load_results(folder)
    found = half_widths(results, "validation", list(results.runs["run_id"]))
    assert {documents for _, documents in found.values()} <= {4}
    return {run_id: half for run_id, (half, _) in found.items()}


def test_the_interval_of_a_run_alone_is_that_of_a_ratio(tmp_path: Path) -> None:
    run = judged(tmp_path, [3.0, 4.0, 5.0, 3.5])
    rests = TOKENS * (np.array([3.0, 4.0, 5.0, 3.5]) - 3.75)
    error = math.sqrt(4 / 3 * (rests**2).sum()) / 800
    assert widths(tmp_path) == {run.path.name: pytest.approx(critical(3) * error)}


def test_what_documents_have_in_common_for_all_runs_is_taken_out(tmp_path: Path) -> None:
    judged(tmp_path, [3.0, 4.0, 5.0, 3.5])
    judged(tmp_path, [3.5, 4.5, 5.5, 4.0], model="mamba")
    assert list(widths(tmp_path).values()) == pytest.approx([0.0, 0.0], abs=1e-6)


def test_runs_with_enough_text_have_none(tmp_path: Path) -> None:
    judged(tmp_path, [3.0, 4.0, 5.0, 3.5], documents=30)
    assert widths(tmp_path) == {}


@pytest.mark.parametrize("name", ["compare", "books_scaling"])
def test_pictures_draw_them_and_say_so(name: str, tmp_path: Path) -> None:
    judged(tmp_path, [3.0, 4.0, 5.0, 3.5])
    judged(tmp_path, [3.5, 4.0, 5.5, 3.0], model="mamba")
    results = load_results(tmp_path)
    figure = figure_of(compare_runs(results, Question(x="flops"))) if name == "compare" else figures()[name]
    with paper_style():
        canvas = figure.draw(figure.table(results))
    bars = [segment for group in canvas.axes[0].collections for segment in group.get_segments()]
    assert len(bars) == 2
    assert all(high > 1.1 * low for (_, low), (_, high) in bars)
    words = " ".join(canvas.get_supxlabel().split())
    assert "Little data: bars include 95% intervals over 4 documents, less what all runs share." in words


def test_lines_by_token_index_have_the_interval_of_all_tokens_behind_them(tmp_path: Path) -> None:
    judged(tmp_path, [3.0, 4.0, 5.0, 3.5], evaluated=True)
    judged(tmp_path, [3.5, 4.0, 5.5, 3.0], model="mamba", evaluated=True)
    results, figure = load_results(tmp_path), figures()["per_token"]
    table = figure.table(results)
    known = half_widths(results, "validation", list(results.runs["run_id"]))
    assert dict(zip(table["run_id"], table["half_width"], strict=True)) == {
        run: half for run, (half, _) in known.items()
    }
    with paper_style():
        canvas = figure.draw(table)
    axes = canvas.axes[0]
    bars = [segment for group in axes.collections for segment in getattr(group, "get_segments", list)()]
    assert [math.log(high / low) for (_, low), (_, high) in bars] == pytest.approx(
        [2 * half for half, _ in known.values()]
    )
    ends = [line.get_xdata()[-1] for line in axes.lines if len(line.get_xdata()) > 2]
    assert all(place > max(ends) for (place, _), _ in bars)
    words = " ".join(canvas.get_supxlabel().split())
    assert "Little data: bars: 95% intervals over 4 documents" in words


def test_the_caption_of_the_published_picture_by_token_index_is_short() -> None:
    results, figure = load_results(assets() / "results/laptop"), figures()["per_token"]
    table = figure.table(results)
    with paper_style():
        canvas = figure.draw(table)
        caption(canvas, *canvas.get_supxlabel().split("\n"), runs_note(results, table))
    assert canvas.get_supxlabel().count("\n") < 3


def test_a_heat_map_says_how_wide_the_intervals_are(tmp_path: Path) -> None:
    for number, (b, eta) in enumerate(product((4, 16), (0.3, 2.0))):
        judged(tmp_path, [3.0 + number, 4.0, 5.0, 3.5], mini_batch_size=b, eta_base=eta, eta_base_start=eta)
    comparison = compare_runs(load_results(tmp_path), Question(x="model.mini_batch_size", z="model.eta_base"))
    with paper_style():
        canvas = figure_of(comparison).draw(comparison.table)
    words = canvas.get_supxlabel()
    assert re.search(r"Little\s+data:\s+95%\s+intervals,\s+about\s+±\d", words)
    assert "bars" not in words
    assert "*" not in words
    assert "eta_base_start" not in words
