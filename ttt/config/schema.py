"""Keys of most commands: type, default, meaning and allowed values of each.

Those of ``ttt-bench`` are in ``bench.py``, of ``ttt-sweep`` in ``sweep.py``, of ``ttt-generate`` in ``generation.py``,
of ``ttt-data`` in ``preparing.py``, of the ``trainer`` group in ``trainer.py``, of ``ttt-export`` and ``ttt-import`` in
``exchange.py``.

Values that depend on a group's option are in ``conf/GROUP/OPTION.yaml``. Keys that are not defined here are errors.
This module imports nothing heavy, so that ``--help`` and errors are printed at once.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ttt.config.keys import LARGEST_SEED, MOST_WORKERS, REQUIRED, check_keys, key
from ttt.config.trainer import DEVICES, TrainerConfig

SPLITS = ("train", "validation", "test")


@dataclass
class LayerConfig:
    """Keys of every sequence layer."""

    has_heads: ClassVar[bool] = True
    """Whether ``size.heads`` divides the layer's width."""

    name: str = key(REQUIRED, "the layer's name in the registry", file_name=True)

    def check(self) -> None:
        """Check that the values are in range and consistent; a layer whose keys depend on each other extends it.

        Raises:
            UserError: a value out of its range, or values that contradict each other.
        """
        check_keys(self, "model.")


@dataclass
class SizeConfig:
    """A row of the paper's table of sizes (Table 2), or a laptop size.

    A context longer than ``tokens_per_step`` takes one sequence per step and proportionally fewer steps.
    """

    name: str = key(REQUIRED, "the size's name", file_name=True)
    width: int = key(0, "model width", at_least=1, at_most=10**6)
    blocks: int = key(0, "number of blocks", at_least=1, at_most=10**5)
    heads: int = key(0, "number of heads; each has width / heads dimensions", at_least=1)
    mlp_hidden: int = key(0, "hidden width of a block's SwiGLU", at_least=1, at_most=10**7)
    match: str | None = key(
        None,
        "a model, such as mamba: set mlp_hidden, or width where the block has no SwiGLU, so that the parameters are "
        "those of that model at this size, within 1%",
    )
    match_flops: str | None = key(
        None, "the same for the FLOPs of training on a token at this context, within 2%; not together with match"
    )
    init_std: float = key(0.02, "standard deviation of initial weights", above=0)
    steps: int = key(0, "steps of the full recipe", at_least=1)
    tokens_per_step: int = key(0, "tokens in a step of the full recipe", at_least=1)
    # Runs of earlier versions have a table here, backbone -> rate; their ids are made from it (ttt/config/identity.py).
    learning_rate: float = key(0.0, "peak learning rate of the full recipe", above=0)


@dataclass
class ContextConfig:
    """Context length."""

    length: int = key(0, "tokens in a sequence", at_least=1)


@dataclass
class BackboneConfig:
    """The block around a sequence layer."""

    name: str = key(REQUIRED, "the backbone's name in the registry", file_name=True)
    conv_init: str = key(
        "torch",
        "initial convolutions of backbone=mamba (the paper's text does not say); torch: uniform, with random biases, "
        "as in the authors' PyTorch release; lecun: LeCun normal, biases 0, as in their JAX code",
        choices=("torch", "lecun"),
    )


@dataclass
class KernelConfig:
    """The kernel that computes the inner loop, or Mamba's selective scan."""

    name: str = key("auto", "the kernel's name")
    # 16 mini-batches cost at most a sixth of the time and keep it flat in the context. cpu and triton take 0 as null.
    checkpoint_group: int | None = key(
        None,
        "mini-batches whose inner states are recomputed together in the backward pass; null: the kernel's default, "
        "usually 16 (triton: 64 for TTT-MLP, up to 128 for TTT-Linear with few sequences times heads); 0: keep every "
        "state (primal, dual)",
        at_least=0,
    )
    rotates: bool = key(
        True,
        "whether the compiled kernels rotate queries and keys of TTT layers by RoPE; false: PyTorch does, as for "
        "primal and dual, to compare",
    )
    matmul: str = key(
        "auto", "library of linear maps on CPUs; auto: the faster, measured once", choices=("auto", "torch", "onednn")
    )


@dataclass
class DataConfig:
    """Source, tokenizer and splits of a corpus."""

    trains_tokenizer: ClassVar[bool] = True
    """Whether a tokenizer is trained on the source where none is given."""

    name: str = key(REQUIRED, "name of the data in run ids and figures", file_name=True)
    source: str = key(REQUIRED, "the source's name in the registry")
    packages: list[str] = key(list, "importable packages whose source is read; stdlib: Python's own library")
    hub: str | None = key(None, "a data set of the Hugging Face hub", free_text=True)
    revision: str | None = key(None, "a commit of the data set; null: its newest", free_text=True)
    subset: str | None = key(
        None, "a configuration of the hub's data set; null: its only or default one", free_text=True
    )
    split: str = key("train", "split of the hub's data set to read, or several: train+validation", free_text=True)
    path: str | None = key(
        None, "folder, file or pattern of files: your own texts, or a copy of the data set", free_text=True
    )
    column: str = key("text", "column of the text in jsonl, json and parquet", free_text=True)
    min_chars: int = key(1, "shorter documents are left out", at_least=0)
    max_chars: int = key(100_000_000, "longer documents are left out", at_least=1)
    max_tokens: int | None = key(
        None, "read the source only until its documents have this many tokens; null: read all of it", at_least=1
    )
    vocab_size: int = key(4096, "tokens of the BPE tokenizer that is trained on the text", at_least=1, at_most=10**7)
    tokenizer: str | None = key(None, "a tokenizer.json or tokenizer.model; null: train one", free_text=True)
    validation_fraction: float = key(
        0.0, "share of documents for validation, chosen by a hash of their text", at_least=0, below=1
    )
    test_fraction: float = key(0.0, "the same for the test split", at_least=0, below=1)
    join: bool = key(
        False,
        "join the documents of a split into one stream, with the end-of-document token between them; false: no window "
        "spans two documents, and documents of fewer tokens than the context are left out",
    )
    eval_tokens: int = key(131072, "maximum number of tokens that an evaluation reads", at_least=1)
    tokens_estimate: int | None = key(
        None,
        "estimated tokens of the whole text, for ttt-sweep plan until the text is prepared: how often runs read it",
        at_least=1,
    )
    cache_dir: str | None = key(None, "folder of prepared data; null: the user's cache", free_text=True)
    packed: str | None = key(
        None, "a file of ttt-data pack, read in place of the source; the other keys as it was prepared", free_text=True
    )
    workers: int = key(
        1, "processes that prepare the data, with the same result; 0: one per core", at_least=0, at_most=MOST_WORKERS
    )

    def check(self) -> None:
        """Check that the source's own keys agree; a source whose keys depend on each other extends it.

        Raises:
            UserError: they contradict each other.
        """

    def check_context(self, ctx: int) -> None:
        """Check that windows of ``ctx`` tokens can be read; a source of sequences of one length extends it.

        Raises:
            UserError: they cannot.
        """


@dataclass
class RecipeConfig:
    """Optimization. Rates are per step."""

    name: str = key(REQUIRED, "the recipe's name")
    steps: int = key(0, "optimizer steps; 0: from parent_share", at_least=1)
    tokens_per_step: int = key(0, "tokens in a step, over all devices", at_least=1)
    learning_rate: float = key(0.0, "peak learning rate", above=0)
    final_learning_rate: float = key(0.0, "learning rate at the end of the cosine", at_least=0)
    warmup: float = key(0.0, "share of the steps in which the learning rate rises", at_least=0, below=1)
    optimizer: str = key("adamw", "a name registered in ttt/train/optimizers/")
    betas: tuple[float, float] = key((0.9, 0.95), "AdamW's betas", at_least=0, below=1)
    weight_decay: float = key(0.0, "weight decay of the parameters that decay chooses", at_least=0)
    decay: str = key(
        "matrices",
        "parameters with weight decay; matrices: no norms, biases and other vectors (the paper's text does not say); "
        "all: every parameter, as in the authors' JAX code",
        choices=("matrices", "all"),
    )
    clip: float = key(0.0, "maximum gradient norm; 0: no clipping", at_least=0)
    parent_share: float = key(0.0, "training tokens as a share of the parent's", at_least=0)
    imported: str | None = key(None, "SHA-256 of weights that ttt-import has read", hidden=True)


@dataclass
class ParentConfig:
    """The run whose weights a run starts from.

    Only ``run`` is given (``from=`` on the command line); the other keys are read from that folder. ``run_id``,
    ``steps`` and ``settings`` are known before the parent is trained and are part of the child's identity;
    ``weights`` records the weights that the child started from.
    """

    run: str | None = key(
        None,
        "folder of a run to start from; the defaults of model, size, backbone, data and ctx are its values, and the "
        "model must be the same (model.rope_base may change)",
        free_text=True,
    )
    run_id: str | None = key(None, "its run id", hidden=True)
    steps: int | None = key(None, "steps it was trained for", at_least=0, hidden=True)
    settings: str | None = key(None, "digest of all its settings but the seed", hidden=True)
    weights: str | None = key(None, "SHA-256 of its checkpoint", hidden=True)


@dataclass
class TrainConfig:
    """A run of ``ttt-train``."""

    model: LayerConfig = key(LayerConfig, "sequence layer")
    size: SizeConfig = key(SizeConfig, "model size")
    ctx: ContextConfig = key(ContextConfig, "context length")
    backbone: BackboneConfig = key(BackboneConfig, "block around the layer; the default is the paper's for the model")
    kernel: KernelConfig = key(KernelConfig, "kernel that computes the inner loop, or Mamba's scan")
    data: DataConfig = key(DataConfig, "corpus")
    recipe: RecipeConfig = key(RecipeConfig, "optimization")
    trainer: TrainerConfig = key(TrainerConfig, "hardware and bookkeeping")
    parent: ParentConfig = key(ParentConfig, "run whose weights this run starts from")
    seed: int = key(0, "seed of initial weights and of the order of the data", at_least=0, at_most=LARGEST_SEED)
    runs: str = key("runs", "folder of run folders", free_text=True)
    run: str | None = key(
        None, "folder of this run; null: a folder below runs, named after the configuration", free_text=True
    )
    ckpt: str | None = key(
        None, "last: resume from the newest checkpoint, or start if there is none", choices=("last",)
    )
    overwrite: bool = key(False, "delete an earlier run in the folder and start over")
    plan: bool = key(False, "print what the run costs (parameters, state, FLOPs, time, disk) and stop")


@dataclass
class EvalConfig:
    """A run of ``ttt-eval``."""

    run: str = key(
        REQUIRED,
        "folder of a trained run; the results go into its record and its table, those at another context or on another "
        "text beside them; of a run that is still training, they are printed only",
        free_text=True,
    )
    ctx: ContextConfig | None = key(None, "context to evaluate at; null: the run's")
    data: DataConfig | None = key(
        None, "another text, in the run's tokens; null: the run's data, its prepared corpus found by its digest"
    )
    split: str | None = key(
        None,
        "split to read; all: all of another text; null: validation, or with data= all",
        choices=("validation", "test", "all"),
    )
    tasks: list[str] = key(
        list, "tasks of lm-evaluation-harness to score instead of the perplexity, such as lambada_openai,piqa"
    )
    task_path: str | None = key(None, "folder of task files (YAML) of your own, for tasks", free_text=True)
    num_fewshot: int | None = key(
        None, "examples before each question of tasks; null: as many as the task's file says", at_least=0
    )
    limit: int | None = key(
        None, "score only this many documents of each task, and print the scores without storing them", at_least=1
    )
    probe: str | None = key(
        None,
        "null: the perplexity; inner_loss: the inner loss of every token before and after its update; context_gain: "
        "the loss of the same tokens with more and less context before them; copy: the loss of text that is repeated; "
        "needle: the share of right answers about lines planted in long text, by depth and length",
        choices=("inner_loss", "context_gain", "copy", "needle"),
    )
    longest: int | None = key(
        None,
        "tokens of the windows whose last 256 tokens probe=context_gain judges, a power of two; runs of several "
        "contexts are judged on the same tokens if it is the same; null: the run's context; for probe=needle, tokens "
        "of the longest text; null: four times the run's context",
        at_least=128,
    )
    step: int | None = key(
        None,
        "weights after this many steps, of a checkpoint that trainer.keep_every kept; null: the newest",
        at_least=0,
    )
    average: int = key(1, "mean of the weights of this many checkpoints, up to step", at_least=1)
    eval_tokens: int | None = key(
        None,
        "maximum number of tokens to read for each measure; null: as in training, for probe=context_gain 256 windows, "
        "for probe=needle 16 texts of each task, length and depth, "
        "for probe=inner_loss at most 1,048,576",
        at_least=1,
    )
    device: str = key("auto", "where to compute", choices=DEVICES)
    kernel: KernelConfig | None = key(
        None, "kernel that computes the inner loop; null: the run's, or auto if it cannot run here"
    )


Resolved = dict[str, Any]
"""A configuration as plain containers, as in records and files."""
