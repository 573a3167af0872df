"""The plan of a sweep: its runs, each with its resolved configuration, frozen in the sweep's folder."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock

from ttt.config.errors import UserError, counted
from ttt.config.identity import differences
from ttt.config.plain import to_plain
from ttt.config.schema import Resolved, TrainConfig
from ttt.results.atomic import write_text
from ttt.results.provenance import git_state, versions
from ttt.results.versioned import read_versioned

SCHEMA_VERSION = 1
PLAN_FILE = "plan.json"
PLAN_KEYS = {"sweep", "versions", "git", "runs"}


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep.

    Attributes:
        run_id: as in the run's record.
        folder: the run folder.
        overrides: overrides of ``ttt-train``.
        parent: run_id of the run whose weights it starts from, or None.
        steps: optimizer steps in total.
        tokens_per_step: tokens of one step, over all devices.
        nodes: number of machines.
        devices: processes per machine.
        resources: cluster keys that the sweep sets for this run, see ``ttt.config.cluster.RESOURCES``.
        label: the label of the run's record, or None; plans of earlier versions have none.
    """

    run_id: str
    folder: str
    overrides: tuple[str, ...]
    parent: str | None
    steps: int
    tokens_per_step: int
    nodes: int = 1
    devices: int = 1
    resources: dict[str, Any] = field(default_factory=dict)
    label: dict[str, Any] | None = None


class Origin(NamedTuple):
    """Where the jobs of a sweep come from.

    Attributes:
        sweep: the sweep's name.
        directory: the working directory of its first submission, from which relative paths in configurations start;
            None in plans of earlier versions.
    """

    sweep: str
    directory: str | None


class SweepFolder:
    """The files of a sweep below ``path``.

    Attributes:
        plan: the runs, JSON.
        cluster: the cluster of the last submission, JSON.
        held: the runs that the last submission held back, JSON; see ``ttt.launch.choice``.
        known: the folder of known runs, JSON; see ``ttt.launch.known``.
        jobs: one line of JSON per job; see ``ttt.launch.journal``.
        submitit: folder of submitit's scripts, pickled jobs and logs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan, self.cluster, self.held = path / PLAN_FILE, path / "cluster.json", path / "held.json"
        self.known = path / "known.json"
        self.jobs, self.submitit = path / "jobs.jsonl", path / "submitit"

    def make(self) -> None:
        """Create the folder.

        Raises:
            UserError: it cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remedy = "choose another with folder=FOLDER"
            raise UserError(f"{self.path}: cannot be created ({error.strerror}); {remedy}") from error

    def config(self, run_id: str) -> Path:
        """Return the file of a run's frozen configuration, YAML."""
        return self.path / "configs" / f"{run_id}.yaml"

    def ends(self, run_id: str) -> Path:
        """Return the file with one line of JSON per end of a job of the run; see ``ttt.launch.job``."""
        return self.path / "ends" / f"{run_id}.jsonl"


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, parents before their children, and their configurations by run_id."""

    sweep: str
    runs: list[PlannedRun]
    configs: dict[str, TrainConfig]


def freeze(plan: Plan, folder: SweepFolder) -> None:
    """Write the plan into the folder, unless the folder has the same plan already.

    Raises:
        UserError: the folder contains another plan or cannot be written.
    """
    if folder.plan.exists():
        check_same_plan(plan, folder)
        return
    for run_id, config in plan.configs.items():
        write_text(folder.config(run_id), yaml.safe_dump(to_plain(config), sort_keys=False))
    content = {
        "schema_version": SCHEMA_VERSION,
        "sweep": plan.sweep,
        "versions": versions(),
        "git": git_state(),
        "directory": str(Path.cwd()),
        "runs": [asdict(run) for run in plan.runs],
    }
    # The plan is written last, so that a folder with a plan has all of its configurations.
    write_text(folder.plan, json.dumps(content, indent=1) + "\n")


def check_same_plan(plan: Plan, folder: SweepFolder) -> None:
    """Check that the folder contains this plan: the same runs, steps, folders, parents and resources.

    Raises:
        UserError: it contains another plan.
    """
    before = {run.run_id: run for run in read_runs(folder)}
    now = {run.run_id: run for run in plan.runs}
    more, fewer = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
    difference = None
    if more or fewer:
        examples = [*(f"+{run_id}" for run_id in more[:2]), *(f"-{run_id}" for run_id in fewer[:2])]
        difference = f"{counted(len(more), 'new run')}, {len(fewer)} gone: {', '.join(examples)}"
    else:
        for run_id in now:
            if changed := differences(_compared_keys(now[run_id]), _compared_keys(before[run_id])):
                difference = f"{run_id}: {'; '.join(changed)}"
                break
    if difference:
        raise UserError(f"{folder.path}: contains another plan ({difference}); choose another with folder=FOLDER")


def read_runs(folder: SweepFolder) -> list[PlannedRun]:
    """Return the runs of the folder's plan.

    Raises:
        UserError: the plan is missing or broken.
    """
    return [_run(plain) for plain in _read(folder)["runs"]]


def read_origin(folder: SweepFolder) -> Origin:
    """Return the name of the sweep and the directory of its submission.

    Raises:
        UserError: the plan is missing or broken.
    """
    content = _read(folder)
    return Origin(content["sweep"], content.get("directory"))


def submit_lock(folder: SweepFolder) -> FileLock:
    """Return the lock to hold while choosing and submitting runs, so that no run is submitted twice."""
    return FileLock(folder.path / ".submit.lock")


def _read(folder: SweepFolder) -> dict[str, Any]:
    hint = "no sweep has been submitted here; use ttt-sweep submit sweep=NAME slurm=CLUSTER"
    remedy = "restore it, or submit the sweep into another folder"
    return read_versioned(folder.plan, SCHEMA_VERSION, PLAN_KEYS, "a sweep's plan", hint, remedy)


def _run(plain: dict[str, Any]) -> PlannedRun:
    """Return a run of the plan; keys of newer versions are ignored."""
    known = {key: plain[key] for key in PlannedRun.__dataclass_fields__ if key in plain}
    return PlannedRun(**{**known, "overrides": tuple(plain["overrides"])})


def _compared_keys(run: PlannedRun) -> Resolved:
    """Return what must not change; the folder's name may, since it has words that depend on the version."""
    plain = asdict(run) | {"folder": str(Path(run.folder).parent)}
    return {key: plain[key] for key in ("steps", "folder", "nodes", "devices", "parent", "resources")}
