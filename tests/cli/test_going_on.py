"""``ttt-train run=FOLDER`` of a folder that holds a run."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttt.cli.going_on import going_on
from ttt.cli.train import _train
from ttt.config.errors import UserError
from ttt.config.identity import run_id
from ttt.config.schema import TrainConfig

Configure = Callable[..., TrainConfig]


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "run"


@pytest.fixture
def stopped(configure: Configure, trained: Path, tmp_path: Path) -> Path:
    """Return the folder of a run of TTT-MLP that was stopped after 2 of 12 steps."""
    overrides = ["model=ttt_mlp", "trainer.max_steps=2", "trainer.eval_test=false"]
    if not trained.exists():
        _train(configure(f"run={trained}", *overrides), overrides)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_run_goes_on_with_its_own_configuration_to_its_planned_end(configure: Configure, stopped: Path) -> None:
    before = record(stopped)
    _train(configure(f"run={stopped}", "trainer.checkpoint_every=7"), [f"run={stopped}", "trainer.checkpoint_every=7"])
    after = record(stopped)
    assert (after["status"], after["steps"], after["run_id"]) == ("finished", 12, before["run_id"])
    assert after["config"] == before["config"]
    assert after["overrides"] == [*before["overrides"], "trainer.checkpoint_every=7"]
    assert {path.name for path in (stopped / "checkpoints").glob("*.ckpt")} >= {"step-00000007.ckpt"}


def test_hardware_and_kernel_may_change(configure: Configure, stopped: Path) -> None:
    overrides = [f"run={stopped}", "kernel=primal", "trainer.threads=1", "trainer.max_steps=3"]
    config, recorded = going_on(configure(*overrides), overrides)
    assert (config.model.name, config.kernel.name) == ("ttt_mlp", "primal")
    assert (config.trainer.threads, config.trainer.max_steps, config.trainer.eval_test) == (1, 3, False)
    assert (config.ckpt, config.run) == ("last", str(stopped))
    assert recorded[-3:] == ["kernel=primal", "trainer.threads=1", "trainer.max_steps=3"]
    _train(configure(*overrides), overrides)
    assert record(stopped)["steps"] == 3


def test_what_would_change_the_learning_is_refused_by_name(configure: Configure, stopped: Path) -> None:
    message = "seed=3: run={} goes on with its own configuration (seed=0), and only trainer.* and kernel may change"
    for override in ("seed=3", "model=mamba", "recipe.learning_rate=1e-3", "+ablation=row5"):
        overrides = [f"run={stopped}", override]
        with pytest.raises(UserError, match=re.escape(override)) as refused:
            going_on(configure(*overrides), overrides)
        assert override != "seed=3" or message.format(stopped) in str(refused.value)


def test_an_override_that_agrees_with_the_run_is_no_change(configure: Configure, stopped: Path) -> None:
    overrides = [f"run={stopped}", "model=ttt_mlp", "seed=0"]
    assert going_on(configure(*overrides), ["seed=0"])[0].model.name == "ttt_mlp"


def test_the_whole_configuration_on_the_command_line_stays_as_it_is(configure: Configure, stopped: Path) -> None:
    overrides = [f"run={stopped}", "model=ttt_mlp"]
    config = configure(*overrides)
    assert going_on(config, overrides) == (config, overrides)
    other = configure(f"run={stopped}", "seed=5", "overwrite=true")
    assert going_on(other, [f"run={stopped}", "seed=5", "overwrite=true"])[0] is other


def test_starting_over_keeps_the_runs_configuration(configure: Configure, stopped: Path) -> None:
    overrides = [f"run={stopped}", "overwrite=true"]
    config, _ = going_on(configure(*overrides), overrides)
    assert (config.model.name, config.overwrite, config.ckpt) == ("ttt_mlp", True, None)
    assert run_id(config) == record(stopped)["run_id"]


def test_a_run_without_weights_cannot_go_on(configure: Configure, stopped: Path) -> None:
    for path in (stopped / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="has done 2 steps and has no checkpoint to go on from; overwrite=true trains"):
        going_on(configure(f"run={stopped}"), [f"run={stopped}"])


def test_relative_paths_start_where_the_run_was_started(configure: Configure, stopped: Path, tmp_path: Path) -> None:
    content = record(stopped)
    content["config"]["data"]["path"] = "texts"
    content["started_in"] = str(tmp_path)
    (stopped / "record.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"its relative paths start from {tmp_path}; start the command there"):
        going_on(configure(f"run={stopped}"), [f"run={stopped}"])
