"""The processes of a run: who started them, which of them this is, and what they decide together.

A run on several devices has a process for each. Within one machine the first starts the others. A launcher, SLURM's
``srun`` or ``torchrun``, starts all of them at once, on as many machines as it likes, and tells each through its
environment. The first process alone writes.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar

from ttt.config.errors import UserError, bad_value
from ttt.config.schema import TrainerConfig

if TYPE_CHECKING:
    from lightning.fabric.plugins import ClusterEnvironment

Launcher = Literal["srun", "torchrun"]

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
SRUN = ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")

T = TypeVar("T")


def launcher() -> Launcher | None:
    """What has started the run's processes; None: this one is alone, or starts the others itself.

    ``torchrun`` may stand below ``srun``. A single task of ``srun`` is alone: it may be somebody's shell.
    """
    if os.environ.keys() >= set(TORCHRUN):
        return "torchrun"
    if os.environ.keys() >= set(SRUN) and int(os.environ["SLURM_STEP_NUM_TASKS"]) > 1:
        return "srun"
    return None


def rank() -> int:
    """Which of the processes of a run this is; 0 in a run of one process."""
    # A process that another one of the run has started knows its place on this machine alone.
    names = {"torchrun": "RANK", "srun": "SLURM_PROCID", None: "LOCAL_RANK"}
    return int(os.environ.get(names[launcher()], 0))


def check_processes(config: TrainerConfig) -> None:
    """Looks whether as many processes were started as the run needs.

    Raises:
        UserError: there are others, or several machines and no launcher.
    """
    wanted, found = config.devices * config.nodes, launcher()
    asked = f"{config.devices} on each of trainer.nodes={config.nodes}"
    if found is None:
        if config.nodes > 1:
            how = "ttt-sweep submit, srun or torchrun starts them; here nothing has"
            raise bad_value("trainer.nodes", config.nodes, f"needs {config.devices} process(es) on each node: {how}")
        return
    started = int(os.environ["WORLD_SIZE" if found == "torchrun" else "SLURM_STEP_NUM_TASKS"])
    if started != wanted:
        raise bad_value("trainer.devices", config.devices, f"asks for {asked} nodes, {found} has started {started}")
    if found == "torchrun":
        return
    for_each = os.environ.get("SLURM_NTASKS_PER_NODE")
    if for_each is None or int(for_each) != config.devices:
        how = f"start it with srun --nodes={config.nodes} --ntasks-per-node={config.devices}"
        raise bad_value("trainer.devices", config.devices, f"asks for {asked} nodes; {how}")


def cluster_environment() -> "ClusterEnvironment":
    """Where Lightning finds the other processes. Never one that owns a signal or puts a job back into its queue."""
    from lightning.fabric.plugins.environments import (
        LightningEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

    found = launcher()
    if found == "srun":
        return SLURMEnvironment(auto_requeue=False)
    return TorchElasticEnvironment() if found == "torchrun" else LightningEnvironment()


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Connects the processes that a launcher has started, so that they can decide together; Lightning uses it too.

    Args:
        device: the type of device they compute on, as torch names it.
    """
    if launcher() is None:
        yield
        return
    from torch import distributed

    environment = cluster_environment()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, rank=environment.global_rank(), world_size=environment.world_size())
    try:
        yield
    finally:
        leave()


def first_of_all(text: str | None) -> str:
    """The first text that a process of the run has, where all of them ask and one at least has one."""
    from torch import distributed

    told = [text]
    if distributed.is_available() and distributed.is_initialized():
        told *= distributed.get_world_size()
        distributed.all_gather_object(told, text)
    return next(found for found in told if found is not None)


def leave() -> None:
    """Ends the connection to the run's other processes, if there is one.

    Left to the end of the interpreter, its threads are ended in any order, and sometimes not at all.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def as_the_first(decide: Callable[[], T]) -> T:
    """What the first process decides, for all that a launcher has started: what it found, they may find changed.

    Raises:
        UserError: what ``decide`` raises in the first process.
        SystemExit: in the others then; the first one tells why.
    """
    if launcher() is None:
        return decide()
    import torch
    from torch import distributed

    told: list[tuple[T | None, str | None]] = [(None, None)]
    error: UserError | None = None
    if rank() == 0:
        try:
            told = [(decide(), None)]
        except UserError as refused:
            error, told = refused, [(None, str(refused))]
    distributed.broadcast_object_list(told, device=torch.device("cpu"))
    if error is not None:
        raise error
    decided, refusal = told[0]
    if refusal is not None:
        raise SystemExit(2)
    return decided  # type: ignore[return-value]


def all_or_none(act: Callable[[], T]) -> T:
    """What ``act`` gives in this process, once it has worked in all that a launcher has started.

    Raises:
        UserError: what ``act`` raises here, or in the first process what it raises in another.
        SystemExit: in the others, when it failed elsewhere.
    """
    if launcher() is None:
        return act()
    from torch import distributed

    error: UserError | None = None
    try:
        done = act()
    except UserError as refused:
        error = refused
    told: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(told, None if error is None else str(error))
    if error is not None and rank() == 0:
        raise error
    failed = next(((place, line) for place, line in enumerate(told) if line is not None), None)
    if failed is not None and rank() == 0:
        raise UserError(f"process {failed[0]} of {len(told)}: {failed[1]}")
    if failed is not None:
        raise SystemExit(2)
    return done
