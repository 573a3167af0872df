"""Keys of the ``trainer`` group: hardware and bookkeeping of a training."""

from dataclasses import dataclass

from ttt.config.keys import MOST_WORKERS, REQUIRED, key

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass
class WandbConfig:
    """Where Weights & Biases shows the run, with ``trainer.logger=wandb``."""

    project: str = key("ttt-suite", "project", free_text=True)
    entity: str | None = key(None, "user or team; null: the user's default", free_text=True)
    group: str | None = key(None, "group of runs; null: the name of the run's sweep", free_text=True)
    tags: list[str] = key(list, "tags")


@dataclass
class TrainerConfig:
    """Hardware and bookkeeping. These keys affect what is learned only by rounding."""

    name: str = key(REQUIRED, "the trainer's name")
    device: str = key("auto", "where to compute", choices=DEVICES)
    devices: int = key(1, "devices of a node", at_least=1)
    nodes: int = key(1, "number of nodes", at_least=1)
    strategy: str = key("single", "how several devices share the work", choices=("single", "ddp", "fsdp"))
    precision: str = key("auto", "precision", choices=("auto", "32-true", "bf16-mixed", "16-mixed"))
    threads: int = key(0, "CPU threads; 0: torch's choice", at_least=0, at_most=MOST_WORKERS)
    device_batch: int | None = key(
        None, "sequences in a device's batch; null: as many as fit device_tokens", at_least=1
    )
    device_tokens: int | str = key(
        32768,
        "maximum number of tokens in a device's batch; a step accumulates several batches; auto: as many as fit into "
        "the device's memory by the count of docs/memory.md",
        at_least=1,
        words=("auto",),
    )
    activation_checkpointing: str = key(
        "none",
        "blocks: keep only the input of each block and compute the block again in the backward pass, with the same "
        "results in a third more time and much less memory; auto: blocks if the step does not fit without it",
        choices=("none", "blocks", "auto"),
    )
    compile: bool = key(
        False,
        "compile the blocks with torch.compile, around the kernels; results change only by rounding. It costs minutes "
        "at the start (docs/speed.md)",
    )
    matmul_precision: str = key(
        "highest",
        "products of float32 matrices; highest: float32; high: TF32 on GPUs that have it; medium: bfloat16",
        choices=("highest", "high", "medium"),
    )
    fetch_every: int = key(
        10,
        "steps between two transfers of logged values from a GPU, each of which waits for it; there a loss that is not "
        "finite ends the run. Checkpoints and validations transfer them too; a CPU does it in every step",
        at_least=1,
    )
    max_steps: int | None = key(None, "stop after this many steps of the recipe's schedule", at_least=1)
    checkpoint_every: int = key(250, "steps between checkpoints; 0: only at the end", at_least=0)
    keep_every: int = key(
        0,
        "steps between checkpoints that are kept for ttt-eval step= and average=, besides the newest two; 0: none",
        at_least=0,
    )
    eval_every: int = key(0, "steps between validations while training; 0: only at the end", at_least=0)
    eval_test: bool = key(True, "evaluate the test split too at the end; validation selects, test is reported")
    log_every: int = key(1, "steps between logged values", at_least=1)
    logger: str = key("csv", "logger in addition to the run's metrics", choices=("csv", "tensorboard", "wandb"))
    wandb: WandbConfig = key(WandbConfig, "Weights & Biases")
    progress: bool = key(True, "show progress")
