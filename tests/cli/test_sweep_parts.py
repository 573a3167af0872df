"""``ttt-sweep submit`` in parts: a limit, canaries, and the same command again; with a stand-in for SLURM."""

import json
import re
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from sweep_cases import write_record, write_sacct

from ttt.cli.sweep import commands
from ttt.cli.sweep.expand import expand
from ttt.cli.sweep.main import main
from ttt.cli.sweep.request import Request
from ttt.config.sweep import read_sweep
from ttt.launch.cost import RunCost
from ttt.launch.plan import Plan, PlannedRun, SweepFolder, read_runs
from ttt.launch.status import sweep_status

SUBMIT = ("submit", "sweep=mine.yaml", "slurm=a100")
STATUS = ("status", "sweep=mine.yaml")


class Cluster:
    """A stand-in for SLURM, and ``ttt-sweep`` in its folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.capsys, self.monkeypatch = folder, capsys, monkeypatch
        (folder / "bin").mkdir()
        monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
        monkeypatch.chdir(folder)
        self.program("srun", "")
        number = f"{folder}/number"
        Path(number).write_text("0")
        self.program(
            "sbatch",
            f"number = int(open({number!r}).read()) + 1\n"
            f"open({number!r}, 'w').write(str(number))\nprint('Submitted batch job', number)",
        )

    def program(self, name: str, text: str) -> None:
        (self.folder / "bin" / name).write_text(f"#!{sys.executable}\nimport os, sys\n{text}\n")
        (self.folder / "bin" / name).chmod(0o755)

    def __call__(self, *words: str) -> str:
        """Run ``ttt-sweep`` with these words; return its output."""
        self.monkeypatch.setattr(sys, "argv", ["ttt-sweep", *words])
        code: object = 0
        try:
            main()
        except SystemExit as error:
            code = error.code
        out, err = self.capsys.readouterr()
        assert not code, err
        return out

    @property
    def sweep(self) -> SweepFolder:
        return SweepFolder(self.folder / "runs/sweeps/mine")

    def runs(self) -> list[PlannedRun]:
        return read_runs(self.sweep)

    def jobs(self) -> list[str]:
        """Return the ids of all jobs in order."""
        return [json.loads(line)["job_id"] for line in self.sweep.jobs.read_text().splitlines()]

    def set_state(self, state: str) -> None:
        """Let sacct report this state of every job."""
        now = int(time.time())
        write_sacct(self.program, [(job, state, "Unknown", now, "mine") for job in self.jobs()])


@cache
def plan() -> Plan:
    axes = {"model": ["ttt_linear", "transformer"], "seed": [0, 1]}
    return expand(read_sweep("mine", {"base": ["size=w64"], "axes": axes}), Path("runs"))


@pytest.fixture
def cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return a cluster with a sweep of two models and two seeds."""
    runs = [replace(run, folder=f"{tmp_path}/runs/{run.run_id}") for run in plan().runs]
    monkeypatch.setattr(commands, "_expand", lambda *_, **__: replace(plan(), runs=runs))
    return Cluster(tmp_path, capsys, monkeypatch)


def test_a_limit_submits_a_part_and_the_same_command_the_next(cluster: Cluster) -> None:
    out = cluster(*SUBMIT, "limit=3")
    assert out.splitlines()[:3] == [
        "job 1: 3 runs",
        "3 submitted, 0 were queued or running, 0 finished, of 4 runs",
        "held back: 1 run by limit=N; submit again with the same command",
    ]
    cluster.set_state("PENDING")
    assert "not submitted" in cluster(*STATUS)
    assert "held back by limit=3; submit again" in " ".join(cluster(*STATUS).split())
    assert "1 submitted, 3 were queued or running" in cluster(*SUBMIT, "limit=3")
    cluster.set_state("PENDING")
    assert "held back" not in cluster(*STATUS)
    assert "0 submitted, 4 were queued or running" in cluster(*SUBMIT, "limit=3")
    assert cluster.jobs() == ["1_0", "1_1", "1_2", "2"]


def test_the_rest_follows_its_canaries(cluster: Cluster) -> None:
    out = cluster(*SUBMIT, "canary=true")
    assert "2 submitted" in out
    assert "held back: 2 runs until a canary of the same shape trains a step; submit again with the same command" in out
    cluster.set_state("RUNNING")
    linear, _, transformer, _ = cluster.runs()
    assert f"held back until its canary {linear.run_id} trains a step" in " ".join(cluster(*STATUS).split())
    assert "0 submitted" in cluster(*SUBMIT, "canary=true")
    write_record(linear, "running", 1)
    assert f"its canary {linear.run_id} has trained a step; submit again" in " ".join(cluster(*STATUS).split())
    assert "1 submitted" in cluster(*SUBMIT, "canary=true")
    cluster.set_state("RUNNING")
    assert [run["detail"] for run in json.loads(cluster(*STATUS, "--json"))] == [
        "", "", "", f"held back until its canary {transformer.run_id} trains a step",
    ]  # fmt: skip
    assert "1 submitted" in cluster(*SUBMIT), "without canary=true nothing waits"
    assert len(set(cluster.jobs())) == len(cluster.jobs()) == 4


@pytest.mark.parametrize("limit", [[], ["limit=3"]], ids=str)
def test_a_watch_submits_the_rest(cluster: Cluster, limit: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        cluster.set_state("RUNNING")
        linear, _, transformer, _ = cluster.runs()
        write_record(linear if len(pauses) == 1 else transformer, "running", 1)

    write_sacct(cluster.program, [])
    monkeypatch.setattr("ttt.cli.sweep.submit.sleep", sleep)
    cluster(*SUBMIT, "canary=true", "--watch", "interval=5", *limit)
    assert pauses == [5, 5]
    assert len(cluster.jobs()) == (3 if limit else 4)


def test_a_watch_ends_when_a_canary_dies(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sacct(cluster.program, [])

    def sleep(_: float) -> None:
        cluster.set_state("OUT_OF_MEMORY")
        write_record(cluster.runs()[2], "running", 1)

    monkeypatch.setattr("ttt.cli.sweep.submit.sleep", sleep)
    with pytest.raises(AssertionError, match=r"is killed \(out of memory; .*\); 1 run held back by canaries"):
        cluster(*SUBMIT, "canary=true", "--watch")
    assert len(cluster.jobs()) == 3


def make_known(cluster: Cluster, *numbers: int, digest: str = "a" * 64) -> None:
    """Write finished records of these runs into the folder ``made``."""
    for number in numbers:
        run = plan().runs[number]
        write_record(replace(run, folder=f"{cluster.folder}/made/{run.run_id}"), "finished", run.steps)
        path = cluster.folder / "made" / run.run_id / "record.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"name": "pycode", "digest": digest}}))


def test_known_runs_count_as_made_and_are_remembered(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttt.data.cache.prepared_digest", lambda _: "a" * 64)
    make_known(cluster, 0, 3)
    write_sacct(cluster.program, [])
    assert "2 submitted, 0 were queued or running, 2 finished (2 of them in made)" in cluster(*SUBMIT, "known=made")
    cluster.set_state("PENDING")
    states = [(run["state"], run["known"] is not None) for run in json.loads(cluster(*STATUS, "--json"))]
    assert states == [("finished", True), ("queued", False), ("queued", False), ("finished", True)]
    assert cluster(*STATUS, "--folders") == "", "nothing has been made here"
    assert "4 runs: 2 not submitted, 2 queued" in cluster(*STATUS, "known=null")
    write_record(cluster.runs()[1], "finished", cluster.runs()[1].steps)
    cluster.set_state("FAILED")
    assert "1 submitted, 0 were queued or running, 3 finished (2 of them in made)" in cluster(
        "retry", "sweep=mine.yaml"
    )
    assert "0 submitted" in cluster(*SUBMIT, "limit=1"), "submit without known= keeps the folder"
    cluster.set_state("PENDING")
    assert "2 submitted, 1 were queued or running, 1 finished, of" in cluster(*SUBMIT, "known=null")


def test_a_plan_leaves_known_runs_out_of_the_sum(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttt.data.cache.prepared_digest", lambda _: "a" * 64)
    monkeypatch.setattr(commands, "run_costs", lambda plan, *_: [RunCost(run, 8, 1000, 1e9, 1, 8) for run in plan.runs])
    make_known(cluster, 0, 3)
    out = cluster("plan", "sweep=mine.yaml", "known=made")
    rows = [line for line in out.splitlines() if line.endswith(" made")]
    assert [line.split()[0] for line in rows] == [plan().runs[number].run_id[-8:] for number in (0, 3)]
    assert "4 runs, 2 of them made and not in the sum." in out
    (total,) = (line for line in out.splitlines() if line.startswith("sum"))
    assert total.split()[1] == "2k"


@pytest.mark.parametrize(
    ("here", "line"),
    [
        (None, "data=pycode is not prepared here; known runs were made on digest aaaaaaaaaaaa of it"),
        ("b" * 64, "was made on other data (digest aaaaaaaaaaaa, here it is bbbbbbbbbbbb); install the versions in"),
    ],
    ids=["not prepared", "other data"],
)
def test_known_runs_of_other_data(
    here: str | None, line: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttt.data.cache.prepared_digest", lambda _: here)
    make_known(cluster, 0)
    if here is None:
        assert line in cluster(*SUBMIT, "known=made").splitlines()
    for command in (SUBMIT, ("plan", "sweep=mine.yaml")) if here else ():
        with pytest.raises(AssertionError, match=re.escape(line)):
            cluster(*command, "known=made")
    assert cluster.sweep.path.exists() is (here is None), "nothing is left of a command that is refused"


def test_a_submission_that_failed_does_not_block_the_next(cluster: Cluster) -> None:
    cluster.program("sbatch", "import sys; sys.exit('sbatch: error: invalid partition')")
    with pytest.raises(AssertionError, match="invalid partition"):
        cluster(*SUBMIT, "canary=true")
    assert cluster.sweep.plan.exists()
    content = json.loads(cluster.sweep.plan.read_text())
    cluster.sweep.plan.write_text(json.dumps({**content, "runs": content["runs"][:1]}))
    with pytest.raises(AssertionError, match="invalid partition"):
        cluster(*SUBMIT)
    assert len(cluster.runs()) == 4


def test_dry_shows_the_jobs_and_sends_and_writes_nothing(cluster: Cluster) -> None:
    out = cluster(*SUBMIT, "dry=true")
    assert "#SBATCH --array=0-3" in out
    assert "ttt-train" in out
    assert not cluster.sweep.path.exists()


def test_status_takes_the_words_of_submit(cluster: Cluster) -> None:
    cluster(*SUBMIT, "limit=3")
    cluster.set_state("PENDING")
    assert cluster("status", *SUBMIT[1:], "slurm.mem_gb=8", "limit=3", "seed=0,1") == cluster(*STATUS)


def test_a_watch_into_a_file_writes_what_changed_with_its_time(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster(*SUBMIT)
    cluster.set_state("PENDING")
    before = sweep_status(cluster.sweep)
    after = [replace(before[0], state="running"), *before[1:]]
    watch = Request("status", flags={"--watch"})
    for statuses in (before, after):
        commands._show_status(watch, statuses, before)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\d-]{10} [\d:]{8}", lines[0])
    assert len(lines) == 4
    assert " running " in lines[2]
