"""Sweeps on a real cluster: runs finish, are killed, are preempted, reach the time limit, and lose their controller.

Most runs are submitted before the first test and train side by side; each test disturbs only its own runs.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from ttt.config.assets import assets

MISSING = subprocess.run(
    [sys.executable, assets() / "slurm/one_machine.py", "packages"], capture_output=True, text=True, check=True
).stdout.strip()
if MISSING or os.geteuid() != 0:
    # One line for the module instead of one per test.
    pytest.skip(
        f"no real SLURM: {f'not installed: {MISSING}' if MISSING else 'needs root'}; see slurm/README.md",
        allow_module_level=True,
    )

Sweeps = dict[str, Any]

STEPS = 160
DISTURBED = [f"recipe.steps={STEPS}", "trainer.checkpoint_every=20"]
"""Overrides of a run that lasts long enough to be disturbed when its steps sleep."""
SLOW = 0.35
"""Sleep per step, seconds, of a run that lasts long enough to be disturbed."""
LIMITED = ["slurm.timeout_min=2", "slurm.signal_delay_s=40"], 0.6
"""A time limit, and a sleep per step. The signal comes 50 to 80 s after the start: later than a busy machine needs to
start, and earlier than all steps together."""
PRETRAINED = {"when": {"recipe": "finetune"}, "from": {"recipe": "paper"}, "add": ["recipe.steps=4"]}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def four(sweep: Callable[..., Any]) -> Any:
    """Four tiny runs, two at a time."""
    four = sweep("four", model=["ttt_linear", "transformer"], seed=[0, 1])
    assert "4 submitted" in four.submit("slurm.array_parallelism=2")
    return four


@pytest.fixture(scope="module")
def sweeps(sweep: Callable[..., Any]) -> Sweeps:
    """All other sweeps, with one run in six folders: undisturbed on this machine, and disturbed in five ways."""
    same = ("whole", "limited", "preempted", "lost", "killed", "cancelled")
    made = {name: sweep("run", *DISTURBED, runs=name, seed=[7]) for name in same}
    made["child"] = sweep("child", recipe=["paper", "finetune"], rules=[PRETRAINED])
    made["broken"] = sweep("broken", "recipe.learning_rate=1e15", recipe=["paper", "finetune"], rules=[PRETRAINED])
    made["nodes"] = sweep("nodes", "trainer.strategy=ddp", "trainer.nodes=2", model=["transformer"], seed=[0])
    options: dict[str, tuple[list[str], float]] = {
        "limited": LIMITED,
        "nodes": ([], 0),
        "child": ([], 0.2),
        "broken": ([], 0),
        "killed": ([], SLOW),
        "cancelled": ([], SLOW),
        # Each run gets a whole node, so that disturbing the node harms no other run.
        "preempted": (["slurm.cpus_per_task=4"], SLOW),
        "lost": (["slurm.cpus_per_task=4"], SLOW),
    }
    made["whole"].command("submit", "slurm=local")
    with ThreadPoolExecutor(max_workers=2) as pool:
        sent = [pool.submit(made[name].submit, *slurm, step_seconds=slow) for name, (slurm, slow) in options.items()]
        assert all("submitted" in one.result() for one in sent)
    return made


def state(cluster: Any, job: str) -> str:
    """Return SLURM's state of a job."""
    return cluster.call("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}", "--format=State")


def assert_ends_as_the_whole_run(disturbed: Any, whole: Any) -> None:
    """Assert equal bytes of the metrics, and equal weights and optimizer state."""
    whole.wait_until_finished()
    disturbed.wait_until_finished()
    ours, theirs = (Path(sweep.only()["folder"]) for sweep in (disturbed, whole))
    assert ours != theirs
    assert (ours / "metrics.parquet").read_bytes() == (theirs / "metrics.parquet").read_bytes()
    states = [torch.load(run / f"checkpoints/step-{STEPS:08d}.ckpt", weights_only=True) for run in (ours, theirs)]
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0)


def test_submitting_twice_submits_nothing_twice(four: Any) -> None:
    jobs = four.jobs()
    assert len(jobs) == len({job["job_id"] for job in jobs}) == 4
    assert "0 submitted" in four.submit()
    assert four.jobs() == jobs


def test_the_controller_is_restarted(four: Any) -> None:
    """Running jobs continue without the controller, and waiting jobs start when it is back."""
    cluster = four.cluster
    four.wait_for(lambda: any(four.ends(run) for run in four.planned()), "a run ends")
    old = cluster.daemon("slurmctld")
    os.kill(old, signal.SIGTERM)
    four.wait_for(lambda: not cluster.lives(old), "the controller ends")
    assert set(four.states().values()) <= {"queued", "running", "finished"}, "accounting answers for it"
    subprocess.run(["slurmctld"], env=cluster.environment, check=True)
    four.wait_for(lambda: "idle" in cluster.call("sinfo", "--noheader", "--format=%T,%n"), "the controller is back")


@pytest.fixture(scope="module")
def disturbed(sweeps: Sweeps) -> str:
    """Disturb each of these runs as soon as it trains; return the id of the job that preempts one."""
    cluster, node = sweeps["whole"].cluster, {}
    for name in ("preempted", "lost"):
        (run,) = sweeps[name].planned()
        sweeps[name].wait_for_step(run, 20)
        node[name] = cluster.call("squeue", "--noheader", f"--job={sweeps[name].jobs()[0]['job_id']}", "--format=%N")
        assert node[name], "it runs"
    job = ["--partition=urgent", f"--nodelist={node['preempted']}", "--output=/dev/null", "--wrap=true"]
    urgent = cluster.call("sbatch", "--parsable", *job)
    cluster.call("scontrol", "update", f"nodename={node['lost']}", "state=down", "reason=test")
    for name in ("killed", "cancelled"):
        (run,) = sweeps[name].planned()
        sweeps[name].wait_for_step(run, 20)
    sweeps["killed"].kill(sweeps["killed"].jobs()[0]["job_id"])
    assert "1 cancelled" in sweeps["cancelled"].command("cancel")
    cluster.call("scontrol", "update", f"nodename={node['lost']}", "state=resume")
    return urgent


@pytest.mark.usefixtures("disturbed")
def test_a_killed_run_is_seen_and_retried_to_the_same_end(sweeps: Sweeps) -> None:
    killed = sweeps["killed"]
    (run,) = killed.planned()
    killed.wait_for(lambda: killed.only()["state"] == "killed", "accounting reports it")
    assert killed.record(run)["status"] == "running", "it had no time to write its record"
    assert "1 submitted" in killed.command("retry")
    assert len(killed.jobs()) == 2
    assert_ends_as_the_whole_run(killed, sweeps["whole"])


@pytest.mark.usefixtures("disturbed")
def test_a_cancelled_run_stays_so_until_it_is_submitted_again(sweeps: Sweeps) -> None:
    cancelled = sweeps["cancelled"]
    (run,) = cancelled.planned()
    job = cancelled.jobs()[0]["job_id"]
    cancelled.wait_for(lambda: state(cancelled.cluster, job).startswith("CANCELLED"), "accounting reports it")
    assert cancelled.only()["state"] == "cancelled"
    assert cancelled.record(run)["status"] == "interrupted", "it saved what it had"
    assert "0 submitted" in cancelled.command("retry"), "a cancelled run is not retried"
    assert "1 submitted" in cancelled.submit()
    assert_ends_as_the_whole_run(cancelled, sweeps["whole"])


def test_a_preempted_run_resumes(sweeps: Sweeps, disturbed: str) -> None:
    preempted = sweeps["preempted"]
    assert_ends_as_the_whole_run(preempted, sweeps["whole"])
    assert_queued_again(preempted)
    assert state(preempted.cluster, disturbed) == "COMPLETED", "the job that was in a hurry"


@pytest.mark.usefixtures("disturbed")
def test_a_run_resumes_after_its_node_failed(sweeps: Sweeps) -> None:
    assert_ends_as_the_whole_run(sweeps["lost"], sweeps["whole"])
    assert_queued_again(sweeps["lost"])


def assert_queued_again(sweep: Any) -> None:
    """Assert that the only job submitted finished the run after one requeue."""
    (run,) = sweep.planned()
    sweep.wait_for(lambda: sweep.only()["state"] == "finished", "its state")
    (job,) = [submitted["job_id"] for submitted in sweep.jobs()]
    assert [(end["job_id"], end["restart"]) for end in sweep.ends(run)][-1] == (job, 1)
    assert [end["status"] for end in sweep.ends(run)].count("finished") == 1


def test_a_run_that_diverges_ends_with_its_message(sweeps: Sweeps) -> None:
    """The run that starts from it does not wait forever."""
    broken = sweeps["broken"]
    parent, child = broken.planned()
    broken.wait_for(lambda: broken.ends(parent), "the run ends")
    broken.wait_for(lambda: broken.states() == {parent["run_id"]: "diverged", child["run_id"]: "orphaned"}, "seen")
    assert "the loss became" in broken.runs()[parent["run_id"]]["detail"]
    assert "the loss became" in broken.command("status")
    assert state(broken.cluster, broken.jobs()[0]["job_id"]) == "FAILED"
    assert "the loss became" in broken.command("logs", parent["run_id"])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("partition", "Invalid partition name specified"),
        ("account", "Invalid account or account/partition combination"),
    ],
)
def test_an_error_of_the_cluster_is_passed_on(sweep: Callable[..., Any], key: str, message: str) -> None:
    refused = sweep("refused", runs=f"refused_{key}", seed=[0])
    done = refused.run("submit", "slurm=one_machine", f"slurm.{key}=nowhere")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert refused.jobs() == []


def test_a_run_on_two_nodes(sweeps: Sweeps, four: Any) -> None:
    """Two nodes reach the loss of one process, up to the order of sums."""
    nodes = sweeps["nodes"]
    nodes.wait_until_finished()
    (run,) = nodes.planned()
    record = nodes.record(run)
    assert record["device"]["count"] == 2
    (job,) = [submitted["job_id"] for submitted in nodes.jobs()]
    nodes.wait_for(lambda: state(nodes.cluster, job) == "COMPLETED", "its job ends")
    assert nodes.cluster.call("sacct", "-X", "-n", "-P", f"--jobs={job}", "--format=NNodes") == "2"
    four.wait_until_finished()
    single = next(
        four.record(run) for run in four.planned() if {"model=transformer", "seed=0"} <= set(run["overrides"])
    )
    assert record["steps"] == single["steps"]
    assert record["results"]["validation"]["loss"] == pytest.approx(single["results"]["validation"]["loss"], rel=1e-3)


def test_a_child_waits_for_its_parent(sweeps: Sweeps) -> None:
    family = sweeps["child"]
    parent, child = family.planned()
    family.wait_until_finished()
    assert child["parent"] == parent["run_id"]
    records = [family.record(run) for run in (parent, child)]
    assert records[1]["config"]["parent"]["run_id"] == parent["run_id"]
    assert records[0]["timing"]["ended"] <= records[1]["timing"]["started"]
    assert records[1]["run_id"] == child["run_id"], "the planned identity is the real one"
    assert set(family.states().values()) == {"finished"}


def test_a_run_resumes_after_its_time_limit(sweeps: Sweeps) -> None:
    limited = sweeps["limited"]
    (run,) = limited.planned()
    assert_ends_as_the_whole_run(limited, sweeps["whole"])
    limited.wait_for(lambda: limited.ends(run)[-1]["status"] == "finished", "the last end")
    *before, last = limited.ends(run)
    assert before
    assert {end["status"] for end in before} == {"requeued"}
    assert {end["job_id"] for end in (*before, last)} == {limited.jobs()[0]["job_id"]}
    assert last["restart"] == len(before)


def test_hydras_own_launcher_submits_too(four: Any, tiny: list[str], tmp_path: Path) -> None:
    train = [str(Path(sys.executable).with_name("ttt-train")), "-m", *tiny, "seed=3,4", f"runs={tmp_path}/runs"]
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=main", "hydra.launcher.timeout_min=60"]
    done = subprocess.run(
        [*train, *launcher, f"hydra.sweep.dir={tmp_path}/multirun"],
        env=four.cluster.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/record.json")]
    assert sorted((record["seed"], record["status"]) for record in records) == [(3, "finished"), (4, "finished")]


def test_collected_runs_make_a_figure(four: Any, tmp_path: Path) -> None:
    four.wait_until_finished()
    assert set(four.states().values()) == {"finished"}
    assert "0 submitted" in four.submit(), "what is finished is not submitted again"
    assert "4 of 4" in four.command("collect", f"out={tmp_path}/results")
    plot = [
        Path(sys.executable).with_name("ttt-plot"),
        "training",
        f"runs={tmp_path / 'results'}",
        f"out={tmp_path}",
    ]
    subprocess.run(plot, check=True, capture_output=True)
    assert (tmp_path / "training.png").stat().st_size > 0
    table = (tmp_path / "training.csv").read_text()
    for name in four.runs():
        digest = name.rpartition("-")[2]
        assert list(tmp_path.glob(f"results/*-{digest}/record.json"))
    assert {"ttt_linear", "transformer"} <= set(table.replace("\n", ",").split(","))
