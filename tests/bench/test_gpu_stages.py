"""``python -m ttt.bench.gpu`` without a GPU: its stages, limits, tables and document; kernels are interpreted."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ttt.bench.gpu import __main__ as program
from ttt.bench.gpu import card as cards
from ttt.bench.gpu import compare, kernel_times, mixers, run, training
from ttt.bench.gpu.compare import BOTH, DECODE, REPEAT, Case
from ttt.bench.gpu.document import MARKERS, write_document
from ttt.bench.gpu.machine import measure_rates
from ttt.bench.gpu.operators import GROUPS, IN_PLACE, Sizes, passes
from ttt.bench.gpu.tables import TABLES, Table, read_table
from ttt.bench.gpu.tools import counted_errors, reported
from ttt.config.bench import STAGES, GPUBenchConfig
from ttt.config.errors import UserError
from ttt.config.schema import SizeConfig
from ttt.kernels import triton_probe as probe
from ttt.kernels.triton import op
from ttt.kernels.triton.choices import CANDIDATES, Choice, choose, forced_choice, read_measured, using
from ttt.kernels.triton.sizes import DEFAULT_GROUP

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="make gpu runs the stages on a GPU")

CPU = torch.device("cpu")


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_says_in_one_line_that_there_is_no_card(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run_here(stage, tmp_path, 10) == run.UNUSABLE
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{stage}: no card: ")
    assert not (tmp_path / f"{stage}.log").exists()
    assert set(TABLES) == set(STAGES) == set(program.MODULES) == set(run.SHARES)


def test_a_driver_too_old_for_cuda_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    program.run_here("kernels", tmp_path, 10)
    assert (
        "kernels: no card: torch finds no GPU; either there is none, or its driver is too old"
        in capsys.readouterr().out
    )


def test_a_driver_too_old_for_triton_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    def load(*_: Any) -> None:
        raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid")

    monkeypatch.setattr(cards, "any_card", lambda: CPU)
    assert cards.card() == CPU, "the interpreter can run the probe"
    monkeypatch.setattr(probe, "write_one", {(1,): load})
    assert program.run_here("kernels", tmp_path, 10) == run.UNUSABLE
    last = capsys.readouterr().out.splitlines()[-1]
    assert "(RuntimeError: Triton Error [CUDA]: device kernel image is invalid); if its driver is older" in last


def test_an_unexpected_error_is_one_line_and_its_traceback_is_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "card", lambda: 1 / 0)
    assert program.run_here("compare", tmp_path, 10) == 1
    assert "compare: ZeroDivisionError: division by zero (" in capsys.readouterr().out
    assert "Traceback" in (tmp_path / "compare.log").read_text()


def test_a_stage_that_fails_or_hangs_does_not_stop_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codes = {
        "machine": "print('versions')",
        "compare": "raise SystemExit(2)",
        "kernels": "import time; print('begun', flush=True); time.sleep(600)",
        "mixers": "raise SystemExit(7)",
    }
    later = "import sys; sys.exit(0)"
    monkeypatch.setattr(run, "command_of", lambda stage, *_: [sys.executable, "-S", "-c", codes.get(stage, later)])
    monkeypatch.setattr(run, "SHARES", {stage: 0.01 if stage == "kernels" else 1 for stage in STAGES})
    assert not run.run_stages(GPUBenchConfig(out=str(tmp_path), seconds=600))
    outcomes = {line["stage"]: line["outcome"] for line in read_table(tmp_path, "stages")}
    expected = ["finished", "cannot run here", "stopped at its limit", "failed with code 7"]
    assert outcomes == dict(zip(STAGES, expected + 4 * ["finished"], strict=True))
    assert "== kernels: stopped at its limit after" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["stagse=compare"], "stagse=compare: no such key; choose from out, stages, seconds, document, as KEY=VALUE"),
        (["stages=compare,spare"], "stages=spare: choose from machine, compare"),
        (["seconds=x"], "seconds=x: must be a whole number"),
        (["seconds=1"], "seconds=1: must be at least 10"),
        (["document=none.md"], "runs/gpu: has no table of a card"),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert program.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_groups_are_those_of_the_operators() -> None:
    assert {"linear": DEFAULT_GROUP[1], "mlp": DEFAULT_GROUP[2]} == GROUPS


@pytest.mark.slow
def test_a_comparison_is_right_and_a_wrong_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in (Case(BOTH, "linear", "fp16", 16, 5), Case(DECODE, "mlp", "fp32", 16, 2)):
        assert compare.judged(case, "cpu").text == "right", case
    true = op.inner_loop

    def with_a_wrong_block(*given: Any, **named: Any) -> Any:
        z, W = true(*given, **named)
        return torch.cat([z[..., :8] * (1 + 3e-5), z[..., 8:]], dim=-1), W

    monkeypatch.setattr(op, "inner_loop", with_a_wrong_block)
    assert compare.judged(Case(BOTH, "linear", "fp32", 16, 4), "cpu").text == "WRONG"
    monkeypatch.setattr(op, "inner_loop", lambda *given, **named: true(*given, **named)[0].error)
    assert compare.judged(Case(BOTH, "linear", "fp32", 16, 4), "cpu").text.startswith("failed: AttributeError")


def test_a_size_that_the_operator_refuses_is_expected_as_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "INTERPRETED", False)
    monkeypatch.setattr(op, "_shared_memory", lambda device: device and 99 * 1024)
    case = Case(BOTH, "mlp", "fp32", 128, 64)
    assert compare.judged(case, "cpu").text.startswith("refused: head width 128, b = 64")
    monkeypatch.setattr(op, "inner_loop", lambda *_: None)
    assert compare.judged(case, "cpu").text.startswith("WRONG: not refused")


def test_repetitions_that_differ_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case, values = Case(REPEAT, "linear", "fp32", 16, 4), iter([1.0, 1.0, 1.0 + 2**-23])
    monkeypatch.setattr(compare, "_differentiated", lambda _: {"z": torch.tensor(next(values))})
    assert compare.repeated(case, CPU, times=3, mini_batches=1).text == "WRONG: run 3 differs in z"
    monkeypatch.setattr(compare, "_differentiated", lambda _: {"z": torch.ones(2)})
    assert compare.repeated(case, CPU, times=3, mini_batches=1).text == "equal bytes in 3 runs"


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["linear", "mlp"])
def test_the_timed_functions_launch_each_kernel(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[str] = []
    configuration = "ttt.kernels.triton.configurations.Configuration.launch"
    functions = passes(Sizes(layer, "fp32", 1, 1, 8, 16, 4), CPU)
    monkeypatch.setattr(configuration, lambda self, *_, **__: launches.append(self.kernel))
    for function in functions.values():
        function()
    recompute = ["linear_recompute"] if layer == "linear" else []
    assert launches == [f"{layer}_forward", *recompute, f"{layer}_backward", *[f"{layer}_decode"] * 2]


def test_every_way_is_timed_and_the_fastest_is_returned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seconds = {Choice(8, 128): 3e-3, Choice(8, 32): 1e-3, Choice(8): 2e-3}

    def clock(function: Callable[[], object]) -> float:
        choice = function()
        if choice == Choice(4, 128):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return seconds.get(choice, 4e-3)  # type: ignore[call-overload]

    names = {"forward": "mlp_forward_on_chip", "backward": "mlp_backward", "decode": "mlp_decode"}
    names[IN_PLACE] = "mlp_decode"
    functions = {use: lambda name=name: forced_choice(name) for use, name in names.items()}

    def passes_of_the_forced(*_: object) -> dict[str, Callable[[], object]]:
        forced = {use: function() for use, function in functions.items()}
        return {use: lambda choice=choice: choice for use, choice in forced.items()}

    monkeypatch.setattr(kernel_times, "passes", passes_of_the_forced)
    table = Table(tmp_path, "kernels")
    found = kernel_times.compared_ways(table, Sizes("mlp", "bf16", 4, 8, 64), CPU, clock)
    assert found == {"mlp_forward_on_chip 32": Choice(8), "mlp_backward 32": Choice(8, 32)}
    lines = read_table(tmp_path, "kernels")
    assert len(lines) == len(CANDIDATES["mlp_forward_on_chip"]) + len(CANDIDATES["mlp_backward"]) + 2
    assert [line["note"] for line in lines if line["warps"] == "4" and line["block"] == "128"] == ["CUDA out of memory"]
    assert all(float(line["model ns"]) > 0 for line in lines if line["ms"] and line["kernel"] != "mlp_decode")


def test_the_model_chooses_by_the_number_of_programs() -> None:
    assert [choose("linear_backward", programs, {}).warps for programs in (1, 132, 133, 264, 512)] == [8, 8, 4, 4, 4]
    assert [choose("linear_forward", programs, {}).warps for programs in (1, 264, 265, 528)] == [4, 4, 2, 2]
    assert {choose("mlp_backward", programs, {}) for programs in (1, 132, 264, 512)} == {Choice(8, 128)}
    assert choose("mlp_forward_on_chip", 264, {}) == Choice(16)


def test_a_measurement_comes_before_the_model(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"mlp_backward 32": [8, 32], "mlp_backward 264": [4, 128]}))
    measured = read_measured(path)
    found = [choose("mlp_backward", programs, measured) for programs in (1, 32, 263, 264, 1000)]
    assert found == [Choice(8, 32)] * 3 + [Choice(4, 128)] * 2
    assert choose("linear_backward", 264, measured) == Choice(4), "not measured"
    for text in ('{"mlp_backward 32": [2, 7]}', "[]", "{", '{"conv 32": [8]}', '{"mlp_backward": [8, 32]}'):
        other = tmp_path / f"{len(text)}.json"
        other.write_text(text)
        assert read_measured(other) == {}, text
    with using({"mlp_backward": Choice(8, 32)}):
        assert forced_choice("mlp_backward") == Choice(8, 32)
    assert forced_choice("mlp_backward") is None


@pytest.mark.slow
def test_mixers_are_timed_and_missing_ones_are_named(tmp_path: Path) -> None:
    mixers.measure(Table(tmp_path, "mixers"), 1, 16, 64, CPU)
    lines = {line["mixer"]: line for line in read_table(tmp_path, "mixers")}
    assert list(lines) == list(mixers.MIXERS)
    assert all(float(lines[name]["both ms"]) > 0 for name in ("TTT-Linear", "TTT-MLP", "attention"))
    assert all(lines[name]["note"].startswith("not installed") for name in ("fla GDN", "fla GLA", "mamba_ssm"))


def test_rates_of_copies_and_products(tmp_path: Path) -> None:
    measure_rates(Table(tmp_path, "machine"), CPU, 2**10, 16)
    assert len(read_table(tmp_path, "machine")) == 4


REPORT = """==PROF== Disconnected
"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","mlp_backward","Speed Of Light","Duration","us","1,234.5"
"0","mlp_backward","Speed Of Light","SM Frequency","Ghz","1.7"
"0","mlp_backward","Occupancy","Achieved Occupancy","%","12.4"
"""


def test_reports_of_the_tools() -> None:
    assert list(reported(REPORT)) == [("Duration", "us", "1,234.5"), ("Achieved Occupancy", "%", "12.4")]
    with pytest.raises(RuntimeError, match="ncu: ==ERROR== LibraryNotLoaded"):
        list(reported("==PROF==\n==ERROR== LibraryNotLoaded"))
    assert counted_errors("========= ERROR SUMMARY: 3 errors") == 3
    assert counted_errors("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)") == 0
    assert counted_errors("========= Device not supported") is None


@pytest.mark.slow
def test_training_with_both_kernels_gives_one_loss(tmp_path: Path) -> None:
    given = training.batches(1, 20, 1) * 2
    training.compare_training(Table(tmp_path, "train"), "linear", CPU, SizeConfig("tiny", 16, 1, 1, 32), given)
    lines = read_table(tmp_path, "train")
    assert [line["step"] for line in lines] == ["1", "2"]
    for line in lines:
        assert float(line["loss, triton"]) == pytest.approx(float(line["loss, dual"]), abs=2e-4)
    assert float(lines[1]["loss, dual"]) < float(lines[0]["loss, dual"])


def test_the_saved_tables_become_the_measured_part_of_a_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before\n{MARKERS.begin}\nold\n{MARKERS.end}\nafter\n")
    machine = Table(tmp_path, "machine")
    with pytest.raises(UserError, match="has no table of a card"):
        write_document(document, tmp_path)
    machine.add(what="device", value="NVIDIA H100")
    machine.add(what="triton", value="3.6.0")
    Table(tmp_path, "train").add(layer="mlp", step=1, loss_dual="2.5")
    (tmp_path / "stages.csv").write_text(
        "stage,outcome,seconds,lines\nmachine,finished,1,2\ntrain,stopped at its limit,1,1\n"
    )
    write_document(document, tmp_path)
    text = document.read_text()
    assert "Measured on one NVIDIA H100 (triton 3.6.0)." in text
    assert "The stage stopped at its limit" in text
    assert "| mlp | 1 |  | 2.5 |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "1 table of NVIDIA H100" in capsys.readouterr().out
