"""Scores on tasks of lm-evaluation-harness stand wherever a run's results are shown."""

import csv
import json
import re
from html import unescape
from pathlib import Path
from runpy import run_path

import pytest

from ttt.analysis.store import load_results
from ttt.cli.label import label_of_plain
from ttt.cli.runs import main
from ttt.cli.sweep.commands import table_of_runs
from ttt.evaluate.card import model_card
from ttt.plots.registry import figures
from ttt.plots.report import report
from ttt.results.record import Record, RunFolder, read_record, write_record

synthetic = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))

METRICS = {"piqa": {"acc": 0.4, "acc_norm": 0.42}, "lambada_openai": {"perplexity": 100.0, "acc": 0.2}}
"""Task -> metric -> score, of the run below."""

MEAN = "mean4-step30"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Return a run with scores of its newest weights, and with the same of a mean of others, ten times as large."""
    folder: RunFolder = synthetic["make_run"](tmp_path / "runs", steps=30, perplexity=20.0)
    record: Record = read_record(synthetic["make_scores"](folder).record)
    for name in METRICS:
        own = record["tasks"][name]
        tenfold = {metric: 10 * value for metric, value in own["scores"].items() if value is not None}
        record["tasks"][f"{name}-{MEAN}"] = {**own, "scores": tenfold, "weights": MEAN}
    write_record(folder.record, record)
    return folder


def rows_of(table: str) -> set[tuple[str, ...]]:
    """Return the rows of a Markdown table, cell by cell."""
    return {tuple(cell.strip() for cell in line.strip("| ").split(" | ")) for line in table.splitlines()}


def test_the_list_and_the_collected_table(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    named = {f"{task} {metric}": value for task, metrics in METRICS.items() for metric, value in metrics.items()}
    named |= {name.replace(" ", f"-{MEAN} "): 10 * value for name, value in named.items()}
    main(["show", str(run.path), "--json"])
    assert json.loads(capsys.readouterr().out)["record"]["tasks"] == read_record(run.record)["tasks"]
    main(["show", str(run.path)])
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {name: float(lines[name].replace(",", "")) for name in named} == pytest.approx(named)
    (collected,) = csv.DictReader(table_of_runs(run.path.parent).splitlines())
    assert {name: float(collected[name]) for name in named} == pytest.approx(named)


def test_the_card_has_those_of_its_weights(run: RunFolder) -> None:
    record = read_record(run.record)
    for weights, factor in (("", 1), (MEAN, 10)):
        found = rows_of(model_card(record, 30, "512", weights))
        suffix = f"-{weights}" if weights else ""
        for task, metrics in METRICS.items():
            for metric, value in metrics.items():
                row = (f"{task}{suffix}", metric, f"{value * factor:.4f}", "0.0200", "100", "0", "512")
                assert row in found
        assert sum(row[0].startswith(tuple(METRICS)) for row in found) == 4
    # The run's own perplexity is not that of the mean.
    assert "the mean of the last 4 checkpoints up to this step" in model_card(record, 30, "512", MEAN)
    assert ", validation | 20.00 |" in model_card(record, 30, "512")
    assert ", validation | 20.00 |" not in model_card(record, 30, "512", MEAN)


@pytest.mark.slow
def test_the_report_and_the_figure(run: RunFolder) -> None:
    results = load_results(run.path.parent, label_of_plain)
    page = report(results, [])
    cells = [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in page.split("<tr>")]
    for weights, factor in (("", 1), (MEAN, 10)):
        for task, metrics in METRICS.items():
            for metric, value in metrics.items():
                score = f"{value * factor:.4g}"
                assert [task, metric, run.path.name, score, "0.02", "100", "0", "512", weights, ""] in cells
    drawn = figures()["tasks"].table(results)
    drawn_scores = dict(zip(drawn["task"], drawn["score"], strict=True))
    assert drawn_scores == pytest.approx({"piqa": 0.42, "lambada_openai": 0.2})
    assert set(drawn["flops"]) == {read_record(run.record)["training_flops"]}
