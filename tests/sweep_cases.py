"""Plans of small runs and their records, for the tests of sweeps."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ttt.cli.sweep.main import main
from ttt.launch.plan import PlannedRun
from ttt.results.record import RunFolder


def called(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run ``ttt-sweep`` in this process; return exit code, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["ttt-sweep", *arguments])
    code = 0
    try:
        main()
    except SystemExit as error:
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def planned(number: int, folder: Path, parent: str | None = None, **changes: Any) -> PlannedRun:
    """Return run ``number`` of a sweep."""
    name = f"run-{number:04}"
    return replace(PlannedRun(name, str(folder / name), (f"seed={number}",), parent, 100, 1000), **changes)


def write_record(run: PlannedRun, status: str, steps: int, rate: float | None = None) -> None:
    """Write the part of a run's record that sweeps read."""
    record = {
        "schema_version": 1, "run_id": run.run_id, "name": run.run_id, "status": status, "error": None, "config": {},
        "overrides": [], "sweep": "six", "git": None, "versions": {}, "device": {}, "seed": 0, "parameters": {},
        "training_flops": 1.0, "tokens_per_step": 1000, "steps": steps, "steps_planned": 100, "tokens": 0, "data": {},
        "last_checkpoint": None, "results": {"validation": {"perplexity": 12.345}} if status == "finished" else {},
        "timing": {"started": "", "ended": None, "seconds": None, "tokens_per_second": rate},
    }  # fmt: skip
    folder = RunFolder(Path(run.folder))
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.record.write_text(json.dumps(record))


def write_sacct(program: Callable[[str, str], None], rows: list[tuple[str, str, str, int, str]]) -> None:
    """Create a stand-in for sacct that knows these jobs: id, state, end, time of submission, name."""
    lines = ["JobID|State|End|Submit|JobName", *("|".join(map(str, row)) for row in rows)]
    program("sacct", f"print({chr(10).join(lines)!r})")
