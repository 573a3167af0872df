"""Stage ``kernels``: the time of every way to compile a kernel, by CUDA graph, beside the bound and the model.

The fastest ways are stored in the user's cache, where launches look for them (``ttt.kernels.triton.choices``).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ttt.bench.gpu.card import card
from ttt.bench.gpu.operators import DTYPES, GROUPS, IN_PLACE, Sizes, passes
from ttt.bench.gpu.tables import Table
from ttt.bench.timing import repeated, timed_by_gpu
from ttt.config.errors import first_line
from ttt.config.gpus import gpu_named
from ttt.kernels.triton.choices import CANDIDATES, CLOCK, FIXED, Candidate, Choice, using
from ttt.kernels.triton.configurations import Layer, measured_here
from ttt.kernels.triton.counts import Sizes as CountedSizes
from ttt.kernels.triton.counts import count
from ttt.results.atomic import write_text

SHAPES = ((1, 32), (4, 32), (33, 8), (16, 32))
"""B and H: 32, 128, 264 and 512 programs; an H100 has 132 multiprocessors."""

TOKENS = 2048


NOTES = {IN_PLACE: "state in float16, in place"}


class Way(NamedTuple):
    """A kernel at given sizes, and a way to compile it; ``choice`` is None if there is one way."""

    kernel: str
    use: str
    sizes: Sizes
    choice: Choice | None


def kernels(table: Table, folder: Path, seconds: float) -> None:  # noqa: ARG001 - the limit stops it
    """Add a line for each way, and store the fastest ones.

    Raises:
        UserError: there is no card.
    """
    device, path = card(), measured_here()
    fastest: dict[str, Choice] = {}
    for B, H in SHAPES:
        for layer in ("linear", "mlp"):
            sizes = Sizes(layer, "bf16", B, H, TOKENS)
            fastest |= compared_ways(table, sizes, device, graph_seconds)
            if path and fastest:
                write_text(path, json.dumps(fastest))


def ways(sizes: Sizes) -> Iterator[Way]:
    """Yield all kernels of a layer in all ways; those of one kernel follow each other."""
    layer = Layer(DTYPES[sizes.dtype], sizes.D, sizes.b, 4 * sizes.D if sizes.layer == "mlp" else 0)
    for use in ("forward", "backward", "decode", IN_PLACE):
        kernel = f"{sizes.layer}_{'forward_on_chip' if use == 'forward' and layer.on_chip else use.split()[0]}"
        for choice in layer.candidates(use) or (None,):
            yield Way(kernel, use, sizes, choice)


def compared_ways(
    table: Table, sizes: Sizes, device: torch.device, clock: Callable[[Callable[[], object]], float]
) -> dict[str, Choice]:
    """Add a line for each way, and return the fastest choice by kernel and number of programs, if there are several.

    Args:
        table: of the stage.
        sizes: of the operators.
        device: where to run.
        clock: returns the seconds that a function takes.
    """
    times: dict[str, dict[Choice, float]] = {}
    for way in ways(sizes):
        forced = {way.kernel: way.choice} if way.choice else {}
        try:
            with using(forced):
                taken = clock(passes(sizes, device)[way.use])
        except Exception as error:  # too little memory, or a compiler's error: the other ways go on
            table.add(kernel=way.kernel, B_x_H=sizes.programs, **_compiled(way), note=first_line(error)[:60])
            continue
        if way.choice:
            times.setdefault(way.kernel, {})[way.choice] = taken
        found = times.get(way.kernel, {})
        shortest = bool(found) and min(found, key=lambda choice: found[choice]) == way.choice
        table.add(kernel=way.kernel, B_x_H=sizes.programs, **_compiled(way), **measured(way, taken, device),
                  note="fastest so far" if shortest else NOTES.get(way.use, ""))  # fmt: skip
    return {f"{name} {sizes.programs}": min(found, key=found.__getitem__) for name, found in times.items()}


def measured(way: Way, seconds: float, device: torch.device) -> dict[str, str]:
    """Return the cells of a time: ms, ns per token and head, the share of the bound, and the model's ns."""
    tokens = 1 if way.use in ("decode", IN_PLACE) else way.sizes.T
    per_token = seconds / (way.sizes.programs * tokens)
    cells = {"ms": f"{1e3 * seconds:.3f}", "ns_token": f"{1e9 * per_token:.3g}"}
    gpu = gpu_named(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if gpu:
        s = way.sizes
        counted_sizes = CountedSizes(s.D, 4 * s.D, s.b, 2, s.T, GROUPS[s.layer])
        counted = count(way.kernel, replace(counted_sizes, state=2) if way.use == IN_PLACE else counted_sizes)
        cells["of_bound"] = f"{100 * gpu.seconds(counted.flops, counted.device_bytes, s.dtype) / per_token:.1f}"
    cycles = modelled_cycles(way)
    if cycles:
        cells["model_ns"] = f"{1e9 * cycles / CLOCK / (way.sizes.b * way.sizes.programs):.3g}"
    return cells


def modelled_cycles(way: Way) -> int | None:
    """Return the model's cycles of a mini-batch of all programs; None if the way was not modelled."""
    candidates = CANDIDATES.get(way.kernel, ())
    found = next((one for one in candidates if one.choice == way.choice), FIXED.get(way.kernel))
    if found is None:
        return None
    others: list[Candidate] = [FIXED["linear_recompute"]] if way.kernel == "linear_backward" else []
    return sum(one.modelled(way.sizes.programs) for one in (found, *others))


def graph_seconds(function: Callable[[], object]) -> float:
    """Return the seconds of a function whose launches a CUDA graph repeats, so that Python's time does not count."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        function()
        function()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        function()
    graph.replay()
    return repeated(timed_by_gpu("graph", graph.replay))["graph"]


def _compiled(way: Way) -> dict[str, object]:
    return {"warps": way.choice.warps, "block": way.choice.block or ""} if way.choice else {}
