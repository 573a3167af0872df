"""The committed runs of the laptop, and the figures and documents that are made from them."""

import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ttt.analysis.store import Results, load_results
from ttt.claims.table import as_markdown, judge_all
from ttt.cli.label import label_of_plain
from ttt.cli.sweep.files import sweep_names
from ttt.config.assets import assets
from ttt.plots.files import drawn
from ttt.plots.registry import figures

ROOT = assets()
LAPTOP = ROOT / "results" / "laptop"
FIGURES = ROOT / "docs" / "figures"
REPRODUCE = (ROOT / "REPRODUCE.md").read_text(encoding="utf-8")

MOST_BYTES = 16e6
"""Largest size of the whole folder, which holds records and metrics but no weights."""


@cache
def results() -> Results:
    return load_results(LAPTOP, label_of_plain)


def values(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for value in tree.values():
            yield from values(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value)
    else:
        yield tree


@pytest.mark.slow
def test_every_run_ended_and_none_was_left_out() -> None:
    runs = results().runs
    assert runs["status"].isin(["finished", "diverged"]).all()
    stated = re.search(r"has the records and metrics of (\d+) runs", REPRODUCE)
    assert stated
    assert int(stated[1]) == len(runs)
    sweeps = {json.loads(path.read_text())["sweep"] for path in LAPTOP.glob("*/record.json")}
    assert sweeps <= {f"laptop_{name}" for name in sweep_names("laptop")}


def test_records_name_a_clean_commit_and_no_place() -> None:
    for path in LAPTOP.glob("*/*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["git"]["commit"]
        assert not record["git"]["dirty"], path
        places = [value for value in values(record) if isinstance(value, str) and Path(value).is_absolute()]
        assert not places, path


def test_there_are_no_weights_and_no_large_files() -> None:
    files = [path for path in LAPTOP.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert names <= {
        "config.yaml",
        "record.json",
        "metrics.parquet",
        "inner_loss.parquet",
        "context_gain.parquet",
        "needle.parquet",
        "documents.parquet",
        "benchmark.json",
        "runs.csv",
    }
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


@pytest.mark.slow
def test_the_claims_are_judged_as_documented() -> None:
    assert as_markdown(judge_all(results())) in REPRODUCE


@pytest.mark.slow
@pytest.mark.parametrize("name", figures())
def test_a_figure_is_what_the_results_give(name: str) -> None:
    """Compare the numbers; the bytes of a picture also depend on the versions of the drawing libraries.

    Figures for which the results have no rows are not published.
    """
    figure = figures()[name]
    table = figure.table(figure.of(results()))
    published = sorted(path.suffix for path in FIGURES.glob(f"{name}.*"))
    assert published == ([] if table.empty else [".csv", ".pdf", ".png"])
    if published:
        kept = pd.read_csv(FIGURES / f"{name}.csv")
        again = pd.read_csv(io.BytesIO(drawn(figure, table, ())["csv"]))
        pd.testing.assert_frame_equal(kept, again, rtol=1e-6)


@pytest.mark.parametrize("name", figures())
def test_a_published_figure_is_shown(name: str) -> None:
    published = (FIGURES / f"{name}.png").is_file()
    assert (f"](docs/figures/{name}.png)" in REPRODUCE) == published
