"""The memory of a training step, counted without running it, for a CPU or a GPU that need not be here.

The step runs on torch's fake tensors, which have shapes and no memory. Every tensor is counted from its allocation to
its end, so that the peak includes what autograd keeps, gradients, temporary tensors and recomputation. On a GPU,
stand-ins allocate what the kernels would (``ttt.layers.on_gpu``). Not counted: memory inside torch's own operators, the
fragments that an allocator cannot use, and a GPU's context.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import finalize

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ttt.config.schema import TrainConfig
from ttt.layers.on_gpu import as_on_gpu
from ttt.layers.rope import mini_batch_rotations
from ttt.models import cross_entropy
from ttt.models.build import build_model
from ttt.models.checkpointing import checkpoint_blocks
from ttt.models.count import pattern_length
from ttt.models.language_model import LanguageModel, mean_loss

FLOAT = 4
"""Bytes of a float32: parameters, their gradients and the optimizer's state in every precision."""

ADAMW_STATES = 2
"""Numbers per parameter that AdamW keeps."""

COUNTED_BLOCKS, COUNTED_TOKENS = 3, 8192
"""Larger numbers of blocks, or of a hybrid's patterns, and of tokens are extrapolated: memory is linear in both."""

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

KEEP_STATES = ("ttt_cpu::forward", "ttt_cpu::selective_scan")

Part = Literal["activations", "kernels"]


@dataclass(frozen=True)
class StepMemory:
    """Bytes on each device at the peak of a training step.

    Attributes:
        parameters: weights; with FSDP, a device's share and the blocks that are gathered at the same time.
        gradients: of the weights, with DDP's copy for communication.
        optimizer: its state.
        activations: what the backward pass needs and temporary tensors, at the peak.
        kernels: of these, states and scratch of the inner loop's or the scan's kernel.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    kernels: int

    @property
    def total(self) -> int:
        """All parts."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.kernels


def step_memory(
    config: TrainConfig, batch: int, kind: str, precision: str, checkpointed: bool, states: float = ADAMW_STATES
) -> StepMemory:
    """Count the memory of a training step on one device. Gradients are there from the start, as in accumulation.

    Args:
        config: the run; its vocabulary has ``data.vocab_size`` entries.
        batch: sequences of ``ctx.length`` tokens on the device at once.
        kind: cpu, cuda or mps.
        precision: 32-true, bf16-mixed or 16-mixed.
        checkpointed: blocks are recomputed in the backward pass.
        states: numbers per parameter that the optimizer keeps.

    Raises:
        UserError: the model cannot be built.
    """
    T, blocks = config.ctx.length, config.size.blocks // pattern_length(config)
    shape = _Shape(batch, min(T, COUNTED_TOKENS), min(blocks, COUNTED_BLOCKS))
    peak = _peaks(config, shape, kind, precision, checkpointed)
    if blocks > COUNTED_BLOCKS:
        fewer = _peaks(config, replace(shape, blocks=COUNTED_BLOCKS - 1), kind, precision, checkpointed)
        peak = _extrapolated(fewer, peak, blocks - COUNTED_BLOCKS)
    if T > COUNTED_TOKENS:
        half = replace(shape, tokens=COUNTED_TOKENS // 2)
        shorter = _peaks(config, half, kind, precision, checkpointed)
        if blocks > COUNTED_BLOCKS:
            fewer = _peaks(config, replace(half, blocks=COUNTED_BLOCKS - 1), kind, precision, checkpointed)
            shorter = _extrapolated(fewer, shorter, blocks - COUNTED_BLOCKS)
        peak = _extrapolated(shorter, peak, T / half.tokens - 2)
    return StepMemory(*_of_parameters(config, states), peak["activations"], peak["kernels"])


@dataclass(frozen=True)
class _Shape:
    """Sequences, their tokens and the blocks, or patterns of a hybrid, of a step that is counted."""

    batch: int
    tokens: int
    blocks: int


def _extrapolated(less: dict[Part, int], more: dict[Part, int], times: float) -> dict[Part, int]:
    return {part: round(more[part] + times * (more[part] - less[part])) for part in more}


def _of_parameters(config: TrainConfig, states: float) -> tuple[int, int, int]:
    """Return the bytes of weights, gradients and optimizer on each device, as ``trainer.strategy`` shares them."""
    with torch.device("meta"):
        size = replace(config.size, blocks=pattern_length(config))
        model = build_model(config.model, size, config.backbone, config.kernel, config.data.vocab_size)
    blocks = [sum(parameter.numel() for parameter in block.parameters()) for block in model.blocks]
    rest = sum(parameter.numel() for parameter in model.parameters()) - sum(blocks)
    repeats = config.size.blocks // size.blocks
    total, workers = FLOAT * (rest + repeats * sum(blocks)), config.trainer.devices * config.trainer.nodes
    if config.trainer.strategy == "fsdp":
        # The embedding stays gathered; a block is gathered while the one before it is computed.
        gathered = FLOAT * (rest + 2 * max(blocks))
        return total // workers + gathered, total // workers + gathered, round(states * total / workers)
    copies = 2 if config.trainer.strategy == "ddp" else 1
    return total, copies * total, round(states * total)


def _peaks(config: TrainConfig, shape: _Shape, kind: str, precision: str, checkpointed: bool) -> dict[Part, int]:
    """Return the bytes of each part at the peak of a forward and backward pass."""
    tracker = _Tracker()
    autocast: AbstractContextManager[object] = nullcontext()
    if precision in HALF:
        autocast = torch.autocast("cpu", HALF[precision])
    with _no_cached_rotations(), _in_calls_of(kind, shape.tokens / config.ctx.length), FakeTensorMode():
        model = _model(config, shape.blocks)
        if checkpointed:
            checkpoint_blocks(model)
        ids_BS = torch.zeros(shape.batch, shape.tokens + 1, dtype=torch.long)
        tracker.ignore(*model.parameters(), *(p.grad for p in model.parameters()), *model.buffers())
        kernels = nullcontext() if kind == "cpu" else as_on_gpu(model, tracker.of_kernels, triton=kind == "cuda")
        with kernels, tracker:
            with autocast:
                loss = mean_loss(model, ids_BS)
            loss.backward()
    return tracker.peak


def _model(config: TrainConfig, blocks: int) -> LanguageModel:
    size = replace(config.size, blocks=blocks * pattern_length(config))
    model = build_model(config.model, size, config.backbone, config.kernel, config.data.vocab_size)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


@contextmanager
def _no_cached_rotations() -> Iterator[None]:
    """Empty the cache of RoPE before and after: real tensors and fake ones do not mix."""
    mini_batch_rotations.cache_clear()
    try:
        yield
    finally:
        mini_batch_rotations.cache_clear()


@contextmanager
def _in_calls_of(kind: str, share: float) -> Iterator[None]:
    """Let the cross entropy process as many logits at once as on the device, or ``share`` of them."""
    before = cross_entropy.CACHED_ENTRIES, cross_entropy.LEAST_ROWS
    entries = cross_entropy.CACHED_ENTRIES if kind == "cpu" else cross_entropy.DEVICE_ENTRIES
    cross_entropy.CACHED_ENTRIES = round(entries * share)
    cross_entropy.LEAST_ROWS = max(1, round(cross_entropy.LEAST_ROWS * share))
    try:
        yield
    finally:
        cross_entropy.CACHED_ENTRIES, cross_entropy.LEAST_ROWS = before


class _Tracker(TorchDispatchMode):
    """Follows every tensor from its allocation to its end.

    Attributes:
        peak: bytes of each part when most bytes were allocated.
    """

    def __init__(self) -> None:
        super().__init__()
        self._part: Part = "activations"
        self._known: dict[int, tuple[int, Part]] = {}
        self._live: dict[Part, int] = {"activations": 0, "kernels": 0}
        self.peak = dict(self._live)

    @contextmanager
    def of_kernels(self) -> Iterator[None]:
        """Count tensors that are allocated in this context as buffers of a kernel."""
        self._part = "kernels"
        try:
            yield
        finally:
            self._part = "activations"

    def ignore(self, *tensors: Tensor | None) -> None:
        """Do not count these tensors."""
        for tensor in tensors:
            if tensor is not None:
                self._add(tensor, "activations", 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count its results; a view shares the memory that is counted already."""
        result = func(*args, **(kwargs or {}))
        results = tree_leaves(result)
        for number, tensor in enumerate(results):
            if isinstance(tensor, Tensor):
                # The compiled inner loop and scan return the states that they keep last.
                kept = func.name() in KEEP_STATES and number == len(results) - 1
                self._add(tensor, "kernels" if kept else self._part, tensor.untyped_storage().nbytes())
        if sum(self._live.values()) > sum(self.peak.values()):
            self.peak = dict(self._live)
        return result

    def _add(self, tensor: Tensor, part: Part, size: int) -> None:
        storage = tensor.untyped_storage()
        number = storage._cdata
        if number in self._known:
            return
        self._known[number] = (size, part)
        self._live[part] += size
        finalize(storage, self._gone, number)

    def _gone(self, number: int) -> None:
        size, part = self._known.pop(number)
        self._live[part] -= size
