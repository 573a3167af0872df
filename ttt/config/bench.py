"""Keys of ``ttt-bench``. Values are in ``conf/bench_*.yaml`` and ``conf/scale/``."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ttt.config.errors import bad_value
from ttt.config.keys import LARGEST_SEED, MOST_WORKERS, check_keys, key
from ttt.config.schema import BackboneConfig, LayerConfig, SizeConfig, TrainConfig


class Method(NamedTuple):
    """A sequence layer and the backbone around it."""

    layer: LayerConfig
    backbone: BackboneConfig


Methods = dict[tuple[str, int], Method]
"""Methods by model name and T: the configuration of some layers depends on the length of the context."""


@dataclass
class BenchConfig:
    """Keys of every timing benchmark."""

    kernels: list[str] = key(list, "kernels of the inner loop: options of ttt-train's group kernel, or plain")
    width: int = key(0, "model width", at_least=1, at_most=10**6)
    heads: int = key(0, "heads; each has width / heads dimensions", at_least=1)
    tokens: list[int] = key(list, "lengths of the sequences", at_least=1, not_empty=True)
    batch: int = key(0, "sequences in a batch", at_least=1)
    threads: int = key(0, "CPU threads", at_least=1, at_most=MOST_WORKERS)
    rounds: int = key(0, "timed repetitions, after an untimed one", at_least=1)
    checkpoint_group: list[int | None] = key(
        list,
        "mini-batches recomputed together in the backward pass; null: the kernel's default; 0: none (always for plain)",
        at_least=0,
        not_empty=True,
    )
    dtype: str = key("float32", "of inputs and parameters", choices=("float32", "float64"))
    seed: int = key(0, "seed of inputs and parameters", at_least=0, at_most=LARGEST_SEED)
    runs: str = key("runs", "folder in which the benchmark creates its run folder", free_text=True)
    wide: bool = key(False, "print all columns of the table, in lines longer than 80 columns")

    def check(self) -> None:
        """Check that the values are in range and consistent. Names of kernels and models are checked later.

        Raises:
            UserError: a value out of its range, or values that contradict each other.
        """
        check_keys(self)
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise bad_value("heads", self.heads, f"must divide width={self.width} into heads of even width")


def recorded(config: Any) -> dict[str, Any]:
    """Return the keys of a benchmark by which its results are known: all but those of the printed table."""
    return {name: value for name, value in asdict(config).items() if name != "wide"}


@dataclass
class CPUBenchConfig(BenchConfig):
    """Kernels on this machine's processor, each compared with ``plain``, which is always measured."""

    backward: bool = key(True, "also time the forward and backward pass together")
    memory: bool = key(
        True, "measure the peak memory of both passes, each kernel in a separate process; needs backward=true"
    )


@dataclass
class InnerBenchConfig(CPUBenchConfig):
    """``ttt-bench inner``: the inner loop of one TTT layer."""

    inner_model: list[str] = key(list, "inner models to measure", choices=("linear", "mlp"))
    mini_batch_size: list[int] = key(list, "the paper's b", at_least=1, not_empty=True)
    split: bool = key(
        True, "time the forward pass for W and for z in the paper's dual form, each mini-batch whole (Figure 7)"
    )


@dataclass
class ModelsConfig(BenchConfig):
    """Keys of benchmarks of whole language models."""

    models: list[str] = key(list, "models to measure: options of ttt-train's group model")
    backbone: BackboneConfig | None = key(
        None, "backbone of all models; null: each model's default in ttt-train", hidden=True
    )
    blocks: int = key(0, "number of blocks", at_least=1, at_most=10**5)
    mlp_hidden: int = key(0, "hidden width of a block's SwiGLU", at_least=1, at_most=10**7)
    vocab: int = key(0, "tokens of the vocabulary", at_least=1, at_most=10**7)
    decode: int = key(0, "tokens to decode one by one; 0: none", at_least=0)


@dataclass
class ModelBenchConfig(ModelsConfig, CPUBenchConfig):
    """``ttt-bench model``: language models, kernel against kernel."""


@dataclass
class LatencyBenchConfig(ModelsConfig):
    """``ttt-bench latency``: training, prefill and decoding of whole models, and on a GPU the Triton kernels only."""

    size: SizeConfig = key(SizeConfig, "size with width, blocks, heads and mlp_hidden", hidden=True)
    batch: int = key(0, "sequences in a batch of prefill", at_least=1)
    train_tokens: int = key(0, "tokens of a training step: as many sequences as fit, at least one", at_least=1)
    decode_batch: int = key(0, "sequences in a batch of decoding", at_least=1)
    inner_batch: int = key(0, "sequences in a batch of the Triton kernels", at_least=1)
    device: str = key("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    train: bool = key(True, "time training steps: forward and backward pass")
    inner: bool = key(True, "on a GPU: also time the Triton kernels, next to the counts of ttt-bench kernels")
    memory: bool = key(True, "measure the peak memory of training and prefill; on a CPU each in a separate process")
    turns: bool = key(
        True,
        "measure all models of a context in turns; false: one after another, each printed and saved at once, for a "
        "machine that is lent for minutes",
    )
    dtype: str = key(
        "float32",
        "precision; in 16 bits training is autocast over float32 weights, prefill and decoding see half_weights",
        choices=("bfloat16", "float16", "float32"),
    )
    half_weights: bool = key(
        True, "with a dtype of 16 bits: prefill and decoding have weights of that type; false: autocast, as in training"
    )
    decode_state: str = key(
        "new",
        "state of TTT layers in decoding: new for each token and in float32, or overwritten, with W and sums of this "
        "type, on a GPU by a CUDA graph",
        choices=("new", "float32", "float16", "bfloat16"),
    )

    @property
    def inference_dtype(self) -> str:
        """The dtype of the weights in prefill and decoding."""
        return self.dtype if self.half_weights else "float32"

    def train_batch(self, tokens: int) -> int:
        """Return the number of sequences of ``tokens`` tokens in a training step."""
        return max(1, self.train_tokens // tokens)


@dataclass
class KernelBenchConfig:
    """``ttt-bench kernels``: resources of the Triton kernels on a GPU, compiled ahead of time."""

    targets: list[str] = key(list, "GPU architectures, such as sm_90 (H100) or gfx942 (MI300)", not_empty=True)
    kernels: list[str] = key(list, "names of Triton kernels; none: all")
    dtype: list[str] = key(list, "dtypes of the views", choices=("bf16", "fp16", "fp32"), not_empty=True)
    head_dim: list[int] = key(list, "head widths", choices=(32, 64, 96, 128), not_empty=True)
    mini_batch_size: list[int] = key(list, "the paper's b", choices=(8, 16, 32, 64), not_empty=True)
    tokens: int = key(2048, "sequence length, over which the cost of reading W_0 and writing W is spread", at_least=1)
    checkpoint_group: int = key(
        0, "mini-batches per W that the forward pass stores; 0: 16 for linear, 64 for mlp", at_least=0
    )
    warm: str | None = key(
        None,
        "folder of a Triton cache to fill with the kernels, instead of counting them: on a machine with this Triton "
        "and a GPU of these targets TRITON_CACHE_DIR=FOLDER saves their compilation",
        free_text=True,
    )
    markdown: str | None = key(None, "file to write the table into, between its markers", free_text=True)
    beside: str | None = key(
        None, "benchmark.json of another Triton version, whose spilled bytes become a column", free_text=True
    )
    runs: str = key("runs", "folder in which the benchmark creates its run folder", free_text=True)
    wide: bool = key(False, "print all columns of the table, in lines longer than 80 columns")

    def check(self) -> None:
        """Check that the values are in range. Names of targets and kernels are checked later.

        Raises:
            UserError: a value that no kernel supports, or an empty list.
        """
        check_keys(self)


@dataclass
class MemoryBenchConfig:
    """``ttt-bench memory``: the counted memory of a training step on a GPU, which need not be here."""

    models: list[str] = key(list, "models: options of ttt-train's group model", not_empty=True)
    sizes: list[str] = key(list, "sizes: options of its group size", not_empty=True)
    contexts: list[str] = key(list, "contexts: options of its group ctx", not_empty=True)
    gigabytes: list[int] = key(list, "memories of GPUs in GB, of which the smallest that is enough is printed", above=0)
    vocab: int = key(0, "tokens of the vocabulary", at_least=1, at_most=10**7)
    precision: str = key("bf16-mixed", "of the training", choices=("32-true", "bf16-mixed", "16-mixed"))
    markdown: str | None = key(None, "file to write the tables into, between its markers", free_text=True)

    def check(self) -> None:
        """Check that the values are in range. Names of options are checked later.

        Raises:
            UserError: a value out of its range, or an empty list.
        """
        check_keys(self)


@dataclass
class StepBenchConfig(TrainConfig):
    """``ttt-bench step``: the time of a training step, by part, with the keys of ``ttt-train``."""

    rounds: int = key(5, "timed steps, after two untimed ones; as many more are profiled", at_least=1)

    def check(self) -> None:
        """Check that the values are in range; ``ttt.config.plan.check`` checks the rest of a run.

        Raises:
            UserError: a value out of its range.
        """
        check_keys(self)


STAGES = ("machine", "compare", "kernels", "mixers", "profile", "sanitize", "train", "latency")
"""Stages of ``python -m ttt.bench.gpu``, in their order."""


@dataclass
class GPUBenchConfig:
    """``python -m ttt.bench.gpu``: the Triton kernels on a GPU, in stages."""

    out: str = key("runs/gpu", "folder of the tables, one CSV file for each stage", free_text=True)
    stages: list[str] = key(list, "stages to run; none: all", choices=STAGES)
    seconds: int = key(600, "limit of all stages together; each has a share of it", at_least=10)
    document: str | None = key(
        None, "file to write the saved tables into, between its markers, instead of running stages", free_text=True
    )

    def check(self) -> None:
        """Check that the values are in range.

        Raises:
            UserError: a value out of its range, or no such stage.
        """
        check_keys(self)
