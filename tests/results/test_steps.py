"""The steps of a run's whole schedule, in records of this version and of earlier ones."""

import json
from pathlib import Path
from runpy import run_path

import pytest

from ttt.results.record import Record, read_record
from ttt.results.steps import as_if_whole, steps_in_words, stopped_early

make_record = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))["make_record"]


def stopped(steps: int = 3, planned: int = 300) -> Record:
    found: Record = make_record("a", "ttt_mlp", "mamba", "s1", 512, 0, steps, planned, "finished")
    return found


def test_a_run_with_fewer_steps_than_its_schedule_is_stopped_early_if_it_has_finished() -> None:
    assert stopped_early(stopped())
    assert not stopped_early(stopped(300))
    assert not stopped_early(stopped() | {"status": "running"})
    assert (steps_in_words(stopped()), steps_in_words(stopped(300))) == ("3 of 300 steps", "300 steps")


def test_as_if_whole_ends_the_schedule_at_the_last_step() -> None:
    counted = as_if_whole(stopped())
    assert (counted["steps_planned"], counted["training_flops"]) == (3, pytest.approx(1e10))
    assert as_if_whole(stopped(300)) == stopped(300)


@pytest.mark.parametrize(
    ("recipe", "limit", "planned"),
    [
        ({"steps": 300, "tokens_per_step": 1000}, 3, (300, 1e14)),
        ({"steps": 300, "tokens_per_step": 500}, 3, (150, 5e13)),
        ({"steps": 2, "tokens_per_step": 1000}, 3, (2, 1e12)),
        ({"steps": 300, "tokens_per_step": 1000}, None, (3, 1e12)),
        ({}, 3, (3, 1e12)),
    ],
    ids=["stopped", "a longer context", "not stopped", "no limit", "no recipe"],
)
def test_records_of_earlier_versions_planned_only_the_steps_up_to_the_limit(
    tmp_path: Path, recipe: dict[str, int], limit: int | None, planned: tuple[int, float]
) -> None:
    old = stopped(3, 3) | {"schema_version": 2, "tokens_per_step": 1000}
    old["config"] |= {"recipe": recipe, "trainer": {"max_steps": limit}}
    (tmp_path / "record.json").write_text(json.dumps(old))
    found = read_record(tmp_path / "record.json")
    assert (found["steps_planned"], found["training_flops"]) == (planned[0], pytest.approx(planned[1]))
