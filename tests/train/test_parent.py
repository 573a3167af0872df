"""Runs that start from the weights of another run, and refused parents."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from ttt.analysis.seeds import settings_of
from ttt.cli import train as command
from ttt.cli.compose import compose, spelled_out
from ttt.cli.parent import inherited
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.identity import run_id
from ttt.config.plan import check, order_seed
from ttt.config.schema import TrainConfig
from ttt.results.checkpoints import checkpoints, write_digest
from ttt.results.record import read_record
from ttt.train.planning import plan_run, planned_parent, with_parent

Configure = Callable[..., TrainConfig]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoints(folder / "checkpoints")[-1], weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def parent(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a Transformer for 10 steps of 256 tokens at a context of 64."""
    folder = tmp_path_factory.mktemp("parents") / "transformer"
    run_command(["model=transformer", f"run={folder}", "recipe.steps=10"], tiny)
    return folder


def run_command(arguments: list[str], tiny: list[str]) -> int | str | None:
    """Run ``ttt-train`` in this process; return its exit code."""
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ttt-train", *tiny, *arguments])
        try:
            command.main()
        except SystemExit as stopped:
            return stopped.code
    return 0


def machine(tiny: list[str]) -> list[str]:
    """Return the overrides of a tiny run that a child does not inherit from its parent."""
    return [override for override in tiny if override.startswith(("trainer.", "data.cache_dir"))]


@pytest.mark.slow
def test_finetuning_at_another_context(parent: Path, tiny: list[str], tmp_path: Path) -> None:
    """Model, size and data are inherited; the tokens are a fifth of the parent's, in steps of another size."""
    overrides = ["recipe=finetune", f"from={parent}", "ctx.length=128", "recipe.tokens_per_step=128"]
    more = ["model.rope_base=50000", "recipe.learning_rate=1e-30", "recipe.final_learning_rate=0"]
    still = ["recipe.weight_decay=0"]
    assert run_command([*overrides, *more, *still, f"run={tmp_path}/child"], machine(tiny)) == 0
    written = read_record(tmp_path / "child/record.json")
    ours, theirs = written["config"], read_record(parent / "record.json")["config"]
    assert (ours["size"], ours["backbone"]) == (theirs["size"], theirs["backbone"])
    assert ours["model"] == theirs["model"] | {"rope_base": 50000.0}
    assert (ours["ctx"]["length"], ours["data"]["vocab_size"]) == (128, 400)
    assert written["steps"] == round(0.2 * 10 * 256 / 128) == 4
    assert ours["parent"]["run_id"] == read_record(parent / "record.json")["run_id"]
    digest = checkpoints(parent / "checkpoints")[-1].with_suffix(".ckpt.sha256").read_text().split()[0]
    assert ours["parent"]["weights"] == digest
    before = weights(parent)
    for name, value in weights(tmp_path / "child").items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-12, msg=f"{name}: the weights are the parent's")


@pytest.mark.slow
def test_continued_training_keeps_learning(parent: Path, tiny: list[str], tmp_path: Path) -> None:
    overrides = ["recipe=finetune", f"from={parent}", "recipe.steps=10", "recipe.learning_rate=3e-3"]
    assert run_command([*overrides, "recipe.tokens_per_step=256", f"run={tmp_path}/child"], machine(tiny)) == 0
    before, after = (read_record(path / "record.json") for path in (parent, tmp_path / "child"))
    assert after["config"]["ctx"] == before["config"]["ctx"]
    assert after["results"]["validation"]["loss"] < before["results"]["validation"]["loss"]


def test_another_parent_is_another_run(configure: Configure, parent: Path) -> None:
    overrides = ["model=transformer", "recipe=finetune", f"parent.run={parent}", "recipe.steps=0"]
    ids = []
    for change in [[], ["trainer.max_steps=1"], ["recipe.learning_rate=1e-3"]]:
        config = plan_run(configure(*overrides, *change), []).config
        assert check(config).schedule_steps == 2
        ids.append(run_id(config))
    assert ids[0] == ids[1] != ids[2]
    config.parent.weights = "0" * 64
    assert run_id(config) == ids[2], "rounding on another machine does not make another run"
    config.parent.steps = 9
    assert run_id(config) != ids[2]
    config.parent.run = "moved/elsewhere"
    moved = run_id(config)
    config.parent.run = str(parent)
    assert run_id(config) == moved


def test_a_child_is_planned_before_its_parent_is_trained(configure: Configure, parent: Path, tmp_path: Path) -> None:
    """With the same id, steps and order of the data as after the parent's training."""
    finetune = ["model=transformer", "recipe=finetune", "recipe.steps=0", "ctx.length=32"]
    whole = configure("model=transformer", "recipe.steps=10")
    child = with_parent(configure(*finetune), planned_parent(whole, tmp_path / "not yet there"))
    trained = plan_run(configure(*finetune, f"parent.run={parent}"), []).config
    assert child.recipe.steps == 2
    assert (run_id(child), child.recipe.steps, order_seed(child)) == (
        run_id(trained),
        trained.recipe.steps,
        order_seed(trained),
    )
    assert child.parent.weights is None
    assert trained.parent.weights is not None
    child.run = str(tmp_path / "child")
    child.parent.run = str(parent)
    train(child, [])
    written = read_record(tmp_path / "child/record.json")
    assert (written["run_id"], written["config"]["parent"]["weights"]) == (run_id(trained), trained.parent.weights)
    planned = with_parent(configure(*finetune, "recipe.clip=2"), planned_parent(child, tmp_path / "child"))
    later = plan_run(configure(*finetune, "recipe.clip=2", f"parent.run={tmp_path}/child"), []).config
    assert run_id(planned) == run_id(later)
    wide = configure("model=transformer", "size.width=32")
    with pytest.raises(UserError, match=r"from=.*: contains another model than requested: size.width=16, not 32"):
        with_parent(configure(*finetune), planned_parent(wide, tmp_path / "wide"))


def test_a_parent_that_is_not_as_planned_is_refused(configure: Configure, parent: Path) -> None:
    overrides = ["model=transformer", "recipe=finetune", f"parent.run={parent}"]
    longest = configure("model=transformer", "recipe.steps=20")
    longer = with_parent(configure(*overrides), planned_parent(longest, parent))
    with pytest.raises(UserError, match=r"from=.*: contains transformer-.*, not transformer-.* as planned; plan again"):
        plan_run(longer, [])
    whole = configure("model=transformer", "recipe.steps=10")
    further = with_parent(configure(*overrides), planned_parent(whole, parent))
    further.parent.steps = 20
    with pytest.raises(UserError, match=r"from=.*: has done 10 steps, not 20 as planned; train it to there"):
        plan_run(further, [])


@pytest.mark.slow
def test_a_child_resumes_after_its_parents_weights_have_changed(configure: Configure, tmp_path: Path) -> None:
    """By then it has its own weights; the record has the digest of the initial ones."""
    train(configure("model=transformer", f"run={tmp_path}/parent", "trainer.max_steps=10"), [])
    overrides = ["model=transformer", "recipe=finetune", f"parent.run={tmp_path}/parent", f"run={tmp_path}/child"]
    train(configure(*overrides, "trainer.max_steps=1"), [])
    began = read_record(tmp_path / "child/record.json")["config"]["parent"]["weights"]
    (checkpoint,) = checkpoints(tmp_path / "parent/checkpoints")
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"]["model.embedding.weight"] += 1e-6
    torch.save(state, checkpoint)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    write_digest(checkpoint, digest)
    train(configure(*overrides, "ckpt=last"), [])
    written = read_record(tmp_path / "child/record.json")
    assert (written["status"], written["steps"]) == ("finished", 12)
    assert written["config"]["parent"]["weights"] == began != digest


@pytest.mark.slow
def test_children_of_seeds_are_seeds(configure: Configure, parent: Path, tmp_path: Path) -> None:
    sibling = tmp_path / "sibling"
    train(configure("model=transformer", f"run={sibling}", "recipe.steps=10", "seed=1"), [])
    other = tmp_path / "other"
    train(configure("model=transformer", f"run={other}", "recipe.steps=10", "recipe.clip=0.5"), [])
    found = []
    for run in (parent, sibling, other):
        child = configure("model=transformer", "recipe=finetune", f"parent.run={run}", f"runs={tmp_path}")
        train(child, [])
        found.append(settings_of(read_record(plan_run(child, []).folder.record)))
    assert found[0] == found[1] != found[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "differences"),
    [
        (["model=ttt_linear"], ["model.name=ttt_linear, not transformer", "model.mini_batch_size=16, not None"]),
        (["size=w128"], ["size.width=", "size.blocks=", "not 16"]),
        (["model=transformer", "backbone=mamba"], ["backbone.name=mamba, not transformer"]),
        (["size.mlp_hidden=48"], ["size.mlp_hidden=48, not 32"]),
        (["data.vocab_size=300"], ["another tokenizer (data.vocab_size=300, not 400"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_another_model_is_refused_with_its_differences(
    parent: Path,
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    differences: list[str],
) -> None:
    arguments = ["recipe=finetune", f"from={parent}", f"run={tmp_path}/child", *overrides]
    assert run_command(arguments, machine(tiny)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: from={parent}: ")
    assert all(difference in line for difference in differences), line
    assert not (tmp_path / "child").exists()


@pytest.mark.slow
def test_an_invalid_parent_is_named(
    configure: Configure, parent: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/record.json").write_text((parent / "record.json").read_text())
    with pytest.raises(UserError, match="bare: has no checkpoint to start from"):
        plan_run(configure("model=transformer", f"parent.run={tmp_path}/bare"), [])
    with pytest.raises(UserError, match="is the run to start from; choose another folder"):
        train(configure("model=transformer", f"parent.run={parent}", f"run={parent}", "overwrite=true"), [])
    assert checkpoints(parent / "checkpoints")
    capsys.readouterr()
    assert run_command(["recipe=finetune"], tiny) == 2
    assert "recipe=finetune: starts from the weights of another run; name it with from=" in capsys.readouterr().err
    assert run_command(["recipe=finetune", f"from={tmp_path}/nowhere"], tiny) == 2
    assert "nowhere/record.json: cannot be read" in capsys.readouterr().err


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("value", ["a'b", "1,2", "null", "12", "", "a=b", "{c}", "back\\slash"])
def test_inherited_values_are_unchanged(parent: Path, value: str) -> None:
    config: dict[str, Any] = json.loads((parent / "record.json").read_text())["config"]
    config["data"] |= {"packages": [value, "networkx"], "column": value}
    back = compose("train", inherited(config, {"model"}))
    assert (back.data["packages"], back.data["column"]) == ([value, "networkx"], value)
    assert back.size.width == 16


@pytest.mark.usefixtures("configure")
def test_of_an_old_parents_learning_rates_the_one_for_its_backbone_is_inherited(parent: Path) -> None:
    config: dict[str, Any] = json.loads((parent / "record.json").read_text())["config"]
    config["size"]["learning_rate"] = {"transformer": 5e-3, "mamba": 1e-2, "own": 1e-2}
    back = compose("train", inherited(config, {"model"}))
    assert back.size.learning_rate == back.recipe.learning_rate == 5e-3


def test_from_is_spelled_out() -> None:
    assert spelled_out("from=runs/a") == "parent.run=runs/a"
    assert spelled_out("fromage=1") == "fromage=1"
