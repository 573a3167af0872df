"""What a run or a sweep costs before it is started, and widths that match another model's parameters."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import planned

from ttt.analysis.speeds import earlier_speed
from ttt.cli.match import TOLERANCE, with_matched_size
from ttt.cli.sweep import times
from ttt.cli.sweep.dry import command
from ttt.cli.sweep.request import parse
from ttt.cli.sweep.tables import axis_values, cost_table
from ttt.cli.sweep.times import times_of
from ttt.cli.train import main
from ttt.config.errors import UserError
from ttt.config.identity import run_id
from ttt.config.plain import to_plain
from ttt.config.plan import check
from ttt.config.schema import TrainConfig
from ttt.config.text_table import WIDTH
from ttt.launch.cost import run_costs
from ttt.launch.plan import Plan
from ttt.models.build import build_model
from ttt.models.count import counted_model, state_numbers
from ttt.models.flops import training_flops

SMALL = ["size.width=16", "size.heads=2", "size.mlp_hidden=32", "data.vocab_size=400", "ctx.length=64"]
MODELS = ("ttt_linear", "ttt_mlp", "mamba", "transformer", "linear_attention")


@pytest.mark.parametrize("name", MODELS)
def test_one_block_counts_for_all(name: str, configure: Any) -> None:
    config: TrainConfig = configure(f"model={name}", *SMALL, "size.blocks=3")
    whole = build_model(config.model, config.size, config.backbone, config.kernel, config.data.vocab_size)
    counted = counted_model(config)
    assert counted.parameters == sum(parameter.numel() for parameter in whole.parameters())
    assert counted.flops(64, 1000) == pytest.approx(training_flops(whole, 64, 1000))


def test_only_the_state_of_attention_grows(configure: Any) -> None:
    for name in MODELS:
        config = configure(f"model={name}", *SMALL, "size.blocks=3")
        first, more = state_numbers(config)
        assert first > 0
        # Keys and values of 3 blocks of width 16.
        assert more == (2 * 3 * 16 if name == "transformer" else 0)


@pytest.mark.parametrize(("name", "other"), [("ttt_mlp", "mamba"), ("mamba", "ttt_mlp"), ("mamba", "mamba")])
def test_a_matched_size_has_the_other_models_parameters(name: str, other: str, configure: Any) -> None:
    wide = ["size.width=64", "size.mlp_hidden=176"]
    config = configure(f"model={name}", f"size.match={other}", *wide)
    matched = with_matched_size(config)
    wanted = counted_model(configure(f"model={other}", *wide)).parameters
    assert abs(counted_model(matched).parameters / wanted - 1) <= TOLERANCE["match"]
    given = configure(f"model={name}", f"size.width={matched.size.width}", f"size.mlp_hidden={matched.size.mlp_hidden}")
    assert run_id(matched) == run_id(given), "the name is the one of the width"


@pytest.mark.parametrize(
    ("words", "key", "width"),
    [
        (["model=deltanet"], "mlp_hidden", 299),
        (["model=hybrid", "model.pattern=[ttt_linear,sliding_attention]"], "mlp_hidden", 288),
        # A width of 2 heads for Mamba-2, which takes the width of its heads from it.
        (["model=mamba2"], "width", 88),
    ],
)
def test_a_matched_size_has_the_other_models_flops(words: list[str], key: str, width: int, configure: Any) -> None:
    wide = ["size.width=128", "size.mlp_hidden=344", "size.blocks=2", "ctx.length=2048", "data.vocab_size=1024"]
    matched = with_matched_size(configure(*words, *wide, "size.match_flops=mamba"))
    assert getattr(matched.size, key) == width
    ratio = counted_model(matched).flops(2048, 1) / counted_model(configure("model=mamba", *wide)).flops(2048, 1)
    assert abs(ratio - 1) <= TOLERANCE["match_flops"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["size.match=rwkv"], "size.match=rwkv: no such model"),
        (["size.match_flops=rwkv"], "size.match_flops=rwkv: no such model"),
        (["model=mamba", "size.match=ttt_mlp"], "no closer width"),
        # Attention alone costs more.
        (["model=transformer", "ctx.length=8192", "size.match_flops=mamba"], "no closer width"),
        (["size.match=mamba", "size.match_flops=mamba"], "size.match_flops=mamba: only one"),
    ],
)
def test_a_size_without_a_match_is_refused(words: list[str], line: str, configure: Any) -> None:
    with pytest.raises(UserError, match=line):
        with_matched_size(configure(*words))


def test_heads_bind_only_layers_that_have_them(configure: Any) -> None:
    check(configure("model=mamba", "size.heads=7"))
    with pytest.raises(UserError, match=r"size.heads=7: must divide"):
        check(configure("model=ttt_linear", "size.heads=7"))


@pytest.mark.slow
def test_plan_prints_the_cost_and_writes_nothing(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ttt.train.calibration.SECONDS", 0.0)
    compiled = list[object]()
    monkeypatch.setattr("ttt.train.calibration.compile_blocks", lambda blocks, _: compiled.extend(blocks))
    words = ["plan=true", "trainer.max_steps=4", "trainer.compile=true"]
    monkeypatch.setattr(sys, "argv", ["ttt-train", *tiny, *words])
    main()
    out = capsys.readouterr().out
    assert len(compiled) == 1, "what is measured is what the run does"
    for name in ("parameters", "state", "training", "FLOPs", "time", "memory", "disk"):
        assert f"\n  {name} " in out
    folder, *lines = out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert folder.startswith("runs/ttt_linear-mamba-w64-64-pycode-")
    assert "4 of 12 steps of 256 tokens" in out
    assert "measured now on cpu" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_plans_of_several_runs_leave_nothing_behind(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ttt.train.calibration.SECONDS", 0.0)
    monkeypatch.setattr(sys, "argv", ["ttt-train", "-m", *tiny, "seed=0,1", "plan=true"])
    main()
    assert capsys.readouterr().out.count("nothing was trained or written") == 2
    assert list(tmp_path.iterdir()) == []


def test_the_speed_of_earlier_runs_of_the_same_shape_on_the_same_device(configure: Any) -> None:
    config = configure(*SMALL)

    def record(speed: float, device: str = "cpu: x", steps: int = 100, **changes: Any) -> Any:
        plain = to_plain(replace(config, **changes))
        return {"steps": steps, "device": {"name": device}, "timing": {"tokens_per_second": speed}, "config": plain}

    others = [record(5.0, "cpu: y"), record(6.0, steps=2), record(7.0, ctx=replace(config.ctx, length=128))]
    assert earlier_speed(config, others, "cpu: x") is None
    found = earlier_speed(config, [*others, record(1.0, seed=3), record(3.0)], "cpu: x")
    assert found == (2.0, 2)


def small_sweep(configure: Any, folder: Path) -> Plan:
    overrides = [("model=mamba", f"recipe.learning_rate={rate}") for rate in ("1e-3", "1e-2")]
    runs, configs = [], {}
    for number, words in enumerate(overrides):
        config = configure(*words, *SMALL)
        runs.append(planned(number, folder, run_id=run_id(config), overrides=words))
        configs[run_id(config)] = config
    return Plan("small", runs, configs)


def test_a_small_sweep_has_its_time_on_this_machine(
    configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, asked = small_sweep(configure, tmp_path), []

    def speed(config: TrainConfig, *_: Any) -> times.Speed:
        asked.append(config)
        return times.Speed(1000.0, "measured now on cpu")

    monkeypatch.setattr(times, "speed_here", speed)
    costs = run_costs(plan, "h100", 0.4)
    found = times_of(plan, costs, None, 0.4, tmp_path, {})
    assert found.here
    assert len(asked) == 1, "runs that differ in a rate alone are measured once"
    assert set(found.hours.values()) == {costs[0].tokens / 1000 / 3600}
    table = cost_table(plan, costs, found, {})
    heading, first, *_ = table.splitlines()
    assert heading.split()[:3] == ["run", "method", "learning_rate"]
    assert first.split()[1:3] == ["Mamba", "1e-3"]
    assert max(map(len, table.splitlines())) <= WIDTH
    assert not times_of(plan, costs, "a100", 0.4, tmp_path, {}).here


def test_the_command_of_a_job_names_its_runs_folder_and_its_parent(tmp_path: Path) -> None:
    run = planned(1, tmp_path, parent="run-0000", overrides=("model.hidden=[4,4]",))
    text = command(parse(["submit", f"runs={tmp_path}"]), run, {"run-0000": f"{tmp_path}/run-0000"})
    assert text == f"ttt-train 'model.hidden=[4,4]' runs={tmp_path} ckpt=last from={tmp_path}/run-0000"
    assert axis_values([run]) == {}
