"""From a configuration to the plan of a run: checked, combined with its parent, and named. Does not import torch."""

from dataclasses import dataclass, replace
from pathlib import Path

from ttt.config.errors import bad_value
from ttt.config.identity import differences, identity, model_shape, run_id, settings_digest
from ttt.config.plain import to_plain
from ttt.config.plan import StepPlan, check, order_seed, plan_steps
from ttt.config.schema import ParentConfig, Resolved, TrainConfig
from ttt.data.local import check_paths
from ttt.results.checkpoints import Checkpoint, newest_whole
from ttt.results.folders import folder_of
from ttt.results.record import Data, RunFolder, identity_of, read_record
from ttt.results.run_record import Label
from ttt.train.fitting import fitted
from ttt.train.optimizers.registry import check_optimizer


@dataclass(frozen=True)
class Parent:
    """The run whose weights another run starts from.

    Attributes:
        run: its folder.
        run_id: its id.
        identity: its identity; see ``ttt.config.identity``.
        steps: optimizer steps of its weights.
        tokens_per_step: tokens per step.
    """

    run: str
    run_id: str
    identity: Resolved
    steps: int
    tokens_per_step: int


@dataclass(frozen=True)
class TrainedParent(Parent):
    """A parent that exists: its newest undamaged checkpoint, and the data it was trained on."""

    checkpoint: Checkpoint
    data: Data


@dataclass(frozen=True)
class RunPlan:
    """Everything about a run that is decided before torch is loaded.

    Attributes:
        config: the configuration, including values taken from its parent.
        step_plan: its steps and their batches.
        identity: the settings that identify it; see ``ttt.config.identity``.
        run_id: its id.
        folder: its folder; named after the id, with words.
        order_seed: seed of the data's order.
        parent: the run whose weights it starts from.
        plain: the configuration as plain containers, for the record.
        overrides: overrides on the command line, for the record.
        sweep: the sweep that it belongs to, for the record.
        label: its description for figures, for the record; ``train`` adds it once the run is to be trained.
    """

    config: TrainConfig
    step_plan: StepPlan
    identity: Resolved
    run_id: str
    folder: RunFolder
    order_seed: int
    parent: TrainedParent | None
    plain: Resolved
    overrides: list[str]
    sweep: str | None
    label: Label = None


def plan_run(config: TrainConfig, overrides: list[str], sweep: str | None = None) -> RunPlan:
    """Return the plan of a run; nothing is written, and ``config`` is not changed.

    Raises:
        UserError: a value is out of range, values contradict each other, the parent does not fit, the text of a new
            run does not exist, or no step of the run fits into the device's memory.
    """
    parent = None
    if config.parent.run is not None:
        parent = trained_parent(config.parent.run)
        config = with_parent(config, parent)
    elif config.recipe.parent_share:
        name = config.recipe.name
        raise bad_value("recipe", name, "starts from the weights of another run; name it with from=FOLDER")
    name, settings = run_id(config), identity(config)
    folder = RunFolder(Path(config.run) if config.run else folder_of(config, Path(config.runs)))
    check(config)
    if not folder.record.exists():
        check_paths(config.data)
    check_optimizer(config.recipe)
    config = fitted(config, folder)
    step_plan, seed, plain = plan_steps(config), order_seed(config), to_plain(config)
    return RunPlan(config, step_plan, settings, name, folder, seed, parent, plain, overrides, sweep)


def trained_parent(run: str) -> TrainedParent:
    """Return the run in the folder ``run``.

    Raises:
        UserError: there is no run, or it has no undamaged checkpoint.
    """
    folder = RunFolder(Path(run))
    record = read_record(folder.record)
    checkpoint = newest_whole(folder.checkpoints)
    if checkpoint is None:
        raise bad_value("from", run, "has no checkpoint to start from; train it further with ckpt=last")
    tokens = record["tokens_per_step"]
    return TrainedParent(
        run, record["run_id"], identity_of(record), checkpoint.step, tokens, checkpoint, record["data"]
    )


def planned_parent(config: TrainConfig, folder: Path) -> Parent:
    """Return a parent that has not been trained yet, as it will be in ``folder``."""
    plan = plan_steps(config)
    return Parent(str(folder), run_id(config), identity(config), plan.steps, plan.tokens_per_step)


def with_parent(config: TrainConfig, parent: Parent) -> TrainConfig:
    """Return ``config`` with the parent's identity and, for ``recipe.parent_share``, the steps that follow from it.

    Raises:
        UserError: the parent has another model, or is another run than the configuration already names.
    """
    planned = config.parent
    if planned.run_id not in (None, parent.run_id):
        raise bad_value("from", parent.run, f"contains {parent.run_id}, not {planned.run_id} as planned; plan again")
    if planned.steps not in (None, parent.steps):
        done = f"has done {parent.steps} steps, not {planned.steps} as planned"
        raise bad_value("from", parent.run, f"{done}; train it to there, or plan again")
    different = differences(model_shape(identity(config)), model_shape(parent.identity))
    if different:
        raise bad_value("from", parent.run, f"contains another model than requested: {'; '.join(different)}")
    weights = parent.checkpoint.sha256 if isinstance(parent, TrainedParent) else None
    adopted = ParentConfig(parent.run, parent.run_id, parent.steps, settings_digest(parent.identity), weights)
    recipe = config.recipe
    if recipe.parent_share and not recipe.steps:
        tokens = recipe.parent_share * parent.steps * parent.tokens_per_step
        recipe = replace(recipe, steps=max(1, round(tokens / max(1, recipe.tokens_per_step))))
    return replace(config, parent=adopted, recipe=recipe)
