"""The command ``ttt-sweep``: a sweep on this machine from plan to table, and errors in the input."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_cases import called

from ttt.cli import plot
from ttt.cli.sweep.request import KEYS
from ttt.config.assets import assets


@pytest.fixture
def ttt_sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run ``ttt-sweep`` in a temporary folder; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        return called(arguments, monkeypatch, capsys)

    return run


def wait_for_the_end(ttt_sweep: Any, *arguments: str) -> dict[str, dict[str, Any]]:
    """Wait until all runs have ended; return the runs by run_id."""
    deadline = time.monotonic() + 600
    while True:
        _, out, _ = ttt_sweep("status", *arguments, "--json")
        runs = json.loads(out)
        if not any(run["state"] in ("queued", "waiting", "running") for run in runs):
            return {run["run_id"]: run for run in runs}
        assert time.monotonic() < deadline, ttt_sweep("status", *arguments)[1]
        time.sleep(0.5)


@pytest.mark.slow
def test_a_sweep_on_this_machine(ttt_sweep: Any, tiny: list[str], tmp_path: Path) -> None:
    """A run with its child, and a run that fails and orphans its child."""
    sweep = {
        "base": [*tiny, "trainer.max_steps=3"],
        "axes": {"data.max_chars": [1000000, 2001], "recipe": ["paper", "finetune"]},
        "rules": [{"when": {"recipe": "finetune"}, "from": {"recipe": "paper"}, "add": ["recipe.steps=2"]}],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(sweep))
    here = ["sweep=small.yaml"]
    code, out, _ = ttt_sweep("plan", *here)
    assert (code, "\n4 runs. " in out) == (0, True)
    memory = ttt_sweep("plan", *here, "memory=true", "device=a100")[1].splitlines()
    assert memory[-2] == "Memory of a step on one a100, counted and not measured (docs/memory.md):"
    assert len(memory[-1].split(": ")[1].split()) == 4, "equal steps share a line"
    assert not (tmp_path / "runs").exists()

    code, out, err = ttt_sweep("submit", *here, "slurm=local", "slurm.parallel=2")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "4 runs on this machine, 2 at a time"
    again = ttt_sweep("submit", *here, "slurm=local")[1]
    assert again.splitlines()[0].startswith("0 submitted, 4 were queued or running")

    states = sorted((run["state"], run["detail"]) for run in wait_for_the_end(ttt_sweep, *here).values())
    assert [state for state, _ in states] == ["failed", "finished", "finished", "orphaned"]
    assert "ctx" in states[0][1] or "document" in states[0][1], states[0]
    assert ttt_sweep("logs", *here, "finetune-that-is-not-there")[0] == 2
    folders = ttt_sweep("status", *here, "--folders")[1].splitlines()
    runs = wait_for_the_end(ttt_sweep, *here).values()
    assert sorted(folders) == sorted(run["folder"] for run in runs if run["state"] == "finished")

    code, out, err = ttt_sweep("collect", *here, "out=table")
    assert code == 0
    assert "2 of 4 runs finished" in out
    assert {path.name for path in (tmp_path / "table").iterdir() if path.is_dir()} == {
        Path(path).name for path in folders
    }
    for path in tmp_path.glob("table/*/record.json"):
        config = json.loads(path.read_text())["config"]
        assert config == yaml.safe_load(path.with_name("config.yaml").read_text())
        assert config["runs"] == "runs"
        assert config["data"]["cache_dir"] == "cache0"
        parent = config["parent"]
        assert parent["run"] is None or parent["run"].endswith(parent["run_id"].rpartition("-")[2])
    plot.main(["training", "runs=table", "out=figures"])
    assert (tmp_path / "figures/training.png").is_file()


@pytest.mark.slow
def test_a_submission_is_seen_before_it_is_sent_as_the_readme_says(ttt_sweep: Any, tmp_path: Path) -> None:
    (command,) = re.findall(r"^    ttt-sweep (submit .*dry=true)", (assets() / "README.md").read_text(), re.MULTILINE)
    code, out, _ = ttt_sweep(*shlex.split(command), "size=125m", "ctx=2k", "model=ttt_linear,mamba")
    assert code == 0
    assert "#SBATCH --array=" in out
    assert f"\nttt-train data=books size=125m ctx=2k model=mamba runs={tmp_path}/runs ckpt=last\n" in out
    assert out.splitlines()[-1] == "nothing was submitted or written"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_cancelling_saves_and_submitting_resumes(ttt_sweep: Any, tiny: list[str], tmp_path: Path) -> None:
    sweep = {"base": [*tiny, "recipe.steps=3000", "trainer.checkpoint_every=0"], "axes": {"seed": [0, 1]}}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(sweep))
    here = ["sweep=long.yaml"]
    ttt_sweep("submit", *here, "slurm=local")
    deadline = time.monotonic() + 600
    # Written after 100 steps.
    while not list(tmp_path.glob("runs/*/logs/csv/metrics.csv")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert ttt_sweep("cancel", *here)[1].startswith("2 cancelled")
    runs = wait_for_the_end(ttt_sweep, *here)
    assert {run["state"] for run in runs.values()} == {"cancelled"}
    deadline = time.monotonic() + 600
    while not any("interrupted" in path.read_text() for path in tmp_path.glob("runs/*/record.json")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/record.json"))
    assert record["last_checkpoint"] == f"step-{record['steps']:08d}.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["frob"], "frob: no such command; choose one of plan, submit, run, status, retry, cancel, logs, collect"),
        (["status"], "ttt-sweep status: sweep= is missing; see ttt-sweep --help"),
        (
            ["status", "sweep=x", "foo=1"],
            "foo=1: no such key; ttt-sweep status takes sweep, scale, runs",
        ),
        (["status", "sweep=x", "--wach"], "--wach: no such flag of ttt-sweep status; see ttt-sweep --help"),
        (["plan", "books"], "books: not of the form key=value"),
        (["status", "sweep=x", "runs_dir=x"], "runs_dir=x: this key is now called runs; write runs=x"),
        (["plan", "sweep=rates", "runs_dir=x"], "runs_dir=x: this key is now called runs; write runs=x"),
        (["plan", "sweep=nothing"], "sweep=nothing: choose one of "),
        (["status", "sweep=nothing"], "sweep=nothing: choose one of "),
        (["plan", "sweep=rates", "scale=paper"], "scale=paper: sweep=rates has only scale=laptop and scale=gpu"),
        (["plan", "sweep=rates", "device=abacus"], "device=abacus: choose one of v100, a100"),
        (["plan", "sweep=rates", "utilisation=2"], "utilisation=2.0: must be above 0 and at most 1"),
        (["submit", "sweep=rates", "slurm=local", "limit=2.5"], "limit=2.5: must be a whole number"),
        (["submit", "sweep=rates", "slurm=local", "limit=0"], "limit=0: must be a number of at least 1"),
        (["submit", "sweep=rates", "slurm=local", "canary=yes"], "canary=yes: must be true or false"),
        (["retry", "sweep=rates", "force=yes"], "force=yes: must be true or false"),
        (["status", "sweep=rates", "interval=inf"], "interval=inf: must be a number of at least 1"),
        (["plan", "sweep=rates", "utilisation=much"], "utilisation=much: must be a number"),
        (["submit", "sweep=rates"], "ttt-sweep submit: slurm= is missing"),
        (["submit", "sweep=rates", "slurm=nowhere"], "slurm=nowhere: choose one of a100, h100, local"),
        (
            ["retry", "sweep=rates"],
            "nothing was submitted yet; use ttt-sweep submit sweep=rates slurm=CLUSTER",
        ),
        (["logs", "sweep=rates"], "ttt-sweep logs: name a run; ttt-sweep status lists them"),
        (["collect", "sweep=rates"], "ttt-sweep collect: out= is missing"),
        (["collect", "sweep=rates", "out=x"], "plan.json: cannot be read"),
    ],
    ids=" ".join,
)
def test_a_mistake_gets_one_line(ttt_sweep: Any, arguments: list[str], line: str, tmp_path: Path) -> None:
    code, out, err = ttt_sweep(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert line in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["slurm=a100", "limit=0"], "limit=0: must be a number of at least 1"),
        (["slurm=a100", "canary=perhaps"], "canary=perhaps: must be true or false"),
        (["slurm=a100", "slurm.timeout_min=1"], "slurm.timeout_min=1: must exceed"),
        (["slurm=a100", "slurm.array_size=0"], "slurm.array_size=0: must be at least 1"),
        (["slurm=nowhere"], "slurm=nowhere: "),
        (["slurm=a100"], "slurm=a100: no sbatch on this machine"),
        ([], "ttt-sweep submit: slurm= is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_submission_is_checked_before_its_runs_are_composed(
    ttt_sweep: Any, arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composing the runs takes the longest by far."""
    monkeypatch.setattr("ttt.cli.sweep.commands.expand", None)
    monkeypatch.setenv("PATH", "/nowhere")
    code, out, err = ttt_sweep("submit", "sweep=rates", "scale=laptop", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_help_names_every_command_sweep_and_cluster(ttt_sweep: Any) -> None:
    code, out, _ = ttt_sweep("--help")
    assert code == 0
    for name in (*KEYS, "rates", "books_scaling", "a100", "local"):
        assert f" {name} " in out


@pytest.mark.parametrize("arguments", [["--help"], ["status", "sweep=x"]], ids=" ".join)
def test_it_answers_without_torch(arguments: list[str], tmp_path: Path) -> None:
    program = (
        f"import sys; sys.argv = ['ttt-sweep', *{arguments}]\n"
        "from ttt.cli.sweep.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*{'torch', 'lightning', 'pandas'}.intersection(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == ""
