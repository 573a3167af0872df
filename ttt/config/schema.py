"""The vocabulary of a run: every key that ``ttt-train`` knows, with its type and meaning.

Values live in ``conf/``; these classes say which keys exist and refuse the others by name. Nothing heavy is
imported here, so that help and composition errors answer at once.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LayerConfig:
    """What every sequence layer's configuration has. ``name`` is the layer's key in the registry."""

    name: str = "???"

    def check(self) -> None:
        """Refuses values that no such layer can have; a layer with more keys overrides it.

        Raises:
            UserError: a value out of its range, or values that contradict each other.
        """


@dataclass
class SizeConfig:
    """A row of the paper's table of sizes (Table 2), or a laptop size.

    ``learning_rate`` gives the peak rate for each backbone. ``tokens_per_step`` and ``steps`` describe the full
    recipe; a context longer than ``tokens_per_step`` takes one sequence a step and proportionally fewer steps.
    """

    name: str = "???"
    width: int = 0
    blocks: int = 0
    heads: int = 0
    mlp_hidden: int = 0
    init_std: float = 0.02
    steps: int = 0
    tokens_per_step: int = 0
    learning_rate: dict[str, float] = field(default_factory=dict)


@dataclass
class ContextConfig:
    """Context length in tokens."""

    length: int = 0


@dataclass
class BackboneConfig:
    """How a sequence layer sits in a block. ``name`` is the backbone's key in the registry."""

    name: str = "???"


@dataclass
class KernelConfig:
    """Which form computes the inner loop.

    ``checkpoint_group``: mini-batches whose inner states are recomputed together in the backward pass. null: as many as
    suit the form that runs, which for most are 16: they cost at most a sixth of the time and make time per token flat
    in the context. 0: primal and dual keep every state; cpu and triton, which cannot, take it for null.
    """

    name: str = "auto"
    checkpoint_group: int | None = None


@dataclass
class DataConfig:
    """Where text comes from, how it is tokenised and split.

    ``packages`` are importable names, ``stdlib`` standing for the interpreter's own library. ``hub`` is a data set of
    the Hugging Face hub at ``revision``, ``path`` a folder, a file or a pattern of files, ``column`` the name of the
    text in both. ``min_chars`` and ``max_chars`` bound a document's length. ``tokenizer`` is a file; null: a BPE of
    ``vocab_size`` tokens is trained. ``validation_fraction`` and ``test_fraction`` are shares of documents, chosen by a
    hash of their content. ``eval_tokens`` bounds what one evaluation reads. ``workers``: processes that prepare (0: one
    a core).
    """

    name: str = "???"
    source: str = "???"
    packages: list[str] = field(default_factory=list)
    hub: str | None = None
    revision: str | None = None
    path: str | None = None
    column: str = "text"
    min_chars: int = 0
    max_chars: int = 0
    vocab_size: int = 0
    tokenizer: str | None = None
    validation_fraction: float = 0.0
    test_fraction: float = 0.0
    eval_tokens: int = 0
    cache_dir: str | None = None
    workers: int = 1


@dataclass
class RecipeConfig:
    """Optimisation. Rates are per step; ``warmup`` is a share of the steps.

    ``parent_share``: tokens as a share of those that the parent has seen, for a recipe whose ``steps`` are 0.
    """

    name: str = "???"
    steps: int = 0
    tokens_per_step: int = 0
    learning_rate: float = 0.0
    final_learning_rate: float = 0.0
    warmup: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 0.0
    parent_share: float = 0.0


@dataclass
class ParentConfig:
    """The run whose weights a run starts from: ``run`` is its folder, ``from=`` on the command line.

    The rest is read there: its ``run_id``, the ``steps`` it had done, a digest of the ``settings`` that shaped it, all
    but the seed, and the SHA-256 of the checkpoint that holds its ``weights``. The first three are known before it has
    been trained, and make the child the run it is; the last says which weights it started from.
    """

    run: str | None = None
    run_id: str | None = None
    steps: int | None = None
    settings: str | None = None
    weights: str | None = None


@dataclass
class TrainerConfig:
    """The machine and the bookkeeping of a run; nothing here changes what is learned but rounding.

    ``device_batch``: sequences a device holds at once (null: as many as ``device_tokens`` admits); the rest of a
    step is accumulated. ``max_steps`` stops earlier than the recipe without changing its schedule. ``threads``: CPU
    threads (0: torch's choice).
    """

    name: str = "???"
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "single"
    precision: str = "auto"
    threads: int = 0
    device_batch: int | None = None
    device_tokens: int = 0
    max_steps: int | None = None
    checkpoint_every: int = 0
    log_every: int = 1
    logger: str = "csv"
    progress: bool = True


@dataclass
class TrainConfig:
    """A run of ``ttt-train``, whole."""

    model: LayerConfig = field(default_factory=LayerConfig)
    size: SizeConfig = field(default_factory=SizeConfig)
    ctx: ContextConfig = field(default_factory=ContextConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    kernel: KernelConfig = field(default_factory=KernelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    parent: ParentConfig = field(default_factory=ParentConfig)
    seed: int = 0
    runs_dir: str = "runs"
    run_dir: str | None = None
    ckpt: str | None = None
    overwrite: bool = False


@dataclass
class EvalConfig:
    """A run of ``ttt-eval``: the folder of a trained run, and what may differ from training.

    ``probe``: what to look at instead of the perplexity; inner_loss, reset or null. ``reset_every``: tokens after which
    probe=reset forgets the context.
    """

    run: str = "???"
    split: str = "validation"
    probe: str | None = None
    reset_every: int | None = None
    eval_tokens: int | None = None
    device: str = "auto"


@dataclass
class ExportConfig:
    """A run of ``ttt-export``: the folder of a trained run, and the folder to write its model to.

    ``released``: under the names of the authors' released code. ``overwrite``: also into a folder that is not empty.
    """

    run: str = "???"
    out: str = "???"
    released: bool = False
    overwrite: bool = False


@dataclass
class GenerateConfig:
    """A run of ``ttt-generate``: the folder of a trained run, and how its model goes on from a prompt.

    At most ``tokens`` tokens are written. ``temperature`` 0 takes the likeliest token; ``top_k`` null lets every token
    be drawn, not only the likeliest ones.
    """

    run: str = "???"
    prompt: str = ""
    tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = 40
    seed: int = 0
    device: str = "auto"


@dataclass
class PrepareConfig:
    """``ttt-data prepare``: a corpus, and whether to show progress."""

    data: DataConfig = field(default_factory=DataConfig)
    progress: bool = True


@dataclass
class InspectConfig(PrepareConfig):
    """``ttt-data inspect``: what to show of a corpus.

    ``verify``: whether to hash every file. The text of ``sample`` tokens is from the start of a ``document`` of a
    ``split``. ``picture`` is the file of the histogram; null: below ``figures/``, named after the data.
    """

    verify: bool = False
    split: str = "train"
    document: int = 0
    sample: int = 200
    picture: str | None = None


Resolved = dict[str, Any]
"""A configuration as plain containers, the form that records and files hold."""
