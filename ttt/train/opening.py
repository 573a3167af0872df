"""Opening a run's folder: whether a run starts, goes on, is done already or must not touch what is there."""

import shutil
from pathlib import Path
from typing import Literal

from ttt.config.errors import UserError, bad_value
from ttt.config.identity import differences, identity, run_id
from ttt.config.plain import from_plain, to_plain
from ttt.config.plan import StepPlan, plan_steps
from ttt.config.schema import TrainConfig
from ttt.results.atomic import remove_partials
from ttt.results.checkpoints import Checkpoint, checkpoint_step, checkpoints, set_aside
from ttt.results.lock import holds_other_files
from ttt.results.record import Record, RunFolder, read_record

OPEN_WAY = "ckpt=last goes on from there, overwrite=true starts over, run=FOLDER chooses another folder"

Opening = Literal["start", "resume", "finished"]


def run_folder(config: TrainConfig) -> RunFolder:
    """``run``, or the folder below ``runs`` that the configuration's name and hash give."""
    return RunFolder(Path(config.run) if config.run else Path(config.runs) / run_id(config))


def open_run(config: TrainConfig, plan: StepPlan, folder: RunFolder) -> Opening:
    """What to do in ``folder``; nothing is changed.

    Raises:
        UserError: the folder belongs to something else, or holds work that was not asked to go on.
    """
    if not folder.path.exists():
        return "start"
    if config.parent.run is not None and folder.path.samefile(config.parent.run):
        raise bad_value("run", folder.path, "is the run to start from; choose another folder")
    if not folder.record.exists():
        if not folder.path.is_dir() or holds_other_files(folder.path):
            raise UserError(f"run={folder.path}: holds other files and no run; choose another folder")
        return "start"
    record = read_record(folder.record)
    if config.overwrite:
        return "start"
    _refuse_another(config, folder, record)
    if record["status"] == "finished" and record["steps"] >= plan.steps:
        return "finished"
    if not checkpoints(folder.checkpoints):
        return "start"
    if config.ckpt != "last":
        raise UserError(f"{folder.path}: holds {record['steps']} steps of this run ({record['status']}); {OPEN_WAY}")
    _refuse_another_split(config, plan, record)
    return "resume"


def clear(folder: RunFolder) -> None:
    """Makes the folder, and removes what an earlier run left in it, nothing else.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        remove_partials(folder.path)
        for file in (folder.record, folder.config, folder.metrics, folder.inner_loss):
            file.unlink(missing_ok=True)
        for part in (folder.checkpoints, folder.path / "logs"):
            if part.exists():
                shutil.rmtree(part)
    except OSError as error:
        raise _unwritable(folder, error) from error


def reopen(folder: RunFolder, newest: Checkpoint) -> None:
    """Leaves nothing that is newer than the checkpoint to go on from, nor what a killed process did not finish.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        for part in (folder.path, folder.checkpoints):
            remove_partials(part)
        for path in checkpoints(folder.checkpoints):
            if checkpoint_step(path) > newest.step:
                set_aside(path, "damaged")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _refuse_another(config: TrainConfig, folder: RunFolder, record: Record) -> None:
    different = differences(identity(to_plain(config)), identity(record["config"]))
    if different:
        listed = "; ".join(different[:3]) + ("; ..." if len(different) > 3 else "")
        raise UserError(f"run={folder.path}: belongs to another configuration ({listed}); choose another folder")


def _refuse_another_split(config: TrainConfig, plan: StepPlan, record: Record) -> None:
    """The place in the data is counted in device batches: with others a resumed run would read other sequences."""
    before = plan_steps(from_plain(record["config"], type(config.model)))
    if before.tokens_per_step != plan.tokens_per_step:
        began = f"the run began with {before.tokens_per_step:,} tokens a step, here they would be"
        raise bad_value("trainer.devices", config.trainer.devices, f"{began} {plan.tokens_per_step:,}")
    if (before.device_batch, before.accumulate) != (plan.device_batch, plan.accumulate):
        began = f"the run began with {before.device_batch} ({before.accumulate} times a step on each device)"
        raise bad_value("trainer.device_batch", plan.device_batch, f"{began}, and must go on so")


def _unwritable(folder: RunFolder, error: OSError) -> UserError:
    return bad_value("run", folder.path, f"cannot be written ({error.strerror}); choose another folder")
