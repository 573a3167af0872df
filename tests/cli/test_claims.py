import json
from pathlib import Path
from runpy import run_path

import pytest

from ttt.claims.table import CLAIMS
from ttt.cli.claims import main

make_ladder = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))["make_ladder"]


@pytest.mark.slow
def test_claims_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_ladder(tmp_path / "runs", (0, 1, 2), own_noise=0)
    for name in ("claims.csv", "claims.json", "claims.md"):
        main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / name}"])
    printed = capsys.readouterr().out
    assert "1. The rows of Table 1" in printed
    assert "HELD (7 held)" in printed
    assert "ttt-bench latency" in printed
    assert (tmp_path / "claims.csv").read_text().startswith("claim,verdict,part")
    table = (tmp_path / "claims.md").read_text().splitlines()
    assert sum(line.startswith("| **") for line in table) == len(CLAIMS)
    assert sum(" | held | " in line for line in table) == 7
    assert {line.count("|") for line in table} == {4}
    assert json.loads((tmp_path / "claims.json").read_text())["claims"][1]["verdict"] == "no runs"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["runs=nowhere"], "runs=nowhere: no such folder"),
        (["out=claims.txt"], "out=claims.txt: must end in"),
        (["--results", "nowhere"], "--results: has been replaced; write runs=FOLDER"),
        (["--out=claims.csv"], "--out: has been replaced; write out=FILE"),
        (["table_1"], "table_1: not of the form key=value"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {named}")
    assert captured.err.count("\n") == 1
