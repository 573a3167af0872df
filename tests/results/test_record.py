import json
import os
import random
from pathlib import Path
from runpy import run_path

import pytest

from ttt.config.errors import UserError
from ttt.results.record import SCHEMA_VERSION, Record, RunFolder, read_record, write_record

make_record = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))["make_record"]


@pytest.fixture
def record() -> Record:
    return make_record("a", "ttt_mlp", "mamba", "w64", ctx=512, seed=0, steps=3, steps_planned=5, status="running")


def test_a_record_comes_back_as_it_was_written(tmp_path: Path, record: Record) -> None:
    run = RunFolder(tmp_path / "new" / "run")
    write_record(run.record, record)
    assert read_record(run.record) == record
    assert [path.name for path in run.path.iterdir()] == ["record.json"]


def test_every_key_of_the_schema_is_in_the_file(tmp_path: Path, record: Record) -> None:
    write_record(tmp_path / "record.json", record)
    assert json.loads((tmp_path / "record.json").read_text()).keys() == Record.__required_keys__ | {"sha256"}


def test_a_flipped_bit_is_never_read_in_silence(
    tmp_path: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    path, generator, warned = tmp_path / "record.json", random.Random(0), 0
    write_record(path, record)
    whole = path.read_bytes()
    for bit in generator.sample(range(8 * len(whole)), 300):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            found = read_record(path)
        except UserError:
            continue
        if capsys.readouterr().err.startswith(f"warning: {path}: is damaged or was edited (its sha256 differs)"):
            warned += 1
        else:
            # White space, or the name of the digest.
            assert {key: found[key] for key in record} == record  # type: ignore[literal-required]
    assert warned > 50


def test_a_record_without_a_digest_is_read(tmp_path: Path, record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert read_record(tmp_path / "record.json") == record
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": SCHEMA_VERSION + 1, "seed": ...}, "lacks seed; upgrade"),
        ({"seed": ...}, "lacks seed; restore or remove"),
        ({"schema_version": None}, "no schema_version"),
        ({"steps": "many"}, "steps='many' is not of type int"),
        ({"config": None}, "config=None is not of type dict"),
    ],
)
def test_other_schemas_are_refused(tmp_path: Path, record: Record, change: dict[str, object], message: str) -> None:
    """``...`` removes a key."""
    path = tmp_path / "record.json"
    changed = {key: value for key, value in (record | change).items() if value is not ...}
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match=message) as error:
        read_record(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ['{"schema_version": 1, ', "[]", "3", '{"schema_version": 1}', "\0"])
def test_broken_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_record(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"record\.json: cannot be read"):
        read_record(tmp_path / "record.json")


def test_a_failing_write_leaves_the_old_record(tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    write_record(path, record)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_record(path, record | {"status": "finished"})
    assert read_record(path)["status"] == "running"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_instead_of_a_folder_is_a_user_error(tmp_path: Path, record: Record) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_record(tmp_path / "run" / "record.json", record)


def test_a_newer_record_with_further_keys_is_read(tmp_path: Path, record: Record) -> None:
    newer = record | {"schema_version": SCHEMA_VERSION + 1, "energy": 3.0}
    (tmp_path / "record.json").write_text(json.dumps(newer))
    assert read_record(tmp_path / "record.json") == newer


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("the loss became nan at step 6; no checkpoint had been written", "diverged"),
        ("the loss became -inf at step 6", "diverged"),
        ("perplexity: the loss is not finite: the inner loop of layer 1, head 0 diverged", "diverged"),
        ("No space left on device", "failed"),
        (None, "failed"),
    ],
)
def test_version_1_is_translated(tmp_path: Path, record: Record, error: str | None, status: str) -> None:
    old = {**record, "schema_version": 1, "status": "failed", "error": error}
    old["warnings"] = ["train, layer 1, head 0: at step 2 the inner loss grew: much"]
    (tmp_path / "record.json").write_text(json.dumps(old))
    found = read_record(tmp_path / "record.json")
    assert (found["schema_version"], found["status"], found["error"]) == (SCHEMA_VERSION, status, error)
    assert found["warnings"] == {"train, layer 1, head 0": "at step 2 the inner loss grew: much"}
