"""A run as a submitit job: how it ends, how it resumes, and what it records."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from starter import Starter
from submitit.core.utils import DelayedSubmission
from sweep_cases import planned

from ttt.config.errors import UserError
from ttt.config.identity import run_id
from ttt.config.plain import to_plain
from ttt.config.schema import TrainConfig
from ttt.data.corpus import load_corpus
from ttt.launch.job import Job, make_job
from ttt.launch.journal import read_lines
from ttt.launch.plan import Plan, SweepFolder, check_same_plan, freeze, read_origin
from ttt.results.folders import folder_of

Configure = Callable[..., TrainConfig]

PROGRAM = """
import os, shutil, signal, sys
from pathlib import Path
from ttt.train import prepare as preparing
from ttt.train import run as running
from ttt.train.module import TrainingModule

when, what = sys.argv[2:]

def happen(trainer=None):
    if what == "delete":
        shutil.rmtree(Path(trainer.default_root_dir).parent)
    elif what == "raise":
        raise ZeroDivisionError("by nobody\\nelse")
    else:
        os.kill(os.getpid(), getattr(signal, what))

def before(name, function):
    def call(*arguments, **named):
        if name == when:
            happen()
        return function(*arguments, **named)
    return call

step = TrainingModule.training_step
def training_step(self, *arguments):
    if when == f"step {self.global_step}":
        happen(self.trainer)
    return step(self, *arguments)

TrainingModule.training_step = training_step
preparing.build_model = before("set up", preparing.build_model)
running.evaluate_run = before("evaluation", running.evaluate_run)
from submitit.core.submission import process_job
process_job(sys.argv[1])
"""
"""A program that runs a submitit job and disturbs it at a chosen moment."""

ALONE = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "17", "SUBMITIT_LOCAL_NTASKS": "1"}
ALONE |= {"SUBMITIT_LOCAL_GLOBALID": "0", "SUBMITIT_LOCAL_LOCALID": "0", "OMP_NUM_THREADS": "1"}
RESUMES = "ttt-sweep retry resumes from the last checkpoint"
REQUEUED = 144
"""Exit code that makes submitit's local executor start the job again."""


class Submitted:
    """A job in a folder, pickled as by submitit."""

    def __init__(self, starter: Starter, folder: Path, config: TrainConfig, tasks: int, requeues: int) -> None:
        self.starter = starter
        self.folder, self.run, self.tasks = folder, folder / "run", tasks
        config.run = str(self.run)
        self.job = Job(folder / "config.yaml", folder / "ends/a.jsonl", "a_sweep", ("seed=0",))
        self.job.config.write_text(yaml.safe_dump(to_plain(config)))
        delayed = DelayedSubmission(self.job)
        # With such a short time submitit treats every signal as a time limit.
        delayed.set_timeout(5, requeues)
        (folder / "submitit").mkdir()
        delayed.dump(folder / "submitit/17_submitted.pkl")

    def start(self, when: str = "never", what: str = "", **environment: str) -> list[tuple[int, str]]:
        """Run the job; return exit code and standard error of every process."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            here = {"SUBMITIT_LOCAL_NTASKS": str(self.tasks), "MASTER_PORT": str(free.getsockname()[1])}
        arguments, variables = [str(self.folder / "submitit"), when, what], os.environ | ALONE | here
        processes = [
            self.starter.start(
                PROGRAM, arguments, environment=variables | {"SUBMITIT_LOCAL_GLOBALID": str(place)} | environment
            )
            for place in range(self.tasks)
        ]
        return [(process.wait(), process.communicate()[1]) for process in processes]

    def ends(self) -> list[tuple[str, str | None]]:
        lines = [json.loads(line) for line in self.job.ends.read_text().splitlines()]
        assert all(line["job_id"] == "17" for line in lines)
        return [(line["status"], line["error"]) for line in lines]

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "record.json").read_text())
        return found


@pytest.fixture
def submit(configure: Configure, starter: Starter, tmp_path: Path) -> Callable[..., Submitted]:
    load_corpus(configure().data, False)

    def submitted(*overrides: str, tasks: int = 1, requeues: int = 3) -> Submitted:
        config = configure("trainer.checkpoint_every=4", *overrides)
        return Submitted(starter, tmp_path, config, tasks, requeues)

    return submitted


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test process look like the job."""
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)


Submit = Callable[..., Submitted]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["step 5", "evaluation"])
def test_before_its_time_limit_a_job_saves_and_resumes(submit: Submit, tmp_path: Path, when: str) -> None:
    job = submit()
    ((code, errors),) = job.start(when, "SIGUSR2")
    assert code == REQUEUED, errors
    saved = "step-00000006.ckpt" if when == "step 5" else "step-00000012.ckpt"
    assert (job.record()["status"], job.record()["last_checkpoint"]) == ("interrupted", saved)
    assert job.ends() == [("requeued", None)]
    ((code, errors),) = job.start()
    assert code == 0, errors
    assert "resuming" in errors
    assert job.ends() == [("requeued", None), ("finished", None)]
    assert (job.record()["sweep"], job.record()["overrides"]) == ("a_sweep", ["seed=0"])
    assert (job.record()["status"], job.record()["steps"]) == ("finished", 12)
    if when == "step 5":
        metrics, weights = (job.run / "metrics.parquet").read_bytes(), job.run / "checkpoints/step-00000012.ckpt"
        state = torch.load(weights, weights_only=True)["state_dict"]
        job.run.rename(tmp_path / "interrupted")
        assert job.start()[0][0] == 0
        assert (job.run / "metrics.parquet").read_bytes() == metrics
        whole = torch.load(weights, weights_only=True)["state_dict"]
        assert all(torch.equal(value, whole[name]) for name, value in state.items())


@pytest.mark.slow
def test_the_number_of_requeues_is_limited(submit: Submit) -> None:
    job = submit(requeues=0)
    ((code, errors),) = job.start("step 5", "SIGUSR2")
    assert code == 1, errors
    assert (job.record()["status"], job.record()["last_checkpoint"]) == ("interrupted", "step-00000006.ckpt")
    assert job.ends()[-1] == ("failed", f"timed out more often than slurm.requeues allows; {RESUMES}")


@pytest.mark.slow
def test_before_training_the_job_is_requeued_at_once(submit: Submit) -> None:
    job = submit()
    ((code, errors),) = job.start("set up", "SIGUSR2")
    assert (code, job.ends()) == (REQUEUED, [("requeued", None)]), errors
    assert not job.run.exists(), "the lock is gone as well"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shown", "code", "status"),
    [
        ("JobState=RUNNING Reason=None PreemptTime=2026-11-22T10:12:00", REQUEUED, "requeued"),
        ("JobState=COMPLETING Reason=None PreemptTime=None", 1, "interrupted"),
    ],
    ids=["preempted", "cancelled"],
)
def test_a_preempted_job_resumes_and_a_cancelled_one_does_not(
    submit: Submit, tmp_path: Path, shown: str, code: int, status: str
) -> None:
    """Both get SIGTERM."""
    job, scontrol = submit(), tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\n[ "$*" = "show job 99" ] && echo "{shown}"\n')
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    ((ended, errors),) = job.start("step 5", "SIGTERM", PATH=path, SLURM_JOB_ID="99")
    assert ended == code, errors
    assert (job.record()["status"], job.record()["last_checkpoint"]) == ("interrupted", "step-00000006.ckpt")
    assert [found for found, _ in job.ends()] == [status]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("raise", "ZeroDivisionError: by nobody"),
        ("delete", "run: was deleted while the run wrote there; start it again"),
    ],
)
def test_a_failed_job_records_the_reason(submit: Submit, what: str, line: str) -> None:
    job = submit()
    ((code, errors),) = job.start("step 5", what)
    assert code == 1, errors
    ((status, error),) = job.ends()
    assert status == "failed"
    assert error is not None
    assert line in error
    assert "\n" not in error
    assert job.run.exists() == (what == "raise")


@pytest.mark.usefixtures("in_a_job")
def test_a_mistake_gets_one_line(submit: Submit, tmp_path: Path) -> None:
    def refused(line: str) -> None:
        with pytest.raises(UserError, match=line):
            job.job()
        status, error = job.ends()[-1]
        assert (status, error) == ("failed", error)
        assert error is not None
        assert "\n" not in error

    job = submit()
    good = yaml.safe_load(job.job.config.read_text())
    job.job.config.write_text(
        yaml.safe_dump({**good, "data": {**good["data"], "source": "local", "path": "/no/where"}})
    )
    refused("/no/where")
    job.job.config.write_text("model: [")
    refused("config.yaml: is not a run's configuration .* plan and submit the sweep again")
    job.job.config.write_text("seed: 0")
    refused("config.yaml: is not a run's configuration")
    job.job.config.unlink()
    refused(r"config.yaml: cannot be read \(No such file or directory\); plan and submit the sweep again")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("in_a_job")
def test_a_plan_keeps_the_names_of_its_folders(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans of earlier versions have folders that are named after the id alone, and their waiting jobs no folder."""
    config, folder = configure(f"runs={tmp_path}/runs"), SweepFolder(tmp_path / "sweep")
    old = replace(planned(0, tmp_path), run_id=run_id(config), folder=f"{tmp_path}/runs/{run_id(config)}")
    freeze(Plan("six", [old], {old.run_id: config}), folder)
    now = Plan("six", [replace(old, folder=str(folder_of(config, tmp_path / "runs")))], {old.run_id: config})
    assert now.runs[0].folder != old.folder
    check_same_plan(now, folder)
    with pytest.raises(UserError, match="contains another plan"):
        check_same_plan(Plan("six", [replace(old, folder=f"{tmp_path}/others/x")], {old.run_id: config}), folder)
    seen = []
    monkeypatch.setattr("ttt.launch.job.train", lambda config, *_: seen.append(config.run))
    job = make_job(folder, old, read_origin(folder), "local")
    for one in (job, replace(job, folder=None)):
        one()
    assert seen == [old.folder] * 2


@pytest.mark.usefixtures("in_a_job")
def test_relative_paths_start_where_the_sweep_was_submitted(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("there", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "there/texts").mkdir()
    config = configure("data=local", "data.path=texts", "data.cache_dir=prepared", f"run={tmp_path}/run")
    run, folder = planned(0, tmp_path), SweepFolder(tmp_path / "sweep")
    monkeypatch.chdir(tmp_path / "there")
    freeze(Plan("six", [run], {run.run_id: config}), folder)
    # As for ttt-sweep retry from another directory.
    monkeypatch.chdir(tmp_path / "elsewhere")
    job = make_job(folder, run, read_origin(folder), "local")
    seen = []
    monkeypatch.setattr("ttt.launch.job.train", lambda config, *_: seen.append(Path(config.data.path).resolve()))
    job()
    assert seen == [tmp_path / "there/texts"]
    shutil.rmtree(tmp_path / "there")
    with pytest.raises(
        UserError, match=r"there: the sweep was submitted there, and paths start from it \(No such file"
    ):
        make_job(folder, run, read_origin(folder), "local")()
    assert read_lines(folder.ends(run.run_id))[-1]["status"] == "failed"


@pytest.mark.usefixtures("in_a_job")
def test_an_end_that_cannot_be_recorded_hides_no_error(tmp_path: Path) -> None:
    (tmp_path / "ends").write_text("no folder")
    with pytest.raises(UserError, match=r"config.yaml: cannot be read"):
        Job(tmp_path / "config.yaml", tmp_path / "ends/a.jsonl", "a_sweep", ())()


@pytest.mark.slow
def test_all_processes_of_a_job_end_together(submit: Submit) -> None:
    job = submit("trainer.strategy=ddp", "trainer.devices=2", tasks=2)
    (first, errors), (second, quiet) = job.start("step 5", "SIGUSR2")
    assert (first, second) == (REQUEUED, 0), (errors, quiet)
    assert "Traceback" not in quiet
    assert job.ends() == [("requeued", None)]
    assert [code for code, _ in job.start()] == [0, 0]
    assert job.ends() == [("requeued", None), ("finished", None)]
    assert job.record()["steps"] == 12


def test_the_signal_is_submitits() -> None:
    """SLURM sends, as submitit requests, the signal that training handles."""
    import submitit

    assert submitit.JobEnvironment._usr_sig() == signal.SIGUSR2
