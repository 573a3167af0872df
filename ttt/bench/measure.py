"""From a case to rows: times round by round, what follows from them, and memory."""

from collections.abc import Callable, Iterator
from functools import partial

from tqdm import tqdm

from ttt.bench.case import DTYPES, PLAIN, Case, Setting, Variant, Work
from ttt.bench.memory import peak_memory
from ttt.bench.timing import Measurement, Spread, alternate, matmul, matmul_rate, spread, timed
from ttt.config.bench import CPUBenchConfig
from ttt.results.benchmarks import Row

PASSES = {"forward": 1, "forward_backward": 3}
"""Passes -> their FLOPs in forward passes: each product has two in the backward pass. Recomputing does not count."""


def measure_case(case: Case, config: CPUBenchConfig, record: Callable[[list[Row]], None]) -> list[Row]:
    """All rows of a case, which are also given to ``record`` as soon as there are some."""
    setting = case.setting
    name = " ".join([setting.model, f"tokens={setting.tokens}", f"b={setting.mini_batch_size}"])
    children = len(case.variants) if config.backward and config.memory else 0
    steps = (len(case.variants) + 1) * (config.rounds + 1) + children
    with tqdm(total=steps, desc=name, leave=False, disable=None) as bar:
        rows = list(_time_rows(case, config, bar.update))
        record(rows)
        for variant in case.variants[:children]:
            peak = peak_memory(partial(_both_passes, case, variant), setting.tokens, config.threads)
            rows.append(setting.row(variant, "peak_memory", Spread(peak, peak, peak), "B"))
            record(rows[-1:])
            bar.update()
    return rows


def _both_passes(case: Case, variant: Variant, tokens: int) -> Callable[[], object]:
    return case.build(variant, tokens).forward_backward


def _time_rows(case: Case, config: CPUBenchConfig, step: Callable[[], object]) -> Iterator[Row]:
    works = {variant: case.build(variant, case.setting.tokens) for variant in case.variants}
    measurements: dict[Variant | None, list[Measurement]] = {None: [matmul(DTYPES[config.dtype])]}
    measurements |= {variant: _measurements(work, config.backward) for variant, work in works.items()}
    times = alternate(measurements, config.rounds, step)
    rate = matmul_rate(times.pop((None, "matmul")))
    yield case.setting.row(None, "matmul", rate, "FLOP/s")
    for (variant, name), seconds in times.items():
        assert variant is not None
        yield case.setting.row(variant, name, spread(seconds), "s")
        if name in PASSES:
            work_flops = PASSES[name] * works[variant].flops
            yield from _derived(case.setting, variant, name, seconds, times[PLAIN, name], work_flops / rate.median)


def _measurements(work: Work, backward: bool) -> list[Measurement]:
    passes = [timed("forward", work.forward)]
    if backward:
        passes.append(timed("forward_backward", work.forward_backward))
    return [*passes, *work.extra]


def _derived(
    setting: Setting, variant: Variant, name: str, seconds: list[float], plain: list[float], ideal: float
) -> Iterator[Row]:
    """What follows from times; ``ideal`` is how long the matrix products alone would take."""
    speedup = spread([baseline / own for baseline, own in zip(plain, seconds, strict=True)])
    yield setting.row(variant, f"{name}_speedup", speedup, "1")
    tokens = setting.batch * setting.tokens
    yield setting.row(variant, f"{name}_tokens_per_second", spread([tokens / own for own in seconds]), "tokens/s")
    yield setting.row(variant, f"{name}_share", spread([ideal / own for own in seconds]), "1")
