"""Weights of earlier steps, and means of several: which checkpoints are kept, and what is evaluated and exported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file

from ttt.analysis.store import load_results
from ttt.cli.compose import as_object, compose
from ttt.cli.eval import evaluate
from ttt.cli.export import export
from ttt.cli.label import label_of_plain
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.exchange import ExportConfig
from ttt.config.identity import run_id
from ttt.config.schema import EvalConfig, TrainConfig

Configure = Callable[..., TrainConfig]

COMMON = ("trainer.max_steps=7", "trainer.eval_test=false", "trainer.checkpoint_every=3", "trainer.keep_every=2")


@pytest.fixture(scope="session")
def kept(tiny: list[str], hydra: Hydra, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of seven steps that keeps every second checkpoint."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    GlobalHydra.instance().hydra = hydra
    train(as_object(compose("train", [*tiny, f"run={folder}", *COMMON]), TrainConfig), [])
    GlobalHydra.instance().clear()
    return folder


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    """Return a copy of that run."""
    return shutil.copytree(kept, tmp_path / "runs" / "run")


def steps(run: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("*.ckpt"))


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    content = torch.load(run / "checkpoints" / f"step-{step:08d}.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("model."): value for name, value in content.items()}


def exported(run: Path, out: Path, **choice: int) -> dict[str, torch.Tensor]:
    export(ExportConfig(run=str(run), out=str(out), **choice), [])
    return load_file(out / "model.safetensors")


def test_every_second_checkpoint_and_the_newest_two_are_kept(configure: Configure, run: Path) -> None:
    assert steps(run) == [2, 4, 6, 7]
    assert run_id(configure(*COMMON)) == run_id(configure())


def test_any_of_them_is_exported_and_their_mean(run: Path, tmp_path: Path) -> None:
    for step in (4, 7):
        assert all(
            torch.equal(value, weights(run, step)[name])
            for name, value in exported(run, tmp_path / f"{step}", step=step).items()
        )
    mean = exported(run, tmp_path / "mean", step=6, average=3)
    for name, value in mean.items():
        parts = torch.stack([weights(run, step)[name] for step in (2, 4, 6)]).double()
        torch.testing.assert_close(value.double(), parts.mean(0), rtol=0, atol=1e-7)


def test_their_evaluations_stay_beside_the_runs_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = json.loads((run / "record.json").read_text())["results"]
    capsys.readouterr()
    for options in ({"step": 4}, {"average": 3}, {"step": 7}):
        evaluate(EvalConfig(run=str(run), device="cpu", **options), [])
    printed = capsys.readouterr()
    assert " at step 4\n" in printed.out
    assert " at step 7 (mean of 3 checkpoints)\n" in printed.out
    assert "warning" not in printed.err
    record = json.loads((run / "record.json").read_text())
    # The newest weights, named by their step, are the run's own.
    assert record["results"]["validation"]["loss"] == own["validation"]["loss"]
    kept = {result["weights"]: result for result in record["evaluations"].values()}
    assert {name: result["step"] for name, result in kept.items()} == {"step4": 4, "mean3-step7": 7}
    losses = {own["validation"]["loss"], *(result["loss"] for result in kept.values())}
    assert len(losses) == 3
    # Each has its metrics and its losses by document.
    assert len(list((run / "evaluations").iterdir())) == 4
    # A figure of other contexts and texts must not mix them.
    assert load_results(run.parent, label_of_plain).evaluations.empty


@pytest.mark.parametrize(
    ("choice", "line"),
    [
        ({"step": 3}, "step=3: {run} has checkpoints of steps 2, 4, 6, 7; trainer.keep_every keeps more"),
        ({"average": 5}, "average=5: {run} has 4 checkpoints up to step 7; trainer.keep_every keeps more"),
        ({"average": 0}, "average=0: must be at least 1"),
        ({"step": 6, "average": 2}, "{run}/checkpoints/step-00000004.ckpt: is damaged"),
    ],
    ids=str,
)
def test_a_choice_that_is_not_there_is_named(run: Path, choice: dict[str, int], line: str) -> None:
    damaged = run / "checkpoints" / "step-00000004.ckpt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = (run / "record.json").read_bytes()
    with pytest.raises(UserError) as caught:
        evaluate(EvalConfig(run=str(run), device="cpu", **choice), [])
    assert str(caught.value).startswith(line.format(run=run))
    assert (run / "record.json").read_bytes() == before


@pytest.mark.slow
def test_a_resumed_run_keeps_the_same(configure: Configure, run: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "runs" / "stopped"
    for more in ("trainer.max_steps=5", "trainer.max_steps=7"):
        train(configure(f"run={stopped}", *COMMON, more, "ckpt=last"), [])
    # The end of the first part, after step 5, was among the newest two only then.
    assert steps(stopped) == steps(run)
    assert all(torch.equal(value, weights(stopped, 6)[name]) for name, value in weights(run, 6).items())
