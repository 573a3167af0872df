"""The processes of a run: their launcher, the rank of this process, and joint decisions.

A run on several devices has one process per device. On one machine the first process starts the others. A launcher,
SLURM's ``srun`` or ``torchrun``, starts all of them at once, on any number of machines, and describes each in its
environment. Only the first process writes.
"""

import atexit
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from ttt.config.errors import UserError, bad_value
from ttt.config.trainer import TrainerConfig

if TYPE_CHECKING:
    from lightning.fabric.plugins import ClusterEnvironment
    from torch.distributed import ProcessGroup

Launcher = Literal["srun", "torchrun"]

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
SRUN = ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")

T = TypeVar("T")

_destroyed_groups: list["ProcessGroup"] = []


def launcher() -> Launcher | None:
    """Return the launcher of the run's processes; None: this process is the only one, or starts the others itself.

    ``torchrun`` may run under ``srun``. A single task of ``srun`` does not count, because it may be a user's shell.
    """
    if os.environ.keys() >= set(TORCHRUN):
        return "torchrun"
    if os.environ.keys() >= set(SRUN) and int(os.environ["SLURM_STEP_NUM_TASKS"]) > 1:
        return "srun"
    return None


def rank() -> int:
    """Return the rank of this process in the run; 0 in a run of one process."""
    # Without a launcher, the first process starts the others and sets only their local rank.
    names = {"torchrun": "RANK", "srun": "SLURM_PROCID", None: "LOCAL_RANK"}
    return int(os.environ.get(names[launcher()], 0))


def check_processes(config: TrainerConfig) -> None:
    """Check that the launcher has started as many processes as the run needs.

    Raises:
        UserError: it has started more or fewer, or a run on several machines has no launcher.
    """
    needed, launched_by = config.devices * config.nodes, launcher()
    required = f"the world size with trainer.nodes={config.nodes} is {needed}"
    if launched_by is None:
        if config.nodes > 1:
            how = "ttt-sweep submit, srun or torchrun starts them"
            raise bad_value("trainer.nodes", config.nodes, f"needs {config.devices} process(es) on each node: {how}")
        return
    started = int(os.environ["WORLD_SIZE" if launched_by == "torchrun" else "SLURM_STEP_NUM_TASKS"])
    if started != needed:
        raise bad_value("trainer.devices", config.devices, f"{required}, but {launched_by} has started {started}")
    if launched_by == "torchrun":
        return
    per_node = os.environ.get("SLURM_NTASKS_PER_NODE")
    if per_node is None or int(per_node) != config.devices:
        how = f"start it with srun --nodes={config.nodes} --ntasks-per-node={config.devices}"
        raise bad_value("trainer.devices", config.devices, f"{required}; {how}")


def cluster_environment() -> "ClusterEnvironment":
    """Return Lightning's description of the processes; it does not handle signals or requeue jobs."""
    from lightning.fabric.plugins.environments import (
        LightningEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

    launched_by = launcher()
    if launched_by == "srun":
        return SLURMEnvironment(auto_requeue=False)
    return TorchElasticEnvironment() if launched_by == "torchrun" else LightningEnvironment()


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Connect the processes that a launcher has started, for joint decisions; Lightning uses the same group.

    Args:
        device: ``trainer.device``.
    """
    if launcher() is None:
        yield
        return
    from torch import cuda, distributed

    environment = cluster_environment()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    backend = process_group_backend(device in ("auto", "cuda") and cuda.is_available())
    distributed.init_process_group(backend, rank=environment.global_rank(), world_size=environment.world_size())
    try:
        yield
    finally:
        destroy_group()


def process_group_backend(gpus: bool) -> str:
    """Return torch's name of the communication between processes, on the host and, if they have them, on GPUs."""
    return "cpu:gloo,cuda:nccl" if gpus else "gloo"


def destroy_group() -> None:
    """Disconnect from the run's other processes, if connected.

    A group's destructor waits for a thread that may need the interpreter's lock, to free a tensor. DDP holds the lock
    when it is freed, so it must never own the last reference to its group. Python frees its own references without the
    lock: one is kept until the process exits, when no model is left. Without it, 3 of 15 disconnections hung.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        if not _destroyed_groups:
            atexit.register(_free_groups)
        _destroyed_groups.append(cast("ProcessGroup", distributed.group.WORLD))
        distributed.destroy_process_group()


def _free_groups() -> None:
    """Free the groups before the interpreter shuts down; threads that need its lock after that never end."""
    gc.collect()
    _destroyed_groups.clear()


def first_message(text: str | None) -> str:
    """Return the text of the lowest rank that has one. All ranks must call this, and at least one must have a text."""
    from torch import distributed

    texts = [text]
    if distributed.is_available() and distributed.is_initialized():
        texts *= distributed.get_world_size()
        distributed.all_gather_object(texts, text)
    return next(message for message in texts if message is not None)


def broadcast_from_rank0(decide: Callable[[], T]) -> T:
    """Call ``decide`` in the first process and return its result in all; others might see another state of the disk.

    Raises:
        UserError: in the first process, raised by ``decide``.
        SystemExit: in the other processes after such an error, which only the first one reports.
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
    """Call ``act`` in every process and return its result, after it has succeeded in all of them.

    Raises:
        UserError: in the first process, the error of ``act`` there or in another process.
        SystemExit: in the other processes after such an error.
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
    failed = next(((number, line) for number, line in enumerate(messages) if line is not None), None)
    if failed is not None and rank() == 0:
        raise UserError(f"process {failed[0]} of {len(messages)}: {failed[1]}")
    if failed is not None:
        raise SystemExit(2)
    return done
