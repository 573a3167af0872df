"""The runs that a submission chooses: canaries first, parents before children, no more than a limit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep_cases import planned

from ttt.config.schema import TrainConfig
from ttt.launch.choice import Choice, Held, choose, read_held, shapes, with_reasons, write_held
from ttt.launch.plan import Plan, PlannedRun, SweepFolder
from ttt.launch.status import RunStatus

Make = Callable[[list[PlannedRun]], SweepFolder]

A = "shape a"
SHAPES = {"run-0000": A, "run-0001": A, "run-0002": "b", "run-0003": "b", "run-0004": A}


def statuses(**changes: dict[str, Any]) -> list[RunStatus]:
    """Return five runs, of which the last starts from the first; ``r0={"state": ...}`` changes one."""
    runs = [planned(number, Path(), "run-0000" if number == 4 else None) for number in range(5)]
    return [replace(RunStatus(run), **changes.get(f"r{number}", {})) for number, run in enumerate(runs)]


def chosen(found: list[RunStatus], limit: int | None = None, canary: bool = True) -> Choice:
    open_runs = [one.run.run_id for one in found if one.state not in ("running", "queued", "finished")]
    return choose(found, open_runs, SHAPES if canary else None, limit)


def numbers(choice: Choice) -> list[int]:
    return [int(status.run.run_id[-1]) for status in choice.now]


def test_one_canary_of_each_shape_is_first() -> None:
    choice = chosen(statuses())
    assert numbers(choice) == [0, 2]
    assert choice.held == {
        "run-0001": Held("canary", "run-0000"),
        "run-0003": Held("canary", "run-0002"),
        "run-0004": Held("canary", "run-0000"),
    }


def test_a_step_of_a_canary_releases_its_shape_only() -> None:
    choice = chosen(statuses(r0={"state": "running", "steps": 1}, r2={"state": "running"}))
    assert numbers(choice) == [1, 4]
    assert choice.held == {"run-0003": Held("canary", "run-0002")}
    assert numbers(chosen(statuses(r1={"state": "finished"}, r2={"state": "finished"}))) == [0, 3, 4], "of any run"
    assert numbers(chosen(statuses(), canary=False)) == [0, 1, 2, 3, 4]


def test_a_canary_that_failed_is_the_canary_again_and_one_that_is_given_up_is_not() -> None:
    assert numbers(chosen(statuses(r0={"state": "failed"}))) == [0, 2]
    found = statuses(r0={"state": "failed", "given_up": True})
    choice = choose(found, [f"run-000{number}" for number in range(1, 5)], SHAPES, None)
    assert numbers(choice) == [1, 2]
    assert choice.held["run-0004"] == Held("canary", "run-0001")


def test_a_canary_brings_the_run_that_it_starts_from() -> None:
    shape_of = {**SHAPES, "run-0000": "c", "run-0004": "d"}
    found = statuses(r0={"state": "not submitted"})
    choice = choose(found, list(shape_of), shape_of, None)
    assert numbers(choice) == [0, 1, 2, 4]


def test_a_limit_holds_back_the_last_runs_and_children_of_runs_that_are_held_back() -> None:
    choice = chosen(statuses(), limit=2, canary=False)
    assert numbers(choice) == [0, 1]
    assert choice.held["run-0002"] == Held("limit", "2")
    found = statuses(r0={"state": "failed", "given_up": True})
    choice = choose(found, ["run-0003", "run-0004"], None, None)
    assert choice.held == {"run-0004": Held("parent", "run-0000")}, "it could not start"


def test_the_status_has_the_current_reason(make_sweep: Make, tmp_path: Path) -> None:
    folder = make_sweep([planned(0, tmp_path)])
    assert read_held(folder) == {}
    write_held(folder, chosen(statuses(), limit=1).held)
    held = "held back until its canary"
    assert [one.detail for one in with_reasons(folder, statuses(r0={"state": "running"}))] == [
        "",
        f"{held} run-0000 trains a step",
        "held back by limit=1; submit again",
        f"{held} run-0002 trains a step, which is not submitted",
        f"{held} run-0000 trains a step",
    ]
    found = with_reasons(folder, statuses(r0={"state": "running", "steps": 3}, r4={"state": "queued"}))
    assert [one.detail for one in found][1::3] == ["its canary run-0000 has trained a step; submit again", ""]


def test_a_shape_is_all_that_decides_how_a_run_trains() -> None:
    base = TrainConfig()
    alike = [
        replace(base, seed=1),
        replace(base, recipe=replace(base.recipe, learning_rate=0.5, steps=7)),
        replace(base, size=replace(base.size, learning_rate=0.5)),
        replace(base, data=replace(base.data, cache_dir="x")),
    ]
    others = [
        replace(base, ctx=replace(base.ctx, length=9)),
        replace(base, size=replace(base.size, width=9)),
        replace(base, model=replace(base.model, name="mamba")),
        replace(base, trainer=replace(base.trainer, precision="bf16-mixed")),
        replace(base, data=replace(base.data, vocab_size=9)),
    ]
    runs = [planned(number, Path()) for number in range(10)]
    configs = dict(zip([run.run_id for run in runs], [base, *alike, *others], strict=True))
    found = list(shapes(Plan("six", runs, configs)).values())
    assert len(set(found[:5])) == 1
    assert len(set(found)) == 6
