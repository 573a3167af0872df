"""``ttt-sweep run``: what fits into a limited time is chosen by measured speeds, run, and gone on with."""

import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from sweep_cases import called, planned, write_record

from ttt.cli.sweep import budgeted, pricing, run
from ttt.cli.sweep.tables import hash_of
from ttt.config.assets import assets
from ttt.config.errors import DivergedError, InterruptedRunError, UserError
from ttt.config.identity import run_id
from ttt.config.plan import plan_steps
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.config.text_table import WIDTH
from ttt.results.folders import folder_of
from ttt.results.record import RunFolder
from ttt.train import fitting

ROW = "ablation=row8 model.rope_period=default"
ROWS = {"what": "row 8", "sweep": "ablation", "with": f"{ROW} seed=0,1"}
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

    def call(*words: str, budget: str = "small.yaml") -> tuple[int, str, str]:
        here = (
            ["data=pycode", *tiny, "trainer=cpu", "trainer.progress=false"]
            if budget == "small.yaml"
            else ["trainer=cpu"]
        )
        return called(["run", f"budget={budget}", *here, *words], monkeypatch, capsys)

    return call


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
        folder = folder_of(config, Path(config.runs))
        run = replace(planned(0, folder.parent), run_id=name, folder=str(folder))
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
    Path("small.yaml").write_text(yaml.safe_dump({"minutes": 100000, "first": [ROWS]}))
    code, out, err = call("dry=true")
    assert (code, err) == (0, "measuring the speed of 1 shape of run on " + err.partition(" on ")[2])
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
    assert len(state["speeds"].popitem()[1]) == 1
    monkeypatch.setattr(run, "train", train)
    code, out, err = call()
    assert code == 0, err
    assert "measuring" not in err, "the speeds are kept"
    assert "row 8 1" in " ".join(out.split()), "one of its two runs is left"
    assert "1 run made in" in out
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/record.json")]
    assert [record["status"] for record in records] == ["finished"] * 2
    assert all(record["sweep"] == "gpu_ablation" and record["label"] for record in records)
    assert calls[1] in {record["run_id"] for record in records}


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


def test_the_share_of_the_tokens_is_the_largest_that_fits(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1000 tokens/s a run takes 3 s and 5 s more; two of half the tokens fit into 14 s, and nothing else."""
    fakes = Fakes(monkeypatch, 1e3)
    code, out, _ = call("data.eval_tokens=1", "time=14s")
    assert code == 0
    assert "0.5 of the tokens of each run" in out.splitlines()[0]
    assert (len(fakes.trained), fakes.steps) == (2, {6})
    assert [line for line in out.splitlines() if line.startswith("row 7") and line.endswith("left out")]
    assert json.loads(Path("runs/sweeps/budget_small/budget.json").read_text())["share"] == 0.5
    call("data.eval_tokens=1", "time=10h")
    assert (len(fakes.trained), fakes.steps) == (3, {6}), "later calls keep the share"


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        # Two runs and their probes take 11 s, of which the later part shares both.
        (["time=1h"], ["two 2 12.3k 0m11s", "one 0 0m00s made", "sum 0m11s"]),
        # A part that is left out leaves its runs to the later one.
        (["time=7s"], ["two 2 12.3k 0m11s left out", "one 1 6.14k 0m06s", "sum 0m06s"]),
    ],
)
def test_parts_that_share_a_run_pay_for_it_once(
    words: list[str], rows: list[str], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes(monkeypatch, 1e4)
    monkeypatch.setattr(pricing, "probed_tokens", lambda _: 1000)
    two, one = ROWS | {"what": "two", "longest": 512}, ROWS | {"what": "one", "longest": 512, "with": f"{ROW} seed=0"}
    Path("small.yaml").write_text(yaml.safe_dump({"minutes": 9, "first": [two], "then": [one]}))
    code, out, _ = call("data.eval_tokens=1", "ctx.length=512", "recipe.tokens_per_step=512", *words)
    assert code == 0
    assert [" ".join(line.split()) for line in out.splitlines()[2:5]] == rows
    assert len(fakes.probed) == len(fakes.trained) == (2 if words == ["time=1h"] else 1)


def test_the_hour_begins_with_its_first_parts(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(monkeypatch, 1e6)
    hour = yaml.safe_load((assets() / "sweeps" / "budgets" / "hour.yaml").read_text())
    Path("first.yaml").write_text(yaml.safe_dump(hour | {"then": []}))
    code, out, _ = call(budget="first.yaml")
    assert code == 0
    assert out.startswith("first: 1h00m on cpu: ")
    assert fakes.steps == {1536}
    assert fakes.benchmarks == ["latency"]
    parts = [name.split("-") for name in fakes.trained]
    assert [(size, ctx) for _, _, size, ctx, *_ in parts] == [("g1", "2k")] * 5 + [("g1", "8k")] * 3
    assert [model for model, *_ in parts[5:]] == ["ttt_linear", "transformer", "mamba"]
    assert list(map(hash_of, fakes.probed)) == list(map(hash_of, fakes.trained[5:]))
    assert max(map(len, out.splitlines()[:6])) <= WIDTH
    fakes.benchmarks.clear()
    assert "0 runs made" in call(budget="first.yaml")[1]
    assert fakes.benchmarks == [], "a benchmark that is done is not run again"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "runs"),
    [
        ("hour", [5, 3, 5, 3, 2, 5, 3]),
        ("night_ablation", [2, 2, 1, 1, 3, 2]),
        ("night_context_gain", [9, 9, 9, 3, 6, 6, 6]),
    ],
)
def test_a_budget_of_the_suite_is_planned(
    budget: str, runs: list[int], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fakes(monkeypatch, 5e5)
    code, out, _ = call("dry=true", budget=budget)
    assert code == 0
    head, _, *lines = out.splitlines()
    assert re.match(rf"{budget}: (1|10)h00m on cpu: \S+$", head), "at all of the tokens"
    assert "left out" not in lines[0]
    trained = [line for line in lines if re.search(r"\d[MG] +\d", line)]
    assert [int(line.removesuffix("left out").split()[-3]) for line in trained[: len(runs)]] == runs


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["time=1s"], r"error: time=1s: the shortest part \(row 7\) takes 0m05s.*; time=\d+s is enough"),
        (["time=soon"], "error: time=soon: must be a time such as 90s, 55m or 8h"),
        (["share=2"], "error: share=2: must be above 0 and at most 1"),
        (["recipe=finetune"], "error: sweep=gpu_ablation: seed=0 .*: recipe=finetune: starts from another run"),
        (["data=local", "data.path=nowhere"], "error: data.path=nowhere: "),
        (["size=g9"], "error: sweep=gpu_ablation: .*size=g9: choose one of"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    Fakes(monkeypatch, 1e5)
    code, _, err = call(*words)
    assert code == 2
    assert [text for text in err.splitlines() if not text.startswith("measuring")] == err.splitlines()[-1:]
    assert re.match(line, err.splitlines()[-1]), err
    assert not list(Path.cwd().glob("runs/*/record.json"))


def test_a_context_too_short_for_a_probe_is_said_before_anything_is_trained(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes(monkeypatch, 1e6)
    Path("small.yaml").write_text(yaml.safe_dump({"minutes": 9, "first": [ROWS | {"longest": 1024}]}))
    line = "error: ctx=64: a part that is probed (longest=1024) needs at least 512 tokens; give ctx=512\n"
    assert call() == (2, "", line)
    assert fakes.trained == []


def test_a_budget_is_for_one_device(configure: Any) -> None:
    with pytest.raises(UserError, match=r"trainer.device=auto,cpu: a budget is for one device"):
        run._device([configure("trainer.device=cpu"), configure("trainer.device=auto")])


def test_an_unknown_budget_names_those_there_are(call: Call) -> None:
    error = "error: budget=week: choose one of hour, night_ablation, night_context_gain, or the path of a .yaml file\n"
    assert call(budget="week")[2] == error


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there_is_one_line(call: Call) -> None:
    code, _, err = call("trainer.device=cuda")
    assert (code, err) == (2, "error: trainer.device=cuda: torch finds no such device here; cpu always runs\n")


def test_a_size_that_does_not_fit_names_the_nearest_that_does(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "room_here", lambda _: fitting.Room("cuda", 1e9, "cuda", "bf16-mixed"))
    # A step takes 0.1 GB for every token, so that no context above 8 tokens fits.
    monkeypatch.setattr(
        fitting, "counting", lambda _: lambda config, *_: SimpleNamespace(total=config.ctx.length * 1e8)
    )
    code, _, err = call("trainer.device_tokens=auto")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: size=g1: a sequence of 64 tokens without trainer.activation_che")
    assert "takes 6.4 GB by count, and cuda has 1 GB" in err


def test_runs_too_large_to_measure_are_left_out(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    Fakes(monkeypatch, None)
    code, _, err = call()
    assert code == 2
    assert err.splitlines()[-1].startswith("error: budget=small: its runs are too large for cpu: ")


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
