"""What a killed process leaves in a run's folder is finished by the same command with ckpt=last or overwrite=true."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from starter import Starter

from ttt.cli.eval import evaluate
from ttt.cli.train import train
from ttt.config.errors import RunError, UserError
from ttt.config.plain import to_plain
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.results.record import read_record, write_record

Configure = Callable[..., TrainConfig]

KILLED = """
import os
import shutil
import sys
from pathlib import Path
left = int(sys.argv.pop())
def counted(function):
    def call(*arguments, **more):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return function(*arguments, **more)
    return call
Path.replace, Path.unlink, shutil.rmtree = map(counted, (Path.replace, Path.unlink, shutil.rmtree))
from ttt.train.start import read_config, train
train(read_config(Path(sys.argv.pop())), [])
"""
"""A training of the configuration in a file, killed before the file operation whose number is the last argument.

It does not compose the configuration, which takes longer than the training and touches no file of the run.
"""


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the run that ``whole`` copies."""
    return tmp_path_factory.mktemp("once") / "whole"


@pytest.fixture
def whole(configure: Configure, tmp_path: Path, trained_once: Path) -> bytes:
    """Put an undisturbed run into the folder ``whole`` and return its metrics; it is trained once for all tests."""
    if not trained_once.exists():
        train(configure(f"run={trained_once}", "trainer.max_steps=2"), [])
    shutil.copytree(trained_once, tmp_path / "whole")
    return (tmp_path / "whole/metrics.parquet").read_bytes()


@pytest.mark.parametrize("former_steps", [1, 2])
def test_a_first_checkpoint_without_its_digest_was_not_finished(
    configure: Configure, tmp_path: Path, whole: bytes, capsys: pytest.CaptureFixture[str], former_steps: int
) -> None:
    run = tmp_path / "run"
    train(configure(f"run={run}", f"trainer.max_steps={former_steps}"), [])
    (run / f"checkpoints/step-{former_steps:08d}.ckpt.sha256").unlink()
    write_record(run / "record.json", {**read_record(run / "record.json"), "status": "running"})
    capsys.readouterr()
    train(configure(f"run={run}", "trainer.max_steps=2", "ckpt=last"), [])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert line.endswith(f"(no step-{former_steps:08d}.ckpt.sha256); there is no earlier one")
    assert (run / "metrics.parquet").read_bytes() == whole
    assert (record(run)["status"], record(run)["steps"]) == ("finished", 2)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ckpt=last", "overwrite=true"])
@pytest.mark.parametrize("removed", [["record"], ["record", "metrics"], ["record", "metrics", "checkpoints"]])
def test_a_folder_whose_record_is_not_there_yet_or_no_more(
    configure: Configure, tmp_path: Path, whole: bytes, command: str, removed: list[str]
) -> None:
    run = tmp_path / "whole"
    for name in removed:
        for path in [*run.glob(f"{name}/*"), *run.glob(f"{name}*")]:
            path.rmdir() if path.is_dir() else path.unlink()
    (run / ".record.json.77.partial").write_text("{")
    train(configure(f"run={run}", "trainer.max_steps=2", command), [])
    assert (run / "metrics.parquet").read_bytes() == whole
    assert record(run)["status"] == "finished"
    assert not list(run.glob("*.partial"))


def test_checkpoints_without_a_record_are_not_lost_unasked(configure: Configure, tmp_path: Path, whole: bytes) -> None:
    run = tmp_path / "whole"
    (run / "record.json").unlink()
    with pytest.raises(UserError, match=r"contains checkpoints and no record; ckpt=last or overwrite=true"):
        train(configure(f"run={run}", "trainer.max_steps=2"), [])
    with pytest.raises(UserError, match=r"belongs to another configuration \(seed=5, not 0\)"):
        train(configure(f"run={run}", "seed=5", "ckpt=last"), [])
    assert (run / "metrics.parquet").read_bytes() == whole


@pytest.mark.parametrize("command", ["ckpt=last", "overwrite=true"])
@pytest.mark.parametrize(
    "files",
    [
        {"config.yaml": "model: resnet\n", "checkpoints/epoch=3.ckpt": "theirs"},
        {"checkpoints/step-00000002.ckpt": "theirs"},
        {"config.yaml": "[", "metrics.parquet": "theirs"},
    ],
    ids=["of another program", "without a configuration", "no yaml"],
)
def test_a_folder_of_another_program_is_refused(
    configure: Configure, tmp_path: Path, files: dict[str, str], command: str
) -> None:
    for name, text in files.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(text)
    with pytest.raises(UserError, match="contains other files and no run"):
        train(configure(f"run={tmp_path}/run", command), [])
    assert {name: (tmp_path / "run" / name).read_text() for name in files} == files


@pytest.mark.parametrize("command", ["ckpt=last", "overwrite=true"])
def test_a_run_without_a_record_but_with_a_users_file_is_refused(
    configure: Configure, tmp_path: Path, whole: bytes, command: str
) -> None:
    run = tmp_path / "whole"
    (run / "record.json").unlink()
    (run / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="contains other files and no run"):
        train(configure(f"run={run}", command), [])
    assert (run / "thesis.tex").read_text() == "mine"
    assert (run / "metrics.parquet").read_bytes() == whole


def test_a_run_whose_checkpoints_are_on_another_disk_starts_over(
    configure: Configure, tmp_path: Path, whole: bytes
) -> None:
    run, disk = tmp_path / "whole", tmp_path / "disk"
    (run / "checkpoints").rename(disk)
    (disk / "thesis.tex").write_text("mine")
    (disk / "step-00000001.ckpt").write_text("of an earlier run")
    (run / "checkpoints").symlink_to(disk)
    train(configure(f"run={run}", "trainer.max_steps=2", "overwrite=true"), [])
    assert (run / "metrics.parquet").read_bytes() == whole
    assert (run / "checkpoints").is_symlink()
    names = {path.name for path in disk.iterdir()}
    assert names == {"step-00000002.ckpt", "step-00000002.ckpt.sha256", "thesis.tex"}


def test_a_link_to_a_disk_that_is_not_there_is_refused_before_anything_is_removed(
    configure: Configure, tmp_path: Path, whole: bytes
) -> None:
    run = tmp_path / "whole"
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(tmp_path / "unmounted")
    with pytest.raises(UserError, match=r"checkpoints/ is a link to no folder; create .*/unmounted"):
        train(configure(f"run={run}", "trainer.max_steps=2", "overwrite=true"), [])
    assert (run / "metrics.parquet").read_bytes() == whole
    assert record(run)["status"] == "finished"


class Killed(BaseException):
    """Stands for a kill: no ``except Exception`` catches it."""


@contextmanager
def failing_at(number: int, error: BaseException) -> Iterator[list[int]]:
    """Raise ``error`` at a file's renaming to its final name; yield a list that then is empty."""
    replace, left = Path.replace, [number]

    def counted(self: Path, target: Path) -> Path:
        if left:
            left[0] -= 1
            if left[0] < 0:
                left.clear()
                raise error
        return replace(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        yield left


@pytest.mark.slow
def test_a_disk_that_is_full_at_each_write(configure: Configure, tmp_path: Path, whole: bytes) -> None:
    """The run ends with one line, and ckpt=last finishes it to the same bytes; every third write."""
    common = ["trainer.max_steps=2", "trainer.checkpoint_every=1"]
    for number in range(0, 200, 3):
        run = tmp_path / f"run{number}"
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with failing_at(number, full) as left, suppress(UserError, RunError):
            train(configure(f"run={run}", *common), [])
        if left:
            break
        train(configure(f"run={run}", *common, "ckpt=last"), [])
        assert (run / "metrics.parquet").read_bytes() == whole, number
        assert record(run)["status"] == "finished"
    assert number > 10


@pytest.mark.slow
def test_an_evaluation_that_is_killed_at_each_write(configure: Configure, tmp_path: Path) -> None:
    """Evaluating again gives the same tables and result, and the run's own stay."""
    run = tmp_path / "run"
    train(configure(f"run={run}", "trainer.max_steps=2", "trainer.eval_test=false"), [])
    shutil.copytree(run, tmp_path / "trained")
    own, tables = record(run)["results"], ("metrics.parquet", "documents.parquet")
    evaluate(EvalConfig(run=str(run), split="test", device="cpu"), [])
    results, contents = record(run)["results"], [(run / name).read_bytes() for name in tables]
    for number in range(50):
        shutil.rmtree(run)
        shutil.copytree(tmp_path / "trained", run)
        with failing_at(number, Killed()) as left, suppress(Killed):
            evaluate(EvalConfig(run=str(run), split="test", device="cpu"), [])
        assert own.items() <= record(run)["results"].items()
        evaluate(EvalConfig(run=str(run), split="test", device="cpu"), [])
        assert (record(run)["results"], [(run / name).read_bytes() for name in tables]) == (results, contents), number
        if left:
            break
    assert number > 2


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ckpt=last", "overwrite=true"])
def test_killed_before_each_file_operation(
    configure: Configure, starter: Starter, tmp_path: Path, whole: bytes, command: str
) -> None:
    """A start is finished with ckpt=last, a start over with ckpt=last or overwrite=true; every third operation."""
    common = ["trainer.max_steps=2", "trainer.checkpoint_every=1"]
    for number in range(0, 200, 3):
        run = tmp_path / f"run{number}"
        if command == "overwrite=true":
            shutil.copytree(tmp_path / "whole", run)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_plain(configure(f"run={run}", *common, command))))
        done = starter.run(KILLED, [str(tmp_path / "config.yaml"), str(number)])
        if done.returncode == 0:
            break
        assert done.returncode == 9, done.stderr
        train(configure(f"run={run}", *common, command if number % 2 else "ckpt=last"), [])
        assert (run / "metrics.parquet").read_bytes() == whole, number
        assert record(run)["status"] == "finished"
        # A kill before the start leaves a finished run and an unfinished file of its lock.
        assert {path.name.split(".")[1] for path in run.rglob("*.partial")} <= {"lock"}
    assert number > 10
