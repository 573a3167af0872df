"""Run folders with made-up but realistic numbers."""

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from ttt.cli.label import label_of_plain, standard, table_1_row
from ttt.results.benchmarks import BenchmarkLog, Row
from ttt.results.context_gain import Loss, write_context_gain
from ttt.results.copying import FIRST_LOSS, REPEATED_LOSS
from ttt.results.document_losses import write_document_losses
from ttt.results.inner_loss import per_dimension, write_inner_loss
from ttt.results.metrics import MetricLog, Split
from ttt.results.needle import Found, write_needle
from ttt.results.record import (
    SCHEMA_VERSION,
    Evaluation,
    Judged,
    Record,
    RunFolder,
    Status,
    read_record,
    write_record,
)

TOKENS_PER_STEP = 1024
METHODS = {
    ("ttt_linear", "mamba"): (3.05, 0.35),
    ("ttt_mlp", "mamba"): (3.0, 0.35),
    ("transformer", "transformer"): (3.15, 0.40),
    ("mamba", "own"): (3.2, 0.55),
}
"""(model, backbone) -> final loss of a long run in nats per token, and the exponent of its decrease with context."""


def make_run(
    folder: Path,
    model: str = "ttt_linear",
    backbone: str = "mamba",
    size: str = "w128",
    ctx: int = 512,
    seed: int = 0,
    steps: int = 100,
    steps_planned: int | None = None,
    evaluated: bool = True,
    status: Status = "finished",
    perplexity: float | None = None,
    learning_rate: float = 5e-3,
    data: str = "pycode",
    parent: RunFolder | None = None,
    test: float | None = None,
    **settings: object,
) -> RunFolder:
    """Write a run's folder below ``folder``; ``settings`` are further keys of ``config.model``.

    ``perplexity`` is the validation perplexity in its record, ``test`` the test perplexity.
    """
    parts = [model, backbone, size, str(ctx), str(seed), *map(str, settings.values())]
    parts += [f"lr{learning_rate:g}"] * (learning_rate != 5e-3) + [data] * (data != "pycode") + ["child"] * bool(parent)
    name = "-".join(parts)
    run = RunFolder(folder / name)
    record = make_record(name, model, backbone, size, ctx, seed, steps, steps_planned or steps, status, **settings)
    record["config"]["recipe"]["learning_rate"] = learning_rate
    record["data"]["name"] = record["config"]["data"]["name"] = data
    record["training_flops"] = flops(model, size, ctx) * (steps_planned or steps) * TOKENS_PER_STEP
    if parent is not None:
        record["config"]["parent"] = {
            "run": "x",
            "run_id": parent.path.name,
            "steps": 9,
            "settings": "s",
            "weights": "w",
        }
    if perplexity is not None:
        record["results"]["validation"] = evaluation(perplexity)
    if test is not None:
        record["results"]["test"] = evaluation(test)
    record["label"] = label_of_plain(record["config"]).to_plain()
    write_record(run.record, record)
    log = MetricLog(name, run.metrics)
    # Runs of one seed read the same data in the same order, so they share the noise of each step's text.
    text, own = np.random.default_rng(seed), np.random.default_rng(zlib.crc32(name.encode()))
    floor, slope = METHODS.get((model, backbone), (3.2, 0.4))
    floor += {"w64": 0.6, "w128": 0.3}.get(size, 0.0) + own.normal(0, 0.02)
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


def flops(model: str, size: str, ctx: int) -> float:
    """Return training FLOPs per token of a realistic magnitude, which grow with the context for attention."""
    growth = ctx / 4096 if model == "transformer" else 0.1
    return {"w64": 1.2e6, "w128": 3e6, "w192": 8e6}.get(size, 1e9) * (1 + growth)


def make_context_gain(
    run: RunFolder,
    ctx: int,
    loss: float = 3.0,
    gain: float = 0.02,
    foreign: float = -0.01,
    longest: int = 2048,
    documents: int = 12,
    noise: float = 0.01,
    targets: str = "abc",
    steps: int = 8,
) -> RunFolder:
    """Write the losses by context of a probed run, up to its context ``ctx``.

    ``loss`` is of the shortest context. Each doubling of the window gains ``gain``, of another document ``foreign``.
    Documents differ by up to ``noise`` per doubling, the same in all runs.
    """
    rows, width = [], 512
    while width <= min(ctx, longest):
        doublings = math.log2(width / 512)
        cases = {"own": gain} | ({"foreign": foreign, "shuffled": gain / 2} if doublings else {})
        for document in range(documents):
            own = noise * math.sin(17 * document + 1)
            rows += [
                Loss(
                    targets,
                    longest,
                    document,
                    width - 256,
                    control,
                    loss + own - (step + own * (control == "own")) * doublings,
                    2,
                )
                for control, step in cases.items()
            ]
        width *= 2
    write_context_gain(run.context_gain, run.path.name, "validation", steps, rows)
    return run


def make_documents(run: RunFolder, split: Split = "validation", documents: int = 12, windows: str = "abc") -> RunFolder:
    """Write losses by document of the run's result on a split; documents have 10, 20, ... tokens.

    Documents differ by up to 1 nat/token, the same in all runs, and each run's by 1% of its loss besides.
    """
    record = read_record(run.record)
    number = np.arange(documents)
    tokens = 10 * (number + 1)
    own = 1 + 0.01 * np.sin(zlib.crc32(run.path.name.encode()) + 7 * number)
    per_token = record["results"][split]["loss"] * own + np.sin(17 * number)
    per_token += record["results"][split]["loss"] - (per_token * tokens).sum() / tokens.sum()
    steps, name = record["steps"], run.path.name
    write_document_losses(run.documents, name, split, steps, windows, number, per_token * tokens, tokens)
    return run


def make_answering(
    folder: Path,
    model: str,
    accuracy: float,
    seed: int = 0,
    pairs: int = 12,
    state: int = 4096,
    rate: float = 5e-3,
    heads: int = 1,
) -> RunFolder:
    """Write a run on associative recall in Mamba's backbone, whose loss falls with the share of its right answers."""
    loss = 3 - 2 * accuracy
    run = make_run(
        folder / f"{pairs}-{state}-{heads}", model, "mamba", "w64", 64, seed, 8, perplexity=math.exp(loss),
        evaluated=False, learning_rate=rate, data="mqar",
    )  # fmt: skip
    record = read_record(run.record)
    record["run_id"] = f"{run.path.parent.name}-{run.path.name}"
    record["config"]["data"] |= {"source": "mqar", "pairs": pairs}
    record["data"]["digest"] = f"{pairs:064}"
    record["results"]["validation"]["accuracy"] = accuracy
    record["measurements"] = {"state_size": float(state)}
    write_record(run.record, record)
    return run if heads == 1 else departing(run, heads=heads)


def make_needle(run: RunFolder, lengths: tuple[int, ...] = (128, 256, 512), steps: int = 30) -> RunFolder:
    """Write the right answers about planted lines of a probed run: fewer the longer the text and the earlier the line.

    None is right on the task with variables.
    """
    found = [
        Found("abc", task, length, depth, 16, 0.0 if task == "variable" else 0.5 * depth + 32 / length, 2.0)
        for task in ("single", "several", "variable")
        for length in lengths
        for depth in (0.0, 0.5, 1.0)
    ]
    write_needle(run.needle, run.path.name, "validation", steps, found)
    return run


def departing(run: RunFolder, **size: object) -> RunFolder:
    """Give a run other settings of its size, and the label of such a run."""
    record = read_record(run.record)
    record["config"]["size"] |= size
    record["label"] = label_of_plain(record["config"]).to_plain()
    write_record(run.record, record)
    return run


def make_copying(folder: Path, copies: Callable[[str], bool]) -> None:
    """Write the losses on repeated text into the records of all runs in ``folder``; ``copies`` takes a run's name."""
    for run in map(RunFolder, folder.iterdir()):
        losses = {FIRST_LOSS: 3.0, REPEATED_LOSS: 2.75 if copies(run.path.name) else 3.0}
        write_record(run.record, {**read_record(run.record), "measurements": losses})


def make_probe(run: RunFolder, layers: int = 2, T: int = 64, split: Split = "validation", steps: int = 30) -> RunFolder:
    """Write the inner losses of a probed run, which fall with the position and rise with the layer.

    The losses are numbers per dimension; the file has sums over the dimensions.
    """
    factor = per_dimension(read_record(run.record)["config"])
    positions = np.arange(1, T + 1)
    learned = 4 + 12 / positions
    losses = {"loss_initial": np.full(T, 20.0), "loss_before": 1 + learned, "loss_after": learned}
    values = {name: value / factor for name, value in losses.items()}
    norms = {"update_norm": np.ones(T), "weight_norm": np.sqrt(positions)}
    seen = [{name: layer * value for name, value in (values | norms).items()} for layer in range(1, layers + 1)]
    write_inner_loss(run.inner_loss, run.path.name, split, steps, seen, sequences=8)
    return run


def make_elsewhere(run: RunFolder, ctx: int = 256, steps: int = 30) -> RunFolder:
    """Write an evaluation at another context, whose loss falls with the position."""
    name, record = f"pycode-{ctx}-validation-00000000", read_record(run.record)
    log, positions = MetricLog(run.path.name, run.evaluation(name)), range(1, ctx + 1)
    log.add_many("validation", steps, "loss", [4 + 1 / position for position in positions], "nats/token", positions)
    log.add_many("validation", steps, "sequences", [8] * ctx, "1", positions)
    log.write()
    judged: Judged = {"digest": "0" * 64, "ctx": ctx, "windows": "", "documents": 8}
    where: Evaluation = {**evaluation(60), "judged": judged, "step": steps, "data": "pycode", "split": "validation"}
    write_record(run.record, {**record, "evaluations": {name: where}})
    return run


def make_scores(run: RunFolder, score: float = 0.4, **more: Any) -> RunFolder:
    """Write scores on two tasks; ``more`` replaces their keys."""
    common: Any = {"documents": 100, "ctx": 512, "num_fewshot": 0, "version": "1.0", "harness": "0.4.13", "step": 30}
    better = {"perplexity": False, "acc": True, "acc_norm": True}
    piqa = {"acc": score, "acc_norm": score + 0.02}
    lambada = {"perplexity": 40 / score, "acc": score / 2}
    tasks = {
        name: {"task": name, "scores": scores, "errors": dict.fromkeys(scores, 0.02), "higher_is_better": better}
        for name, scores in (("piqa", piqa), ("lambada_openai", lambada))
    }
    record = read_record(run.record)
    record["tasks"] = {name: cast(Any, own | common | more) for name, own in tasks.items()}
    write_record(run.record, record)
    return run


def standard_model(model: str) -> dict[str, object]:
    """Return ``config.model``: the standard settings of a known layer, otherwise only its name."""
    return {"name": model} | standard("model", model)


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
        "error": "the loss became nan at step 7" if status == "diverged" else None,
        "config": {
            "model": standard_model(model) | settings,
            "size": {"name": size, "learning_rate": {"mamba": 1e-2, "transformer": 5e-3, "own": 1e-2}}
            | standard("size", size),
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
        "parameters": {"total": {"w64": 1000, "w128": 2000, "w192": 3000}.get(size, 9000), "embedding": 100},
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
    """Write a benchmark of the inner loop that times W and z separately; ``more`` replaces columns of its rows."""
    settings = {"width": 256, "heads": 4, "dtype": "float32", "rounds": 7}
    log = BenchmarkLog(folder, "inner", settings, threads=1)
    for b in sizes:
        seconds = {"W": 0.1 / b + 0.002, "z": 0.08 / b + 1e-5 * b}
        for measure, value in (seconds | {"total": sum(seconds.values())}).items():
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


LATENCY = {"ttt_linear": (2e-4, 0.0), "ttt_mlp": (4e-4, 0.0), "transformer": (1e-4, 2e-7), "mamba": (3e-4, 0.0)}
"""Model -> seconds per token, and additional seconds per token of context."""


def make_latency(
    folder: Path,
    latency: dict[str, tuple[float, float]] = LATENCY,
    contexts: tuple[int, ...] = (512, 2048, 8192, 16384),
    spread: float = 0.03,
) -> Path:
    """Write a benchmark of latency: training, prefill and decoding of each model, in the paper's backbone."""
    settings = {"width": 256, "heads": 4, "dtype": "float32", "rounds": 7, "batch": 1, "backbone": None}
    backbones = {"transformer": "transformer", "mamba": "own"}
    log = BenchmarkLog(folder, cast(Any, "latency"), settings, threads=1)
    for model, (flat, more) in latency.items():
        for tokens in contexts:
            per_token = flat + more * tokens
            for measure, value in {
                "train": 3 * tokens * per_token,
                "prefill": tokens * per_token,
                "decode": 2 * per_token,
            }.items():
                row = {"model": model, "form": None, "checkpoint_group": None, "tokens": tokens, "batch": 1}
                row["backbone"] = backbones.get(model, "mamba")
                row |= {"mini_batch_size": None, "measure": measure, "value": value, "unit": "s"}
                log.add([cast(Row, row | {"low": (1 - spread) * value, "high": (1 + spread) * value})])
    log.finish()
    return log.path


LAPTOP_METHODS = {
    ("ttt_linear", "mamba"): 0.0,
    ("ttt_mlp", "mamba"): 0.01,
    ("ttt_linear", "transformer"): 0.35,
    ("ttt_mlp", "transformer"): 0.25,
    ("transformer", "transformer"): 0.2,
    ("mamba", "own"): 0.05,
}
"""(model, backbone) -> difference of its loss from the best method's."""

LADDER_LOSSES = (4.5, 4.195, 4.195, 4.19, 4.126, 4.05, 4.0, 3.65)


def make_suite(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), steps: int = 8, noise: float = 0.03) -> None:
    """Write the runs that the figures need at laptop scale, with realistic numbers; a few diverged or stopped."""
    for size, base in {"w64": 4.5, "w128": 3.6, "w192": 2.95}.items():
        for ctx in (256, 512, 1024, 2048):
            both = ctx in (512, 2048)
            for (model, backbone), above in LAPTOP_METHODS.items():
                if both or (model, backbone) in METHODS:
                    for seed in seeds if size == "w128" else seeds[:1]:
                        loss = base + above - 0.03 * math.log2(ctx / 256) + noise * math.sin(17 * seed + 1)
                        run = make_run(
                            folder, model, backbone, size, ctx, seed, steps, perplexity=math.exp(loss), evaluated=both
                        )
                        if both and size == "w128":
                            make_context_gain(run, ctx, loss, 0.02 - 0.1 * above + 0.001 * seed)
                        if ctx == 512 and model == "transformer":
                            make_run(
                                folder,
                                model,
                                backbone,
                                size,
                                1024,
                                seed,
                                2,
                                perplexity=math.exp(loss - 0.1),
                                evaluated=False,
                                parent=run,
                            )
    make_ladder(folder, seeds, noise=noise)
    for b, loss in {1: 3.58, 4: 3.585, 64: 3.65, 512: 3.7}.items():
        for seed in seeds[:2]:
            loss += noise * math.sin(17 * seed + 1)
            probed = make_run(
                folder, seed=seed, steps=steps, perplexity=math.exp(loss), evaluated=False, mini_batch_size=b
            )
    make_probe(probed, T=512)
    make_run(folder, "mamba", "own", "w192", 2048, 1, 3, 8, evaluated=False, status="diverged", learning_rate=2e-2)
    make_run(folder, "ttt_mlp", "mamba", "w192", 2048, 1, 3, 8, evaluated=False, status="interrupted")
    make_run(folder, "transformer", "transformer", "w128", 512, 0, steps, perplexity=50.0, learning_rate=1e-2)
    make_benchmark(folder)
    make_latency(folder)


def make_ladder(
    folder: Path,
    seeds: tuple[int, ...] = (0, 1, 2),
    losses: tuple[float, ...] = LADDER_LOSSES,
    noise: float = 0.03,
    own_noise: float = 0.004,
    size: str = "w128",
) -> None:
    """Write runs of Table 1's rows with these losses, plus noise per seed (``noise``) and per run (``own_noise``)."""
    for number, loss in enumerate(losses, 1):
        model, backbone, row = table_1_row(number, 512)
        usual = standard("model", model)
        settings = {key: value for key, value in row.items() if value != usual[key]}
        for seed in seeds:
            own = 0 if number == 3 else own_noise * math.sin(31 * seed + 7 * number)
            perplexity = math.exp(loss + noise * math.sin(17 * seed + 1) + own)
            make_run(
                folder,
                model,
                backbone,
                size,
                seed=seed,
                steps=8,
                perplexity=perplexity,
                evaluated=False,
                **settings,
            )
