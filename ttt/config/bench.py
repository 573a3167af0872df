"""The vocabulary of ``ttt-bench``: the keys of its benchmarks. Values live in ``conf/bench_*.yaml``."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ttt.config.errors import bad_value
from ttt.config.schema import BackboneConfig, LayerConfig, SizeConfig

KERNEL_DTYPES = ("bf16", "fp16", "fp32")
KERNEL_HEAD_DIMS = (32, 64, 96, 128)
KERNEL_MINI_BATCH_SIZES = (8, 16, 32, 64)
DEVICES = ("auto", "cpu", "cuda")


class Method(NamedTuple):
    """A sequence layer, and the backbone that it sits in."""

    layer: LayerConfig
    backbone: BackboneConfig


Methods = dict[tuple[str, int], Method]
"""Methods by the model's name and T: some layers follow the context's length."""


@dataclass
class BenchConfig:
    """What all benchmarks of times have.

    Attributes:
        forms: names of the ``kernel`` group.
        width: C, the model width.
        heads: H; the head width is C / H.
        tokens: lengths T of the sequences.
        batch: B, how many sequences at once.
        threads: CPU threads.
        rounds: how often everything is timed, after a first time that does not count.
        checkpoint_group: as ``kernel.checkpoint_group``, for every form but ``plain``, which keeps all states.
        dtype: of inputs and parameters.
        seed: decides them.
        results: the folder below which the benchmark gets its own.
    """

    forms: list[str] = field(default_factory=list)
    width: int = 0
    heads: int = 0
    tokens: list[int] = field(default_factory=list)
    batch: int = 0
    threads: int = 0
    rounds: int = 0
    checkpoint_group: list[int | None] = field(default_factory=list)
    dtype: str = "float32"
    seed: int = 0
    results: str = "???"

    def check(self) -> None:
        """Refuses what cannot be measured; names of forms and models are left to those who know them.

        Raises:
            UserError: a value out of its range, or values that do not fit together.
        """
        for key, values, low in self._at_least():
            if not values:
                raise bad_value(key, "[]", "give at least one value")
            for value in values:
                if value < low:
                    raise bad_value(key, value, f"must be at least {low}")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise bad_value("heads", self.heads, f"must divide width={self.width} into heads of even width")
        if self.dtype not in self._dtypes():
            raise bad_value("dtype", self.dtype, f"choose one of {', '.join(self._dtypes())}")

    def _dtypes(self) -> tuple[str, ...]:
        return "float32", "float64"

    def _at_least(self) -> Iterator[tuple[str, list[int], int]]:
        """Key, values and least allowed value of what is counted."""
        yield "tokens", self.tokens, 1
        yield "checkpoint_group", [group or 0 for group in self.checkpoint_group], 0
        for key in ("width", "heads", "batch", "threads", "rounds"):
            yield key, [getattr(self, key)], 1
        yield "seed", [self.seed], 0


@dataclass
class FormsBenchConfig(BenchConfig):
    """Form against form on this machine's processor, each held against ``plain``, which is always measured.

    Attributes:
        backward: whether to time forward and backward pass together too.
        memory: whether to measure their most memory, which takes a process for each form; not without ``backward``.
    """

    backward: bool = True
    memory: bool = True


@dataclass
class InnerBenchConfig(FormsBenchConfig):
    """``ttt-bench inner``: the inner loop of one TTT layer.

    Attributes:
        inner_model: linear, mlp.
        mini_batch_size: the paper's b.
        split: whether to time W and z of the plain form apart (Figure 9).
    """

    inner_model: list[str] = field(default_factory=list)
    mini_batch_size: list[int] = field(default_factory=list)
    split: bool = True

    def _at_least(self) -> Iterator[tuple[str, list[int], int]]:
        yield from super()._at_least()
        yield "mini_batch_size", self.mini_batch_size, 1


@dataclass
class ModelsConfig(BenchConfig):
    """Whole language models.

    Attributes:
        models: options of the ``model`` group. On the command line ``model=``.
        backbone: how all layers sit in their blocks; None: each as ``ttt-train`` has it by default.
        blocks: how many blocks.
        mlp_hidden: width of a block's SwiGLU.
        vocab: entries of the vocabulary.
        decode: how many tokens to decode one by one; 0 for none.
    """

    models: list[str] = field(default_factory=list)
    backbone: BackboneConfig | None = None
    blocks: int = 0
    mlp_hidden: int = 0
    vocab: int = 0
    decode: int = 0

    def _at_least(self) -> Iterator[tuple[str, list[int], int]]:
        yield from super()._at_least()
        for key in ("blocks", "mlp_hidden", "vocab"):
            yield key, [getattr(self, key)], 1
        yield "decode", [self.decode], 0


@dataclass
class ModelBenchConfig(ModelsConfig, FormsBenchConfig):
    """``ttt-bench model``: language models, form against form."""


@dataclass
class LatencyBenchConfig(ModelsConfig):
    """``ttt-bench latency``: training, prefill and decoding of whole models, and on a GPU the kernels alone.

    Attributes:
        size: a row of the table of sizes, from which width, blocks, heads and mlp_hidden come unless they are given.
        batch: sequences at once in prefill.
        train_tokens: tokens of a training step: as many sequences as they hold, one at least.
        decode_batch: sequences at once in decoding.
        inner_batch: sequences at once in the kernels alone.
        device: auto, cpu, cuda.
        train: whether to time training steps, forward and backward pass.
        inner: whether to time the Triton kernels alone too, and hold them against what was counted; on a GPU.
        memory: whether to measure the most memory of training and prefill; on a CPU each takes a process.
        dtype: bfloat16 and float16 are autocast over float32 parameters, as in training.
    """

    size: SizeConfig = field(default_factory=SizeConfig)
    train_tokens: int = 0
    decode_batch: int = 0
    inner_batch: int = 0
    device: str = "auto"
    train: bool = True
    inner: bool = True
    memory: bool = True

    def train_batch(self, tokens: int) -> int:
        """Sequences of ``tokens`` tokens in a training step."""
        return max(1, self.train_tokens // tokens)

    def check(self) -> None:
        """Refuses what cannot be measured; whether there is such a device is left to those who know it.

        Raises:
            UserError: a value out of its range, or values that do not fit together.
        """
        super().check()
        if self.device not in DEVICES:
            raise bad_value("device", self.device, f"choose one of {', '.join(DEVICES)}")

    def _at_least(self) -> Iterator[tuple[str, list[int], int]]:
        yield from super()._at_least()
        for key in ("train_tokens", "decode_batch", "inner_batch"):
            yield key, [getattr(self, key)], 1

    def _dtypes(self) -> tuple[str, ...]:
        return "bfloat16", "float16", "float32"


@dataclass
class KernelBenchConfig:
    """``ttt-bench kernels``: what the Triton kernels take of a GPU, compiled ahead of time.

    Attributes:
        targets: GPU architectures, sm_90 or gfx942.
        kernels: names of kernels; empty for all.
        dtype: of the views: bf16, fp16, fp32.
        head_dim: D.
        mini_batch_size: b.
        tokens: T, over which W_0 and the last W are spread when bytes are counted per token.
        checkpoint_group: mini-batches for each W that the forward pass keeps; 0: as many as the kernels take.
        markdown: a file between whose markers the table goes; null for none.
        beside: an earlier benchmark's file, of another version of Triton, whose spilled bytes get a column; or null.
        results: the folder below which the benchmark gets its own.
    """

    targets: list[str] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    dtype: list[str] = field(default_factory=list)
    head_dim: list[int] = field(default_factory=list)
    mini_batch_size: list[int] = field(default_factory=list)
    tokens: int = 0
    checkpoint_group: int = 0
    markdown: str | None = None
    beside: str | None = None
    results: str = "???"

    def check(self) -> None:
        """Refuses what no kernel knows; names of targets and kernels are left to those who know them.

        Raises:
            UserError: a value that is not among those a kernel knows, or an empty list.
        """
        choices: dict[str, tuple[object, ...]] = {
            "dtype": KERNEL_DTYPES,
            "head_dim": KERNEL_HEAD_DIMS,
            "mini_batch_size": KERNEL_MINI_BATCH_SIZES,
        }
        for key, allowed in choices.items():
            for value in getattr(self, key):
                if value not in allowed:
                    raise bad_value(key, value, f"choose from {', '.join(map(str, allowed))}")
        for key in ("targets", *choices):
            if not getattr(self, key):
                raise bad_value(key, "[]", "give at least one value")
        for key, low in (("tokens", 1), ("checkpoint_group", 0)):
            if getattr(self, key) < low:
                raise bad_value(key, getattr(self, key), f"must be at least {low}")
