"""The table of ``ttt-sweep collect``."""

import csv
from pathlib import Path
from runpy import run_path

from ttt.cli.sweep.commands import table_of_runs

make_run = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))["make_run"]


def test_the_table_has_a_column_for_every_key_that_varies_and_for_no_other(tmp_path: Path) -> None:
    for eta in (0.1, 0.3):
        make_run(tmp_path, eta_base=eta, steps=1, evaluated=False)
    rows = list(csv.DictReader(table_of_runs(tmp_path).splitlines()))
    assert sorted(row["model.eta_base"] for row in rows) == ["0.1", "0.3"]
    assert [key for key in rows[0] if "." in key] == ["model.eta_base"]
