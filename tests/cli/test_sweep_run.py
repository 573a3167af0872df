"""``ttt-sweep run``: what fits into a limited time is chosen by measured speeds, run, and gone on with."""

import json
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from sweep_cases import planned, write_record

from ttt.cli.sweep import budgeted, pricing, run
from ttt.cli.sweep.main import main
from ttt.config.errors import DivergedError, InterruptedRunError
from ttt.config.identity import run_id
from ttt.config.plan import plan_steps
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.config.text_table import WIDTH
from ttt.results.record import RunFolder
from ttt.train import fitting

ROWS = {"what": "row 8", "sweep": "ablation", "with": "ablation=row8 model.rope_period=default seed=0,1"}
OTHER = {"what": "row 7", "sweep": "ablation", "with": "ablation=row7 model.rope_period=default seed=0"}
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: list[str]) -> Call:
    """Run ``ttt-sweep run`` of a small budget in a temporary folder; return exit code, output and standard error."""
    monkeypatch.chdir(tmp_path)
    # The machine's speed must not decide what fits.
    monkeypatch.setattr(budgeted, "MOST_CALIBRATION", 0.0)
    small = {"minutes": 100000, "shares": [1, 0.5], "first": [ROWS], "then": [OTHER]}
    Path("small.yaml").write_text(yaml.safe_dump(small))

    def called(*words: str, budget: str = "small.yaml") -> tuple[int, str, str]:
        here = (
            ["data=pycode", *tiny, "trainer=cpu", "trainer.progress=false"]
            if budget == "small.yaml"
            else ["trainer=cpu"]
        )
        monkeypatch.setattr(sys, "argv", ["ttt-sweep", "run", f"budget={budget}", *here, *words])
        code = 0
        try:
            main()
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return called


class Fakes:
    """Stand-ins for training, probing and benchmarks that take no time, on a device of a known speed; they note calls.

    Attributes:
        trained: ids of the runs that were trained.
        probed: ids of the runs that were probed.
        benchmarks: of the part.
        error: raised by the next training, if any.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, speed: float | None) -> None:
        self.trained, self.probed, self.benchmarks = list[str](), list[str](), list[str]()
        self.steps, self.error = set[int](), cast("Exception | None", None)
        for module in (budgeted, run):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 0.0))
        monkeypatch.setattr(pricing, "measured_here", lambda *_: speed)
        monkeypatch.setattr(run, "train", self.train)
        monkeypatch.setattr(run, "evaluate", self.probe)
        monkeypatch.setattr(run, "_benchmark", lambda _, part: self.benchmarks.append(part.part.bench))

    def train(self, config: TrainConfig, *_: Any) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error
        name, steps = run_id(config), plan_steps(config).steps
        run = replace(planned(0, Path(config.runs)), run_id=name, folder=str(Path(config.runs) / name))
        write_record(run, "finished", steps)
        self.trained.append(name)
        self.steps.add(steps)

    def probe(self, config: EvalConfig, _: list[str]) -> None:
        RunFolder(Path(config.run)).context_gain.touch()
        self.probed.append(Path(config.run).name)


@pytest.mark.slow
def test_a_budget_is_planned_run_cut_off_and_gone_on_with(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, out, err = call("dry=true")
    assert (code, err) == (0, "measuring the speed of 2 shapes of run on " + err.partition(" on ")[2])
    assert "nothing was trained or written" in out
    assert max(map(len, out.splitlines())) <= WIDTH
    assert not list(tmp_path.glob("runs/**/*.json"))
    train, calls = run.train, list[str]()

    def cut(config: TrainConfig, *rest: Any) -> None:
        calls.append(run_id(config))
        if len(calls) == 2:
            raise InterruptedRunError("stopped by SIGTERM", signal.SIGTERM)
        train(config, *rest)

    monkeypatch.setattr(run, "train", cut)
    code, out, err = call()
    assert (code, err.splitlines()[-1]) == (1, "error: stopped by SIGTERM")
    state = json.loads((tmp_path / "runs/sweeps/budget_small/budget.json").read_text())
    assert state["share"] == 1
    assert state["spent"] > 0
    assert len(state["speeds"].popitem()[1]) == 2
    monkeypatch.setattr(run, "train", train)
    code, out, err = call()
    assert code == 0, err
    assert "measuring" not in err, "the speeds are kept"
    assert "row 8 1" in " ".join(out.split()), "one of its two runs is left"
    assert "2 runs made in" in out
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/record.json")]
    assert [record["status"] for record in records] == ["finished"] * 3
    assert all(record["sweep"] == "gpu_ablation" and record["label"] for record in records)
    assert calls[1] in {record["run_id"] for record in records}
    assert "\n0 runs made in" in call()[1]


def test_a_run_that_fails_does_not_stop_the_others(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(monkeypatch, 1e6)
    fakes.error = DivergedError("runs/x: the loss is infinite")
    code, out, err = call()
    assert (code, len(fakes.trained)) == (1, 2)
    assert "2 runs made" in out
    assert "failed: runs/x: the loss is infinite" in err
    assert err.splitlines()[-1].startswith("error: 1 run failed: ttt_linear-mamba-g1-64-pycode-seed0-")
    assert call()[0] == 0, "the same command tries again"
    assert len(set(fakes.trained)) == 3


def test_the_hour_takes_what_fits_at_the_measured_speed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 2M tokens/s everything fits; at 0.4M the first parts do at half of the tokens, and the others do not."""
    fakes = Fakes(monkeypatch, 4e5)
    code, out, _ = call("runs=slow", budget="hour")
    assert code == 0
    assert out.startswith("hour: 1h00m on cpu: ")
    assert "0.5 of the tokens of each run" in out
    assert "mini-batches of 1 and 256 tokens" in out
    assert fakes.steps == {768}
    assert fakes.benchmarks == ["latency"]
    rows, gain = fakes.trained[:5], fakes.trained[5:8]
    assert (
        [name.split("-")[0] for name in gain]
        == ["ttt_linear", "transformer", "mamba"]
        == [name.split("-")[0] for name in fakes.probed[:3]]
    )
    assert {name.split("-")[3] for name in rows} == {"2k"}
    assert {name.split("-")[3] for name in gain} == {"8k"}
    assert "left out" in out
    fast = Fakes(monkeypatch, 2e6)
    out = call("runs=fast", budget="hour")[1]
    assert "left out" not in out
    assert fast.steps == {1536}
    assert len(fast.trained) == len(set(fast.trained)) == 5 * 3 + 3 * 2 + 2 + 3
    assert max(map(len, out.splitlines()[:12])) <= WIDTH


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "speed", "share", "runs"),
    [
        ("night_ablation", 4e5, "", [2, 2, 1, 1, 3, 2]),
        ("night_context_gain", 6e5, ", 0.5 of the", [9, 9, 9, 3, 6, 6, 6]),
    ],
)
def test_the_nights_take_what_fits(
    budget: str, speed: float, share: str, runs: list[int], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fakes(monkeypatch, speed)
    code, out, _ = call("dry=true", budget=budget)
    assert code == 0
    head, _, *lines = out.splitlines()
    assert head.startswith(f"{budget}: 10h00m on cpu: ")
    assert share in head
    assert [int(line[37:].split()[0]) for line in lines[: len(runs)]] == runs
    assert "left out" in out
    assert "left out" not in lines[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["time=1s"], r"error: time=1s: the shortest part \(row 7\) takes 0m05s.*; time=\d+s is enough"),
        (["time=soon"], "error: time=soon: must be a time such as 90s, 55m or 8h"),
        (["share=2"], "error: share=2: must be above 0 and at most 1"),
        (["recipe=finetune"], "error: sweep=gpu_ablation: seed=0 .*: recipe=finetune: starts from another run"),
        (["trainer.device=cpu,auto"], "error: trainer.device=auto,cpu: a budget is for one device"),
        (["data=local", "data.path=nowhere"], "error: data.path=nowhere: "),
        (["size=g9"], "error: sweep=gpu_ablation: .*size=g9: choose one of"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    Fakes(monkeypatch, 1e5)
    code, _, err = call(*words)
    assert code == 2
    assert err.count("\n") == 1
    assert re.match(line, err), err
    assert not list(Path.cwd().glob("runs/*/record.json"))


def test_an_unknown_budget_names_those_there_are(call: Call) -> None:
    error = "error: budget=week: choose one of hour, night_ablation, night_context_gain, or the path of a .yaml file\n"
    assert call(budget="week")[2] == error


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there_is_one_line(call: Call) -> None:
    code, _, err = call("trainer.device=cuda")
    assert (code, err) == (2, "error: trainer.device=cuda: torch finds no such device here; cpu always runs\n")


def test_a_size_that_does_not_fit_names_the_nearest_that_does(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    room = fitting.Room("cuda", 3e6, "cpu", "32-true")
    monkeypatch.setattr(fitting, "room_here", lambda _: room)
    code, _, err = call("size.width=512", "size.heads=8", "trainer.device_tokens=auto", "time=30m")
    assert code == 2
    assert "takes" in err
    assert err.splitlines()[-1].startswith("error: size=g1: a sequence of 64 tokens without trainer.activation_che")


def test_runs_too_large_to_measure_are_left_out(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    Fakes(monkeypatch, None)
    code, _, err = call()
    assert (code, err.startswith("error: budget=small: its runs are too large for cpu: ")) == (2, True)


def test_one_process_runs_a_budget(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    Fakes(monkeypatch, 1e6)
    with run._alone(Path("runs/sweeps/budget_small").absolute(), dry=False):
        assert "another process runs this budget" in call()[2]
        assert call("dry=true")[0] == 0


def test_the_time_that_is_over_leaves_the_rest_out(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part whose runs take longer than their estimate does not take the time of a later one beyond the end."""
    fakes = Fakes(monkeypatch, 1e6)
    monkeypatch.setattr(budgeted.Budgeted, "left", lambda _: 1e3 if len(fakes.trained) < 1 else -1.0)
    _, out, _ = call()
    assert len(fakes.trained) == 1
    assert "left out: the rest of row 8; the time is over" in out
    assert "left out: row 7 takes 0m05s, 0m00s are left" in out
