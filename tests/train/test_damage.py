"""Runs on disks that fill up, and runs whose checkpoints are damaged."""

import errno
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starter import Starter

from ttt.cli.eval import evaluate
from ttt.cli.export import export
from ttt.cli.generate import generate
from ttt.cli.train import train
from ttt.config.errors import RunError, UserError
from ttt.config.exchange import ExportConfig
from ttt.config.generation import GenerateConfig
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.config.system import file_sha256
from ttt.data.corpus import load_corpus
from ttt.results.checkpoints import checkpoints, newest_whole, write_digest
from ttt.train.checkpoint import HashingWriter
from ttt.train.module import TrainingModule

Configure = Callable[..., TrainConfig]

TRAIN = "from ttt.cli.train import main; main()"


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_only_the_steps_after_the_previous_one(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["trainer.checkpoint_every=3", "ckpt=last"]
    train(configure(f"run={tmp_path}/whole", *common), [])
    train(configure(f"run={tmp_path}/run", *common, "trainer.max_steps=8"), [])
    damage(tmp_path / "run/checkpoints/step-00000008.ckpt")
    warning = "step-00000008.ckpt: is damaged"
    capsys.readouterr()
    evaluate(EvalConfig(run=f"{tmp_path}/run"), [])
    assert capsys.readouterr().err.count(warning) == 1
    generate(GenerateConfig(run=f"{tmp_path}/run", tokens=2), [])
    assert capsys.readouterr().err.count(warning) == 1
    (tmp_path / "run/checkpoints/.step-00000009.ckpt.77.partial").write_bytes(b"of a killed process")
    train(configure(f"run={tmp_path}/run", *common), [])
    assert capsys.readouterr().err.count(warning) == 1
    assert (tmp_path / "run/metrics.parquet").read_bytes() == (tmp_path / "whole/metrics.parquet").read_bytes()
    names = {path.name for path in (tmp_path / "run/checkpoints").glob("*step*") if path.suffix != ".sha256"}
    assert names == {"step-00000009.ckpt", "step-00000012.ckpt", "step-00000008.ckpt.damaged"}
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_run_without_an_undamaged_checkpoint_is_refused_and_unchanged(configure: Configure, tmp_path: Path) -> None:
    train(configure(f"run={tmp_path}/run", "trainer.max_steps=2"), [])
    damage(tmp_path / "run/checkpoints/step-00000002.ckpt")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(UserError, match=r"checkpoints: every checkpoint is damaged; .* overwrite=true"):
        train(configure(f"run={tmp_path}/run", "ckpt=last"), [])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


class Other:
    """An object that is neither a tensor nor a plain container."""


def with_an_object(path: Path) -> None:
    torch.save(torch.load(path, weights_only=True) | {"other": Other()}, path)


def without_optimizer(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    del content["optimizer_states"]
    torch.save(content, path)


def of_another_shape(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.embedding.weight"] = torch.zeros(3, 2)
    torch.save(content, path)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def a_page(path: Path) -> None:
    path.write_text("<html>504 Gateway Timeout</html>")


def a_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (with_an_object, "it holds something other than tensors and plain containers, which is never loaded"),
        (without_optimizer, "it has no optimizer_states"),
        (of_another_shape, r"embedding.weight is \(3, 2\), not \(400, 16\)"),
        (emptied, "EOFError"),
        (a_page, "it holds something other"),
        (a_tensor, "it has no state_dict of tensors"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_checkpoint_with_its_digest_that_cannot_be_loaded_is_named_by_every_command(
    configure: Configure, tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    run, path = tmp_path / "run", tmp_path / "run/checkpoints/step-00000001.ckpt"
    train(configure(f"run={run}", "trainer.max_steps=1"), [])
    make(path)
    write_digest(path, file_sha256(path))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    commands: list[Callable[[], object]] = [
        lambda: train(configure(f"run={run}", "trainer.max_steps=2", "ckpt=last"), []),
        lambda: evaluate(EvalConfig(run=str(run), device="cpu"), []),
        lambda: generate(GenerateConfig(run=str(run), tokens=2, device="cpu"), []),
        lambda: export(ExportConfig(run=str(run), out=str(tmp_path / "out")), []),
        lambda: train(configure(f"run={tmp_path}/child", "recipe=finetune", f"parent.run={run}"), []),
    ]
    for number, command in enumerate(commands):
        if make is without_optimizer and number > 0:
            continue
        with pytest.raises(UserError, match=r"step-00000001.ckpt: not a checkpoint of this model") as refused:
            command()
        line = str(refused.value)
        assert "\n" not in line
        assert "weights_only" not in line
        assert line.endswith("remove it to use the previous one, or train again with overwrite=true")
        if make is not of_another_shape or number == 0:
            assert re.search(reason, line)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_nothing_resumes_from_a_diverged_checkpoint(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a good checkpoint the run starts over."""
    step = TrainingModule.training_step

    def poisoned(self: TrainingModule, windows: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.global_step == 1:
            with torch.no_grad():
                self.model.embedding.weight.fill_(float("nan"))
        return step(self, windows, batch_idx)

    common = [f"run={tmp_path}/run", "trainer.checkpoint_every=1", "ckpt=last"]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", poisoned)
        with pytest.raises(RunError, match=r"the loss became nan at step 1.*no checkpoint had been written"):
            train(configure(*common), [])
    assert record(tmp_path / "run")["last_checkpoint"] is None
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000001.ckpt.diverged"]
    train(configure(*common), [])
    losses = (tmp_path / "run/metrics.parquet").read_bytes()
    train(configure(f"run={tmp_path}/whole", "trainer.checkpoint_every=1"), [])
    assert losses == (tmp_path / "whole/metrics.parquet").read_bytes()


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_earlier_checkpoints(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def write(self: HashingWriter, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if (tmp_path / "run/checkpoints/step-00000006.ckpt").exists():
            self._failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise self._failure
        self.sha256.update(data)
        return self.file.write(data)

    common = [f"run={tmp_path}/run", "trainer.checkpoint_every=3"]
    with monkeypatch.context() as patch:
        patch.setattr(HashingWriter, "write", write)
        line = r"step-00000009.ckpt: cannot be written \(No space left on device\).* resumes from step-00000006.ckpt$"
        with pytest.raises(RunError, match=line):
            train(configure(*common), [])
    names = [path.name for path in checkpoints(tmp_path / "run/checkpoints")]
    assert names == ["step-00000003.ckpt", "step-00000006.ckpt"]
    assert newest_whole(tmp_path / "run/checkpoints") is not None
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert record(tmp_path / "run")["status"] == "failed"
    train(configure(*common, "ckpt=last"), [])
    train(configure(f"run={tmp_path}/whole", "trainer.checkpoint_every=3"), [])
    assert (tmp_path / "run/metrics.parquet").read_bytes() == (tmp_path / "whole/metrics.parquet").read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk with room for two checkpoints of a tiny run but not for three."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=440k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs rights that this user has not")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [[], ["trainer.strategy=ddp", "trainer.devices=2"]], ids=["one process", "two"])
def test_a_real_disk_that_fills_up(
    configure: Configure, starter: Starter, tiny: list[str], small_disk: Path, shape: list[str]
) -> None:
    load_corpus(configure().data, False)
    more = [f"run={small_disk}/run", "trainer.checkpoint_every=1", "size.blocks=2", *shape]
    done = starter.run(TRAIN, [*tiny, *more], processes=2 if shape else 1)
    print(f"\n{done.stderr}")
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "No space left on device" in line
    assert "Traceback" not in done.stderr
    run = small_disk / "run"
    kept = checkpoints(run / "checkpoints")
    newest = newest_whole(run / "checkpoints")
    assert newest is not None
    assert newest.path == kept[-1]
    assert not list(run.rglob("*.partial"))


@pytest.mark.slow
def test_a_truncated_configuration_is_named_and_restored(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record has the configuration too, and its copy counts."""
    train(configure(f"run={tmp_path}/run", "trainer.max_steps=2"), [])
    config = tmp_path / "run/config.yaml"
    whole = config.read_bytes()
    config.write_bytes(whole[:100])
    capsys.readouterr()
    evaluate(EvalConfig(run=f"{tmp_path}/run"), [])
    assert f"warning: {config}: is damaged or was edited" in capsys.readouterr().err
    train(configure(f"run={tmp_path}/run", "trainer.max_steps=3", "ckpt=last"), [])
    assert config.read_bytes() == whole
