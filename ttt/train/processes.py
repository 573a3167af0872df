"""The processes of a run: the launcher that started them, the rank of this one, and decisions they take together.

A run on several devices has one process per device. On one machine the first process starts the others. A launcher,
SLURM's ``srun`` or ``torchrun``, starts all of them at once, on any number of machines, and describes each in its
environment. Only the first process writes.
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
    """Return what started the run's processes; None: this process is the only one, or starts the others itself.

    ``torchrun`` may run under ``srun``. A single task of ``srun`` counts as no launcher: it may be somebody's shell.
    """
    if os.environ.keys() >= set(TORCHRUN):
        return "torchrun"
    if os.environ.keys() >= set(SRUN) and int(os.environ["SLURM_STEP_NUM_TASKS"]) > 1:
        return "srun"
    return None


def rank() -> int:
    """Return the rank of this process among those of the run; 0 in a run of one process."""
    # A process that another one of the run has started has only its rank on this machine.
    names = {"torchrun": "RANK", "srun": "SLURM_PROCID", None: "LOCAL_RANK"}
    return int(os.environ.get(names[launcher()], 0))


def check_processes(config: TrainerConfig) -> None:
    """Check that as many processes were started as the run needs.

    Raises:
        UserError: there are more or fewer, or several machines and no launcher.
    """
    needed, found = config.devices * config.nodes, launcher()
    requested = f"{config.devices} on each of trainer.nodes={config.nodes}"
    if found is None:
        if config.nodes > 1:
            how = "ttt-sweep submit, srun or torchrun starts them"
            raise bad_value("trainer.nodes", config.nodes, f"needs {config.devices} process(es) on each node: {how}")
        return
    started = int(os.environ["WORLD_SIZE" if found == "torchrun" else "SLURM_STEP_NUM_TASKS"])
    if started != needed:
        raise bad_value("trainer.devices", config.devices, f"asks for {requested} nodes, {found} has started {started}")
    if found == "torchrun":
        return
    per_node = os.environ.get("SLURM_NTASKS_PER_NODE")
    if per_node is None or int(per_node) != config.devices:
        how = f"start it with srun --nodes={config.nodes} --ntasks-per-node={config.devices}"
        raise bad_value("trainer.devices", config.devices, f"asks for {requested} nodes; {how}")


def cluster_environment() -> "ClusterEnvironment":
    """Return where Lightning finds the other processes; it never handles signals or requeues a job."""
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
def process_group(device: str) -> Iterator[None]:
    """Connect the processes that a launcher has started, so that they can decide together; Lightning uses it too.

    Args:
        device: ``trainer.device``.

    Raises:
        UserError: there is no such device.
    """
    if launcher() is None:
        yield
        return
    from torch import distributed

    from ttt.train.device import choose_device

    environment = cluster_environment()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    backend = "cpu:gloo,cuda:nccl" if choose_device(device, "trainer.device").type == "cuda" else "gloo"
    distributed.init_process_group(backend, rank=environment.global_rank(), world_size=environment.world_size())
    try:
        yield
    finally:
        destroy_group()


def destroy_group() -> None:
    """Disconnect from the run's other processes, if connected.

    At the interpreter's exit the group's threads would end in any order, and sometimes never.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def first_message(text: str | None) -> str:
    """Return the text of the lowest rank that has one; every process of the run calls it, and one at least has one."""
    from torch import distributed

    texts = [text]
    if distributed.is_available() and distributed.is_initialized():
        texts *= distributed.get_world_size()
        distributed.all_gather_object(texts, text)
    return next(found for found in texts if found is not None)


def broadcast_from_rank0(decide: Callable[[], T]) -> T:
    """Return what ``decide`` gives in the first process to all: the others might find another state of the disk.

    Raises:
        UserError: in the first process, what ``decide`` raises there.
        SystemExit: in the others then; only the first one reports the error.
    """
    if launcher() is None:
        return decide()
    import torch
    from torch import distributed

    message: list[tuple[T | None, bool]] = [(None, False)]
    error: UserError | None = None
    if rank() == 0:
        try:
            message = [(decide(), True)]
        except UserError as refused:
            error = refused
    distributed.broadcast_object_list(message, device=torch.device("cpu"))
    if error is not None:
        raise error
    decided, succeeded = message[0]
    if not succeeded:
        raise SystemExit(2)
    return decided  # type: ignore[return-value]


def all_ranks_or_fail(act: Callable[[], T]) -> T:
    """Return the result of ``act`` in this process, once it has succeeded in all that a launcher has started.

    Raises:
        UserError: in the first process, what ``act`` raises there or in another process.
        SystemExit: in the others then.
    """
    if launcher() is None:
        return act()
    from torch import distributed

    error: UserError | None = None
    try:
        done = act()
    except UserError as refused:
        error = refused
    messages: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(messages, None if error is None else str(error))
    if error is not None and rank() == 0:
        raise error
    failed = next(((place, line) for place, line in enumerate(messages) if line is not None), None)
    if failed is not None and rank() == 0:
        raise UserError(f"process {failed[0]} of {len(messages)}: {failed[1]}")
    if failed is not None:
        raise SystemExit(2)
    return done
