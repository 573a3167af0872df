"""Submissions to SLURM, with a stand-in for sbatch."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_cases import planned, write_sacct

from ttt.config.cluster import ClusterConfig
from ttt.config.errors import UserError
from ttt.launch.cancel import cancel_runs
from ttt.launch.journal import read_lines
from ttt.launch.plan import PlannedRun, SweepFolder
from ttt.launch.resources import Resources, read_resources, write_resources
from ttt.launch.script import sbatch_script
from ttt.launch.status import sweep_status
from ttt.launch.submit import submit

Make = Callable[[list[PlannedRun]], SweepFolder]
Program = Callable[[str, str], None]

GOLDEN = Path(__file__).parent / "golden_sbatch.sh"

CLUSTER = ClusterConfig(
    name="golden",
    partition="gpu",
    account="physics",
    qos="long",
    constraint="a100",
    gpus_per_task=1,
    cpus_per_task=8,
    mem_gb=64,
    timeout_min=1440,
    requeues=7,
    signal_delay_s=120,
    array_parallelism=2,
    setup=["module load cuda"],
    container=["--container-image=pytorch.sqsh"],
    environment={"NCCL_DEBUG": "WARN", "GREETING": "a b"},
    additional={"exclude": "node7", "mail-type": "END"},
)


@pytest.fixture
def sbatch(program: Program, tmp_path: Path) -> Path:
    """Install a stand-in for sbatch that keeps scripts and counts jobs from 17; return its folder."""
    kept = tmp_path / "sbatch"
    kept.mkdir()
    program("srun", "")
    program(
        "sbatch",
        f"folder = {str(kept)!r}\n"
        "number = 17 + len(os.listdir(folder))\n"
        "open(f'{folder}/{number}', 'w').write(open(sys.argv[1]).read())\n"
        "print('Submitted batch job', number)",
    )
    return kept


def send(folder: SweepFolder, runs: list[PlannedRun], resources: Resources | None = None, **active: str) -> list[str]:
    """Submit runs and return the lines reported."""
    lines: list[str] = []
    submit(folder, resources or Resources(CLUSTER), runs, active, lines.append)
    return lines


def normalised(text: str, folder: SweepFolder) -> str:
    text = text.replace(str(folder.path), "SWEEP")
    return re.sub(r"(\S*/)?python\S* -u", "PYTHON -u", text)


def test_the_script_is_the_golden_one(make_sweep: Make, sbatch: Path, tmp_path: Path) -> None:
    """If a change of the script is intended, update the golden file."""
    runs = [planned(number, tmp_path, nodes=2, devices=4) for number in range(3)]
    folder = make_sweep(runs)
    assert send(folder, runs) == ["job 17: 3 runs"]
    assert normalised((sbatch / "17").read_text(), folder) == GOLDEN.read_text()


@pytest.mark.usefixtures("sbatch")
def test_every_run_has_its_job_and_its_pickle(make_sweep: Make, tmp_path: Path) -> None:
    runs = [planned(number, tmp_path) for number in range(3)]
    folder = make_sweep(runs)
    send(folder, runs)
    assert [(line["run_id"], line["job_id"]) for line in read_lines(folder.jobs)] == [
        ("run-0000", "17_0"),
        ("run-0001", "17_1"),
        ("run-0002", "17_2"),
    ]
    assert sorted(path.name for path in folder.submitit.glob("*_submitted.pkl")) == [
        f"17_{number}_submitted.pkl" for number in range(3)
    ]


def test_one_array_for_each_set_of_resources_and_parents_before_children(
    make_sweep: Make, sbatch: Path, tmp_path: Path
) -> None:
    first, second = planned(0, tmp_path), planned(1, tmp_path)
    large = planned(2, tmp_path, resources={"mem_gb": 128})
    children = [planned(3, tmp_path, "run-0000"), planned(4, tmp_path, "run-0000"), planned(5, tmp_path, "run-0001")]
    folder = make_sweep([first, second, large, *children])
    lines = send(folder, [first, second, large, *children])
    assert lines == ["job 17: 2 runs", "job 18: 1 run", "job 19: 2 runs, after 17_0", "job 20: 1 run, after 17_1"]
    texts = {path.name: path.read_text() for path in sbatch.iterdir()}
    assert "--mem=64GB" in texts["17"]
    assert "--mem=128GB" in texts["18"]
    assert "--dependency=afterok:17_0" in texts["19"]
    assert "--kill-on-invalid-dep=yes" in texts["19"]


@pytest.mark.usefixtures("sbatch")
def test_a_child_waits_for_a_parent_that_was_submitted_before(make_sweep: Make, tmp_path: Path) -> None:
    parent, child = planned(0, tmp_path), planned(1, tmp_path, "run-0000")
    folder = make_sweep([parent, child])
    assert send(folder, [child], **{"run-0000": "9_4"}) == ["job 17: 1 run, after 9_4"]
    # A parent that is neither waiting nor running has finished.
    assert send(folder, [child]) == ["job 18: 1 run"]


def test_the_command_line_takes_precedence_over_the_rules_of_a_sweep(
    make_sweep: Make, sbatch: Path, tmp_path: Path
) -> None:
    run = planned(0, tmp_path, resources={"mem_gb": 128, "timeout_min": 30})
    folder = make_sweep([run])
    resources = Resources(ClusterConfig(name="x", mem_gb=256, timeout_min=60), ("mem_gb",))
    write_resources(folder, resources)
    assert read_resources(folder) == resources
    send(folder, [run], resources)
    assert "--mem=256GB" in (sbatch / "17").read_text()
    assert "--time=30" in (sbatch / "17").read_text()


def test_a_rule_with_resources_that_are_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mem_gb=many: must be a number"):
        Resources(CLUSTER).of(planned(0, tmp_path, resources={"mem_gb": "many"}))


@pytest.mark.usefixtures("sbatch")
def test_arrays_are_no_longer_than_the_cluster_allows(make_sweep: Make, tmp_path: Path) -> None:
    runs = [planned(number, tmp_path) for number in range(5)]
    folder = make_sweep(runs)
    cluster = replace(CLUSTER, array_size=2)
    assert send(folder, runs, Resources(cluster)) == ["job 17: 2 runs", "job 18: 2 runs", "job 19: 1 run"]
    assert len({line["job_id"] for line in read_lines(folder.jobs)}) == 5
    assert CLUSTER.array_size == 1000, "SLURM's default MaxArraySize is 1001"


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("Job violates accounting/QOS policy (AssocMaxSubmitJobLimit)", "submit some of the runs with limit=N"),
        ("QOSMaxSubmitJobPerUserLimit", "submit some of the runs with limit=N"),
        ("Invalid job array specification", "choose a smaller slurm.array_size=N"),
    ],
)
def test_a_limit_of_the_cluster_has_its_remedy(
    message: str, remedy: str, make_sweep: Make, program: Program, tmp_path: Path
) -> None:
    program("srun", "")
    program("sbatch", f"sys.exit('sbatch: error: Batch job submission failed: {message}')")
    runs = [planned(0, tmp_path)]
    with pytest.raises(UserError, match=re.escape(f"{message}; {remedy}")):
        send(make_sweep(runs), runs)


@pytest.mark.parametrize("runs", [1, 2])
def test_a_submission_from_within_a_job_passes_on_nothing_of_that_job(
    runs: int, make_sweep: Make, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = ["SLURM_MEM_PER_CPU", "SLURM_CPU_BIND", "SLURM_JOB_ID", "SBATCH_CPU_BIND_TYPE", "SUBMITIT_EXECUTOR"]
    kept = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "physics", "HOME": "/home/me"}
    for name, value in {**dict.fromkeys(hidden, "1"), **kept}.items():
        monkeypatch.setenv(name, value)
    program("srun", "")
    program(
        "sbatch",
        f"open({str(tmp_path / 'seen')!r}, 'w').write('\\n'.join(sorted(os.environ)))\nprint('Submitted batch job 17')",
    )
    planned_runs = [planned(number, tmp_path) for number in range(runs)]
    send(make_sweep(planned_runs), planned_runs)
    seen = (tmp_path / "seen").read_text().splitlines()
    assert set(kept) <= set(seen)
    assert not set(hidden) & set(seen)
    assert os.environ["SLURM_JOB_ID"] == "1", "the command itself keeps them"


def test_sbatch_without_srun_is_one_line(
    make_sweep: Make, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("sbatch", "")
    runs = [planned(0, tmp_path)]
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(":")[0])
    with pytest.raises(UserError, match="slurm=golden: no srun on this machine; run this where"):
        send(make_sweep(runs), runs)


def test_an_error_of_sbatch_is_passed_on(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    program("srun", "")
    program(
        "sbatch",
        "print('sbatch: error: invalid partition specified: nope', file=sys.stderr)\n"
        "sys.exit('sbatch: error: Batch job submission failed: Invalid partition name specified')",
    )
    runs = [planned(0, tmp_path)]
    folder = make_sweep(runs)
    with pytest.raises(UserError) as error:
        send(folder, runs)
    assert str(error.value) == (
        "slurm=golden: invalid partition specified: nope; Batch job submission failed: Invalid partition name "
        "specified; correct slurm/golden.yaml, or set slurm.KEY=VALUE"
    )
    assert read_lines(folder.jobs) == []


def test_a_machine_without_slurm(make_sweep: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = [planned(0, tmp_path)]
    folder = make_sweep(runs)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="slurm=golden: no sbatch on this machine; run this where"):
        send(folder, runs)


def test_several_nodes_are_refused_on_this_machine(make_sweep: Make, tmp_path: Path) -> None:
    runs = [planned(0, tmp_path, nodes=2)]
    folder = make_sweep(runs)
    with pytest.raises(UserError, match=r"trainer.nodes=2: slurm=here is one machine"):
        send(folder, runs, Resources(ClusterConfig(name="here", executor="local")))
    assert read_lines(folder.jobs) == []


@pytest.mark.usefixtures("sbatch")
def test_cancelling_is_recorded_and_passed_to_slurm(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    runs = [planned(number, tmp_path) for number in range(2)]
    folder = make_sweep(runs)
    send(folder, runs)
    program("scancel", f"open({str(tmp_path / 'cancelled')!r}, 'w').write(' '.join(sys.argv[1:]))")
    cancel_runs(folder, ["run-0001"])
    assert (tmp_path / "cancelled").read_text() == "17_1"
    now = int(time.time())
    write_sacct(program, [("17_0", "RUNNING", "Unknown", now, "six"), ("17_1", "CANCELLED by 0", "1", now, "six")])
    assert [status.state for status in sweep_status(folder)] == ["running", "cancelled"]


def test_a_dry_script_is_the_one_that_is_sent(make_sweep: Make, tmp_path: Path) -> None:
    """It needs no command of SLURM, and writes nothing."""
    runs = [planned(number, tmp_path, nodes=2, devices=4) for number in range(3)]
    folder = make_sweep(runs)
    assert normalised(sbatch_script(folder, CLUSTER, runs, "six"), folder) == GOLDEN.read_text()
    assert not folder.submitit.exists()
