"""``RunRecord``: its updates, and when it writes the file."""

import json
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from ttt.config.errors import UserError
from ttt.results import run_record
from ttt.results.record import Record, RunFolder, read_record
from ttt.results.run_record import RunRecord

make_record = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))["make_record"]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def content() -> Record:
    return make_record("a", "ttt_mlp", "mamba", "w64", ctx=512, seed=0, steps=0, steps_planned=5, status="running")


def written(folder: RunFolder) -> dict[str, Any]:
    return json.loads(folder.record.read_text())


def test_steps_are_counted_in_memory_and_written_now_and_then(
    folder: RunFolder, content: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = RunRecord(folder, content)
    record.step(1)
    assert record.steps == 1
    assert not folder.record.exists()
    monkeypatch.setattr(run_record, "SECONDS_BETWEEN_RECORDS", 0.0)
    record.step(2)
    assert (written(folder)["steps"], written(folder)["tokens"]) == (2, 2 * content["tokens_per_step"])
    assert written(folder)["timing"]["tokens_per_second"] > 0


class Clock:
    """A clock that shows what the test says."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


def test_a_first_step_that_compiles_is_no_part_of_the_speed(
    folder: RunFolder, content: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, tokens = Clock(), content["tokens_per_step"]
    monkeypatch.setattr(run_record, "time", clock)
    record = RunRecord(folder, content)
    clock.seconds = 300
    record.step(1)
    assert (written(folder)["steps"], written(folder)["timing"]["tokens_per_second"]) == (1, None), "seen at once"
    record.trained()
    assert record.content["timing"]["tokens_per_second"] == pytest.approx(tokens / 300, abs=0.1), "the only step"
    record.start_clock()
    for step, clock.seconds in ((2, 1000), (3, 1010), (4, 1020)):
        record.step(step)
    assert written(folder)["timing"]["tokens_per_second"] == pytest.approx(2 * tokens / 20)
    record.paused(5)
    clock.seconds = 1025
    record.trained()
    assert record.content["timing"]["tokens_per_second"] == pytest.approx(2 * tokens / 20), "validation is no training"


def test_a_checkpoint_a_result_and_the_end_are_written_at_once(folder: RunFolder, content: Record) -> None:
    record = RunRecord(folder, content)
    record.step(3)
    record.warn({"train, layer 1, head 0": "at step 3"})
    record.saved("step-00000003.ckpt")
    assert (written(folder)["steps"], written(folder)["last_checkpoint"]) == (3, "step-00000003.ckpt")
    assert written(folder)["warnings"] == {"train, layer 1, head 0": "at step 3"}
    result = {"loss": 1.0, "perplexity": 2.7, "tokens": 8, "sequences": 1, "per_token_sequences": 1}
    record.evaluated("validation", result)  # type: ignore[arg-type]
    assert written(folder)["results"] == {"validation": result}
    record.end("finished", None)
    assert (written(folder)["status"], written(folder)["error"]) == ("finished", None)
    assert written(folder)["timing"]["ended"] is not None


def test_a_resumed_run_has_no_former_results(folder: RunFolder, content: Record) -> None:
    record = RunRecord(folder, content)
    record.measured("test_seconds", 1.5)
    record.evaluated("test", {"loss": 1.0, "perplexity": 2.7, "tokens": 8, "sequences": 1, "per_token_sequences": 1})
    record.end("interrupted", "stopped by SIGTERM at step 4")
    again = RunRecord.read(folder)
    assert again.content["measurements"] == {"test_seconds": 1.5}
    again.resume(3, "step-00000003.ckpt", 9, ["seed=0"], None, {"method": "TTT-MLP"})
    again.write()
    found = read_record(folder.record)
    assert (found["status"], found["error"], found["results"]) == ("running", None, {})
    assert "measurements" not in found
    assert (found["steps"], found["steps_planned"], found["last_checkpoint"]) == (3, 9, "step-00000003.ckpt")
    assert (found["overrides"], found["label"]) == (["seed=0"], {"method": "TTT-MLP"})


def test_only_the_first_process_writes(folder: RunFolder, content: Record) -> None:
    record = RunRecord(folder, content, writes=False)
    record.step(1)
    record.saved("step-00000001.ckpt")
    record.end("finished", None)
    assert not folder.record.exists()


def test_a_deleted_folder_is_not_created_again(folder: RunFolder, content: Record) -> None:
    record = RunRecord(RunFolder(folder.path / "gone"), content)
    with pytest.raises(UserError, match="gone: was deleted while the run wrote there; start it again"):
        record.saved("step-00000001.ckpt")
    assert not (folder.path / "gone").exists()
