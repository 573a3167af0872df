"""The parts of a training step's time: a profile's operators, each assigned to a part of the model.

A step runs in torch's profiler. Ranges with the names of modules and of phases surround the operators; an operator of
the backward pass belongs to the range of the forward operator from which autograd made it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from ttt.backbones.registry import backbones
from ttt.inner.loop import InnerInputs, InnerLoop, InnerState
from ttt.inner.scan import InnerKernel
from ttt.layers.convolution import CausalConv
from ttt.layers.observing import patched_kernels, ttt_layers
from ttt.layers.registry import layer_types
from ttt.layers.ttt import TTT

Phase = Literal["data", "forward", "backward", "optimizer", "idle"]
PHASES: tuple[Phase, ...] = ("data", "forward", "backward", "optimizer")

MATMUL, INNER, CONVOLUTION, MIXER = "matmul", "inner loop", "convolution", "attention or scan"
POINTWISE, OPTIMIZER, DATA, OTHER = "norms and gates", "optimizer", "data", "other"
PARTS = (MATMUL, INNER, MIXER, CONVOLUTION, POINTWISE, OPTIMIZER, DATA, OTHER)

Seconds = dict[tuple[str, Phase], float]
"""Seconds by part and phase."""

PREFIX = "ttt: "
"""Precedes the names of the ranges, which are phases and parts."""

BY_OPERATOR = {
    "ttt_cpu::selective_scan": MIXER,
    "ttt_cpu::causal_conv": CONVOLUTION,
    "ttt_cpu::rms_norm": POINTWISE,
    "ttt_cpu::sum_rms_norm": POINTWISE,
    "ttt_cpu::gated_": POINTWISE,
    "ttt_cpu::cross_entropy_": OTHER,
    "ttt_cpu::": INNER,
    "ttt_triton::": INNER,
    "scaled_dot_product": MIXER,
    "_flash_attention": MIXER,
    "convolution": CONVOLUTION,
}
"""Part of a name -> the part of operators with such a name, the first that fits."""

PRODUCTS = ("aten::mm", "mkldnn::_linear_pointwise", "aten::addmm", "aten::linear", "aten::matmul")
"""Products of linear maps. Those of attention and scans have other names, such as bmm, or are in the inner loop."""

BACKWARD_SCOPE = 1
"""``FunctionEvent.scope`` of autograd's nodes (torch's ``RecordScope::BACKWARD_FUNCTION``)."""


def phase(name: Phase) -> record_function:
    """Return a context whose operators belong to a phase of the step."""
    return record_function(f"{PREFIX}{name}")


@contextmanager
def ranges(model: nn.Module) -> Iterator[None]:
    """Surround the calls of the model's modules with the names of their parts within the context."""
    with ExitStack() as stack:
        handles: list[Any] = []
        for module in model.modules():
            if (part := _part_of_module(module)) is not None:
                handles += _surround(module, part)
        for handle in handles:
            stack.callback(handle.remove)
        stack.enter_context(patched_kernels(ttt_layers(model), lambda layer, _: _InRange(layer.kernel)))
        yield


def _part_of_module(module: nn.Module) -> str | None:
    mixers: tuple[Any, ...] = tuple(layer.build for layer in layer_types().values())
    blocks: tuple[Any, ...] = tuple(backbone.block for backbone in backbones().values())
    if isinstance(module, nn.Linear):
        return MATMUL
    if isinstance(module, CausalConv):
        return CONVOLUTION
    if isinstance(module, mixers) and not isinstance(module, TTT):
        return MIXER
    pointwise: tuple[Any, ...] = (TTT, nn.RMSNorm, nn.LayerNorm, *blocks)
    return POINTWISE if isinstance(module, pointwise) else None


def _surround(module: nn.Module, part: str) -> list[Any]:
    open_ranges: list[record_function] = []

    def enter(*_: Any) -> None:
        open_ranges.append(record_function(f"{PREFIX}{part}"))
        open_ranges[-1].__enter__()

    def leave(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


class _InRange:
    """A kernel of the inner loop in a range; everything else is as with ``kernel``."""

    def __init__(self, kernel: InnerKernel) -> None:
        self._kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def __call__(self, loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
        with record_function(f"{PREFIX}{INNER}"):
            return self._kernel(loop, state, inputs)


def seconds_of(step: Callable[[], None], device: torch.device) -> Seconds:
    """Return the seconds of each part of one step, on the host for a CPU and on the device for a GPU."""
    # Otherwise the profiler prints a line at each start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        step()
        if gpu:
            torch.cuda.synchronize(device)
    return divided(profiler.events() or [], gpu)


def divided(events: Sequence[FunctionEvent], gpu: bool) -> Seconds:
    """Return the seconds of each part, from the events of a step within the ranges of ``phase`` and ``ranges``."""
    made = {
        event.sequence_nr: event
        for event in events
        if event.sequence_nr >= 0 and event.scope != BACKWARD_SCOPE and _phase(event) == "forward"
    }
    found: Seconds = {}
    for event in events:
        within = _phase(event)
        if within is not None:
            place = _part(event, within, made), within
            spent = event.self_device_time_total if gpu else event.self_cpu_time_total
            found[place] = found.get(place, 0.0) + spent / 1e6
    return found


def _around(event: FunctionEvent) -> Iterator[FunctionEvent]:
    """Yield an event and those around it, the innermost first."""
    around: FunctionEvent | None = event
    while around is not None:
        yield around
        around = around.cpu_parent


def _phase(event: FunctionEvent) -> Phase | None:
    names = {one.name.removeprefix(PREFIX) for one in _around(event) if one.name.startswith(PREFIX)}
    return next((phase for phase in PHASES if phase in names), None)


def _part(event: FunctionEvent, within: Phase, made: dict[int, FunctionEvent]) -> str:
    if within in ("data", "optimizer"):
        return DATA if within == "data" else OPTIMIZER
    if event.name.startswith(PREFIX):
        # Python between the operators of a range.
        return OTHER
    around = _range(event, made)
    if around == INNER:
        return INNER
    if event.name.startswith("Torch-Compiled Region") or "CompiledFunction" in event.name:
        return POINTWISE
    by_name = (part for name, part in BY_OPERATOR.items() if name in event.name)
    return next(by_name, MATMUL if event.name in PRODUCTS else around or OTHER)


def _range(event: FunctionEvent, made: dict[int, FunctionEvent]) -> str | None:
    """Return the part of the innermost range around an operator, or around the one from which autograd made it."""
    for one in _around(event):
        part = one.name.removeprefix(PREFIX)
        if one.name.startswith(PREFIX) and part in PARTS:
            return part
        if one.scope == BACKWARD_SCOPE and one.sequence_nr in made:
            return _range(made[one.sequence_nr], {})
    return None
