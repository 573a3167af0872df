"""A sweep that has been expanded: its runs, each with its configuration resolved and frozen."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import yaml
from filelock import FileLock

from ttt.config.errors import UserError
from ttt.config.identity import differences
from ttt.config.plain import to_plain
from ttt.config.schema import Resolved, TrainConfig
from ttt.results.atomic import write_text
from ttt.results.provenance import git_state, versions
from ttt.results.versioned import read_versioned

SCHEMA_VERSION = 1
PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep.

    Attributes:
        run_id: as in the run's record.
        folder: the run's folder.
        overrides: what was asked for, as on the command line of ``ttt-train``.
        parent: run_id of the run that it starts from, if any.
        steps: optimizer steps after which it is finished.
        tokens_per_step: of all devices together.
        nodes: machines.
        devices: processes on each.
        resources: what it asks of a cluster besides, see ``ttt.config.cluster.RESOURCES``.
        label: the run's description for figures.
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


class PlanFile(TypedDict):
    """``plan.json``."""

    schema_version: int
    sweep: str
    versions: dict[str, str]
    git: Any
    runs: list[dict[str, Any]]


class SweepFolder:
    """Where a sweep keeps its plan and what became of it.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Makes the folder.

        Raises:
            UserError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be made ({error.strerror}); choose another with folder=FOLDER"
            ) from error

    @property
    def plan(self) -> Path:
        """The runs, JSON."""
        return self.path / PLAN_FILE

    @property
    def cluster(self) -> Path:
        """The cluster that was last submitted to, JSON."""
        return self.path / "cluster.json"

    @property
    def jobs(self) -> Path:
        """A line for every job, JSON; see ``ttt.launch.journal``."""
        return self.path / "jobs.jsonl"

    @property
    def submitit(self) -> Path:
        """What submitit keeps: scripts, pickled jobs, logs."""
        return self.path / "submitit"

    def config(self, run_id: str) -> Path:
        """The frozen configuration of a run, YAML."""
        return self.path / "configs" / f"{run_id}.yaml"

    def ends(self, run_id: str) -> Path:
        """A line for every end of a job of the run, JSON; see ``ttt.launch.job``."""
        return self.path / "ends" / f"{run_id}.jsonl"


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, a parent before its children, and their configurations by run_id."""

    sweep: str
    runs: list[PlannedRun]
    configs: dict[str, TrainConfig]


def freeze(plan: Plan, folder: SweepFolder) -> None:
    """Writes the plan, or finds it written.

    Raises:
        UserError: the folder holds another plan or cannot be written.
    """
    if folder.plan.exists():
        refuse_another(plan, folder)
        return
    for run_id, config in plan.configs.items():
        write_text(folder.config(run_id), yaml.safe_dump(to_plain(config), sort_keys=False))
    content: PlanFile = {
        "schema_version": SCHEMA_VERSION,
        "sweep": plan.sweep,
        "versions": versions(),
        "git": git_state(),
        "runs": [asdict(run) for run in plan.runs],
    }
    # Last: a folder with a plan has all of its configurations.
    write_text(folder.plan, json.dumps(content, indent=1) + "\n")


def refuse_another(plan: Plan, folder: SweepFolder) -> None:
    """Compares with the plan in the folder: what makes runs the same, and what decides their jobs' size.

    Raises:
        UserError: they differ.
    """
    before = {run.run_id: run for run in read_runs(folder)}
    now = {run.run_id: run for run in plan.runs}
    remedy = "choose another with folder=FOLDER"
    more, fewer = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
    if more or fewer:
        some = ", ".join([*(f"+{run_id}" for run_id in more[:2]), *(f"-{run_id}" for run_id in fewer[:2])])
        raise UserError(
            f"{folder.path}: holds another plan ({len(more)} runs are new, {len(fewer)} gone: {some}); {remedy}"
        )
    for run_id, run in now.items():
        if _to_compare(run) != _to_compare(before[run_id]):
            listed = "; ".join(differences(_to_compare(run), _to_compare(before[run_id])))
            raise UserError(f"{folder.path}: holds another plan ({run_id}: {listed}); {remedy}")


def read_runs(folder: SweepFolder) -> list[PlannedRun]:
    """The runs that the folder's plan names.

    Raises:
        UserError: there is no plan, or one that is broken.
    """
    return [_run(plain) for plain in _read(folder)["runs"]]


def read_name(folder: SweepFolder) -> str:
    """The sweep's name.

    Raises:
        UserError: as ``read_runs``.
    """
    return str(_read(folder)["sweep"])


def submit_lock(folder: SweepFolder) -> FileLock:
    """Held while runs are chosen and submitted, so that two commands at a time do not submit one twice."""
    return FileLock(folder.path / ".submit.lock")


def _read(folder: SweepFolder) -> dict[str, Any]:
    hint = "no sweep has been submitted from it; ttt-sweep submit sweep=NAME slurm=CLUSTER does"
    remedy = "restore it, or submit the sweep into another folder"
    return read_versioned(folder.plan, SCHEMA_VERSION, PlanFile.__required_keys__, "a sweep's plan", hint, remedy)


def _run(plain: dict[str, Any]) -> PlannedRun:
    return PlannedRun(**{**plain, "overrides": tuple(plain["overrides"])})


def _to_compare(run: PlannedRun) -> Resolved:
    plain = asdict(run)
    return {key: plain[key] for key in ("steps", "folder", "nodes", "devices", "parent", "resources")}
