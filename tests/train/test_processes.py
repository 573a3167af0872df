"""Runs whose processes a launcher such as SLURM or torchrun has started."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from endings import MODEL
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from starter import Starter

from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.schema import TrainConfig
from ttt.config.trainer import TrainerConfig
from ttt.data.corpus import load_corpus
from ttt.train.processes import SRUN, TORCHRUN, check_processes, cluster_environment, launcher, rank

Configure = Callable[..., TrainConfig]

SRUN_TASK = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
SRUN_TASK |= {"SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "node[1-2]"}
TORCHRUN_TASK = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*SRUN, *TORCHRUN, *SRUN_TASK, "MASTER_ADDR", "MASTER_PORT"}:
        # Set first, so that pytest also undoes changes by the code under test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def put(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def shape(devices: int, nodes: int) -> TrainerConfig:
    return TrainerConfig(devices=devices, nodes=nodes, strategy="ddp")


@pytest.mark.parametrize(
    ("variables", "found", "expected_rank", "environment"),
    [
        ({}, None, 0, LightningEnvironment),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"}, None, 1, LightningEnvironment),
        (SRUN_TASK, "srun", 3, SLURMEnvironment),
        ({**SRUN_TASK, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None, 0, LightningEnvironment),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None, 0, LightningEnvironment),
        (TORCHRUN_TASK, "torchrun", 3, TorchElasticEnvironment),
        ({**SRUN_TASK, **TORCHRUN_TASK, "RANK": "2"}, "torchrun", 2, TorchElasticEnvironment),
    ],
    ids=["no launcher", "started by the first", "srun", "one task", "batch script", "torchrun", "torchrun below srun"],
)
def test_the_launcher_is_recognised(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: str | None, expected_rank: int, environment: type
) -> None:
    put(monkeypatch, variables)
    assert (launcher(), rank()) == (found, expected_rank)
    chosen = cluster_environment()
    assert type(chosen) is environment
    assert not getattr(chosen, "auto_requeue", False), "one owner of the requeue, and that is not Lightning"


def test_the_rendezvous_is_slurms_unless_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {**SRUN_TASK, "SLURM_JOB_ID": "1234"})
    assert (cluster_environment().main_address, cluster_environment().main_port) == ("node1", 16234)
    put(monkeypatch, {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    assert (cluster_environment().main_address, cluster_environment().main_port) == ("10.0.0.1", 29500)


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "line"),
    [
        ({}, 2, 2, "trainer.nodes=2: needs 2 process.es. on each node: ttt-sweep submit, srun or torchrun starts them"),
        (SRUN_TASK, 1, 1, "trainer.devices=1: the world size with trainer.nodes=1 is 1, but srun has started 4"),
        (SRUN_TASK, 4, 1, "trainer.devices=4: .* start it with srun --nodes=1 --ntasks-per-node=4"),
        ({**SRUN_TASK, "SLURM_NTASKS_PER_NODE": "4"}, 2, 2, "start it with srun --nodes=2 --ntasks-per-node=2"),
        (
            TORCHRUN_TASK,
            2,
            1,
            "trainer.devices=2: the world size with trainer.nodes=1 is 2, but torchrun has started 4",
        ),
    ],
)
def test_another_number_of_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], devices: int, nodes: int, line: str
) -> None:
    put(monkeypatch, variables)
    with pytest.raises(UserError, match=line):
        check_processes(shape(devices, nodes))


@pytest.mark.parametrize("variables", [{}, SRUN_TASK, TORCHRUN_TASK])
def test_the_right_number_of_processes_is_accepted(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    put(monkeypatch, variables)
    check_processes(shape(2, 2 if variables else 1))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def together(starter: Starter, program: str, arguments: list[str], slurm: bool = False) -> list[tuple[int, str]]:
    """Run two processes, as if on two nodes; return exit code and standard error of each."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank_text in map(str, range(2)):
        variables = {"RANK": rank_text, "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GROUP_RANK": rank_text}
        if slurm:
            variables = {
                "SLURM_STEP_ID": "0",
                "SLURM_PROCID": rank_text,
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_NTASKS": "2",
            }
            variables |= {
                "SLURM_LOCALID": "0",
                "SLURM_NODEID": rank_text,
                "SLURM_NTASKS_PER_NODE": "1",
                "SLURM_NNODES": "2",
            }
        processes.append(starter.start(program, arguments, environment=address | variables))
    return [(process.wait(), process.communicate()[1]) for process in processes]


PLAIN = "from ttt.cli.train import main; main()"
LATE = """
import os, time
from ttt.train import start
opened = start.open_run
def late(*arguments):
    # Where each looked for itself, the second would look when the first has begun to write.
    time.sleep(2 if os.environ["SLURM_PROCID"] == "1" else 0)
    return opened(*arguments)
start.open_run = late
from ttt.cli.train import main; main()
"""
DIVERGES = """
import os, torch
from ttt.train.module import TrainingModule
step = TrainingModule.training_step
def poisoned(self, windows, batch_idx):
    if os.environ["RANK"] == "1" and self.global_step == 6:
        self.model.embedding.weight.data.fill_(float("nan"))
    return step(self, windows, batch_idx)
TrainingModule.training_step = poisoned
from ttt.cli.train import main; main()
"""
NODES = ["trainer.strategy=ddp", "trainer.nodes=2"]


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return found


@pytest.mark.slow
def test_two_nodes_start_and_resume_together(
    configure: Configure, starter: Starter, tiny: list[str], tmp_path: Path
) -> None:
    load_corpus(configure().data, False)
    overrides = [*tiny, *NODES, f"run={tmp_path}/run", "ckpt=last"]
    for steps in (3, 12):
        ended = together(starter, LATE, [*overrides, f"trainer.max_steps={steps}"], slurm=True)
        assert [code for code, _ in ended] == [0, 0], ended
        assert ended[1][1] == "", "the first process reports for both"
        assert record(tmp_path / "run")["steps"] == steps
    assert "resuming" in ended[0][1]
    train(configure(f"run={tmp_path}/one"), [])
    ours, theirs = (
        torch.load(tmp_path / name / "checkpoints/step-00000012.ckpt", weights_only=True)["state_dict"]
        for name in ("run", "one")
    )
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_a_loss_that_diverges_in_another_process(
    configure: Configure, starter: Starter, tiny: list[str], tmp_path: Path
) -> None:
    load_corpus(configure().data, False)
    overrides = [*tiny, *NODES, f"run={tmp_path}/run", "trainer.checkpoint_every=2"]
    (first, line), (second, quiet) = together(starter, DIVERGES, overrides)
    assert (first, second, quiet) == (1, 0, ""), (line, quiet)
    assert "error: the loss became nan at step 6" in line
    assert "the last good checkpoint is" in line
    assert "Traceback" not in line
    assert record(tmp_path / "run")["last_checkpoint"] == "step-00000004.ckpt"
    assert (tmp_path / "run/checkpoints/step-00000006.ckpt.diverged").exists()


@pytest.mark.slow
def test_an_error_is_printed_once(starter: Starter, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").touch()
    (first, line), (second, quiet) = together(starter, PLAIN, [*tiny, *NODES, f"run={tmp_path}/run"])
    assert (first, second, quiet) == (2, 2, "")
    assert line.splitlines() == [f"error: run={tmp_path}/run: contains other files and no run; choose another folder"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_model_that_outlives_its_group_does_not_hang(starter: Starter, tmp_path: Path) -> None:
    """Without a reference to the group, one of five endings hangs; ``tests/endings.py`` counts them."""
    assert together(starter, MODEL, ["40", str(tmp_path / "store")]) == [(0, ""), (0, "")]
