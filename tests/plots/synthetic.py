"""Run folders with made-up but lifelike numbers."""

import math
import zlib
from pathlib import Path
from typing import cast

import numpy as np

from ttt.results.benchmarks import BenchmarkLog, Row
from ttt.results.inner_loss import write_inner_loss
from ttt.results.metrics import MetricLog, Split
from ttt.results.record import SCHEMA_VERSION, Evaluation, Record, RunFolder, Status, write_record

TOKENS_PER_STEP = 1024
METHODS = {
    ("ttt_linear", "mamba"): (3.05, 0.35),
    ("ttt_mlp", "mamba"): (3.0, 0.35),
    ("transformer", "transformer"): (3.15, 0.40),
    ("mamba", "own"): (3.2, 0.55),
}
"""(model, backbone) -> loss in nats per token that a long run tends to, and how fast it falls with context."""


def make_run(
    folder: Path,
    model: str = "ttt_linear",
    backbone: str = "mamba",
    size: str = "s2",
    ctx: int = 512,
    seed: int = 0,
    steps: int = 100,
    steps_planned: int | None = None,
    evaluated: bool = True,
    status: Status = "finished",
    perplexity: float | None = None,
    **settings: object,
) -> RunFolder:
    """A run in its folder below ``folder``; ``settings`` are further keys of ``config.model``.

    ``perplexity`` is that of the validation in its record.
    """
    name = "-".join([model, backbone, size, str(ctx), str(seed), *map(str, settings.values())])
    run = RunFolder(folder / name)
    record = make_record(name, model, backbone, size, ctx, seed, steps, steps_planned or steps, status, **settings)
    if perplexity is not None:
        record["results"]["validation"] = evaluation(perplexity)
    write_record(run.record, record)
    log = MetricLog(name, run.metrics)
    # Runs of one seed share the order of their data, so they share the noise of a step's text.
    text, own = np.random.default_rng(seed), np.random.default_rng(zlib.crc32(name.encode()))
    floor, slope = METHODS.get((model, backbone), (3.2, 0.4))
    floor += {"s1": 0.6, "s2": 0.3, "s3": 0.0}[size] + own.normal(0, 0.02)
    for step in range(1, steps + 1):
        loss = floor + 0.6 + 3.4 * (1 + step / 12) ** -0.6 + text.normal(0, 0.12) + own.normal(0, 0.02)
        log.add("train", step, "loss", loss, "nats/token")
        log.add("train", step, "learning_rate", 1e-3, "1")
        log.add("train", step, "gradient_norm", own.lognormal(), "1")
    if evaluated:
        positions = np.arange(1, ctx + 1)
        losses = floor + 2.6 * positions**-slope + text.normal(0, 0.25, ctx) + own.normal(0, 0.05, ctx)
        log.add("validation", steps, "loss", losses.mean(), "nats/token")
        log.add("validation", steps, "perplexity", math.exp(losses.mean()), "1")
        log.add_many("validation", steps, "loss", losses, "nats/token", positions)
        log.add_many("validation", steps, "sequences", [64] * ctx, "1", positions)
    log.write()
    return run


def make_probe(run: RunFolder, layers: int = 2, T: int = 64, split: Split = "validation", steps: int = 30) -> RunFolder:
    """What a probe of the run saw: losses that fall with the position, deeper layers' above the others'."""
    positions = np.arange(1, T + 1)
    learned = 4 + 12 / positions
    values = {"loss_initial": np.full(T, 20.0), "loss_before": 1 + learned, "loss_after": learned}
    norms = {"update_norm": np.ones(T), "weight_norm": np.sqrt(positions)}
    seen = [{name: layer * value for name, value in (values | norms).items()} for layer in range(1, layers + 1)]
    write_inner_loss(run.inner_loss, run.path.name, split, steps, seen, sequences=8)
    return run


def evaluation(perplexity: float) -> Evaluation:
    loss = math.log(perplexity)
    return {"loss": loss, "perplexity": perplexity, "tokens": 512, "sequences": 1, "per_token_sequences": 1}


def make_record(
    run_id: str,
    model: str,
    backbone: str,
    size: str,
    ctx: int,
    seed: int,
    steps: int,
    steps_planned: int,
    status: Status,
    **settings: object,
) -> Record:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "name": run_id,
        "status": status,
        "error": "loss is not finite" if status == "failed" else None,
        "config": {
            "model": {"name": model, **({"mini_batch_size": 16} if "ttt" in model else {}), **settings},
            "size": {"name": size, "learning_rate": {"mamba": 1e-2, "transformer": 5e-3, "own": 1e-2}},
            "ctx": {"length": ctx},
            "backbone": {"name": backbone},
            "kernel": {"name": "auto"},
            "data": {"name": "pycode"},
            "recipe": {"learning_rate": 5e-3},
            "trainer": {"device": "cpu", "max_steps": None},
            "seed": seed,
            "run_dir": f"runs/{run_id}",
        },
        "overrides": [f"model={model}"],
        "sweep": None,
        "git": {"commit": "0" * 40, "dirty": False},
        "versions": {"python": "3.11.0"},
        "device": {"name": "cpu", "count": 1, "precision": "float32"},
        "seed": seed,
        "parameters": {"total": 1000 * int(size[1:]), "embedding": 100},
        "training_flops": 1e12,
        "tokens_per_step": TOKENS_PER_STEP,
        "steps": steps,
        "steps_planned": steps_planned,
        "tokens": steps * TOKENS_PER_STEP,
        "data": {"name": "pycode", "digest": "abc", "vocab_size": 1024},
        "last_checkpoint": None,
        "results": {},
        "timing": {"started": "2026-01-01T00:00:00+00:00", "ended": None, "seconds": None, "tokens_per_second": None},
    }


def make_benchmark(folder: Path, sizes: tuple[int, ...] = (1, 4, 16, 64), tokens: int = 2048, **more: object) -> Path:
    """A benchmark of the inner loop with W and z apart; ``more`` replaces columns of its rows."""
    settings = {"width": 256, "heads": 4, "dtype": "float32", "rounds": 7}
    log = BenchmarkLog(folder, "inner", settings, threads=1)
    for b in sizes:
        seconds = {"W": 0.1 / b + 0.002, "z": 0.08 / b + 1e-5 * b}
        for measure, value in (seconds | {"forward": sum(seconds.values())}).items():
            row = {
                "model": "linear",
                "form": "plain",
                "checkpoint_group": 0,
                "tokens": tokens,
                "mini_batch_size": b,
                "batch": 1,
                "measure": measure,
                "value": value,
                "low": 0.9 * value,
                "high": 1.2 * value,
                "unit": "s",
            }
            log.add([cast(Row, row | more)])
    log.finish()
    return log.path
