"""Latency of whole models and of the Triton kernels alone: training, prefill and decoding of one token.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ttt.bench.case import Setting, Variant
from ttt.bench.clock import Clock, choose_device, clock_of, device_name
from ttt.bench.columns import Column, print_headings, print_line
from ttt.bench.devices import device_named
from ttt.bench.inner import HIDDEN, INIT_STD
from ttt.bench.model import Layers, random_model
from ttt.bench.table import Line
from ttt.bench.timing import Measurement, Spread, alternate, spread
from ttt.config.bench import LatencyBenchConfig
from ttt.config.errors import bad_value
from ttt.config.layers import TTTConfig
from ttt.config.schema import KernelConfig, LayerConfig
from ttt.inner.eta import token_scale
from ttt.inner.loop import InnerLoop
from ttt.inner.models.registry import make_inner_model
from ttt.kernels.dispatch import KERNELS, choose_form
from ttt.models.language_model import token_losses
from ttt.results.benchmarks import BenchmarkLog, Row

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

MINI_BATCH_SIZE = 16
"""The paper's b, of the kernels alone."""

LINES = {
    "train": "forward + backward",
    "prefill": "prefill",
    "decode": "one more token",
    "inner_train": "kernels, both passes",
    "inner_forward": "kernel, forward",
    "inner_decode": "kernel, one token",
}
"""Measures of times, and the name that each has in the table."""

NOTES = """\
ms: median over rounds after one that does not count, and quartiles; in every round all forms take turns
one more token: read alone, after as many as stand under tokens; its ms are of one token of each sequence
GB/s: counted bytes of device memory over the time; of bound %: the time that the device's datasheet allows for what
  was counted, over the measured time. `ttt-bench kernels` shows the counts."""


class Task(NamedTuple):
    """Something to time.

    Attributes:
        measure: what takes the time; its key in the measurement and in ``LINES``.
        measurement: takes it.
        tokens: tokens that are read in that time, of all sequences.
        moved: bytes from and to device memory; None where they are not counted.
        flops: FLOPs of matrix products, likewise.
    """

    measure: str
    measurement: Measurement
    tokens: int
    moved: float | None = None
    flops: float = 0.0


@dataclass(frozen=True)
class Subject:
    """What is timed in one setting and form; ``variant`` is None for a layer without an inner loop."""

    setting: Setting
    variant: Variant | None
    tasks: list[Task]


def bench_latency(config: LatencyBenchConfig, layers: Layers) -> Path:
    """Times models and kernels; returns the benchmark's file.

    Args:
        config: the benchmark.
        layers: the configurations of ``config.models`` at all of ``config.tokens``.

    Raises:
        UserError: a device, form or model that is not there, or a file that cannot be written.
    """
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    _refuse_what_cannot_be(config, layers, device)
    log = BenchmarkLog(Path(config.results), "latency", asdict(config), config.threads, device_name(device))
    print(
        f"{device_name(device) or log.machine['cpu']}, torch {torch.__version__}, {config.dtype}, B = {config.batch}\n"
    )
    print_headings(COLUMNS)
    for tokens in config.tokens:
        subjects = list(_subjects(config, layers, tokens, device))
        for rows in measured(subjects, config, device):
            log.add(rows)
            by_measure = {row["measure"]: row for row in rows}
            for measure in LINES:
                if measure in by_measure:
                    print_line(COLUMNS, Line(measure, by_measure))
    print(f"\n{NOTES}")
    log.finish()
    return log.path


def _refuse_what_cannot_be(config: LatencyBenchConfig, layers: Layers, device: torch.device) -> None:
    """Builds everything once without memory, before anything is measured or written."""
    for form in config.forms:
        if form not in KERNELS:
            raise bad_value("forms", form, f"choose from {', '.join(KERNELS)}")
    with torch.device("meta"):
        for layer in layers.values():
            for variant in _variants(config, layer):
                random_model(config, layer, variant, torch.float32)
    if config.inner and device.type == "cuda":
        choose_form(KernelConfig("triton"), InnerLoop(make_inner_model("linear", config.width, (), "gelu", True)))


def _variants(config: LatencyBenchConfig, layer: LayerConfig) -> list[Variant]:
    """Every form with every group; a layer without an inner loop is the same in all of them."""
    found = [Variant(form, group) for form in config.forms for group in config.checkpoint_group]
    return found if isinstance(layer, TTTConfig) else found[:1]


def _subjects(config: LatencyBenchConfig, layers: Layers, tokens: int, device: torch.device) -> Iterator[Subject]:
    clock = clock_of(device)
    with device:
        for name in config.models:
            layer = layers[name, tokens]
            setting = Setting(name, tokens, getattr(layer, "mini_batch_size", None), config.batch)
            for variant in _variants(config, layer):
                tasks = list(model_tasks(config, layer, variant, tokens, clock))
                yield Subject(setting, variant if isinstance(layer, TTTConfig) else None, tasks)
        if config.inner and device.type == "cuda":
            for name in HIDDEN:
                whole = tokens // MINI_BATCH_SIZE * MINI_BATCH_SIZE
                if whole:
                    setting = Setting(name, whole, MINI_BATCH_SIZE, config.batch)
                    variant = Variant("triton", config.checkpoint_group[0])
                    yield Subject(setting, variant, list(kernel_tasks(config, name, whole, clock)))


def measured(subjects: list[Subject], config: LatencyBenchConfig, device: torch.device) -> Iterator[list[Row]]:
    """The rows of every subject, all timed in turn."""
    tasks = dict(enumerate(subjects))
    measurements = {number: [task.measurement for task in subject.tasks] for number, subject in tasks.items()}
    with tqdm(total=len(subjects) * (config.rounds + 1), desc="latency", leave=False, disable=None) as bar:
        times = alternate(measurements, config.rounds, bar.update)
    for number, subject in tasks.items():
        rows = [_rows(subject, task, times[number, task.measure], config, device) for task in subject.tasks]
        yield [row for of_task in rows for row in of_task]


def _rows(
    subject: Subject, task: Task, seconds: list[float], config: LatencyBenchConfig, device: torch.device
) -> list[Row]:
    """A time, and what follows from it."""
    row = partial(subject.setting.row, subject.variant)

    def over(amount: float) -> Spread:
        return spread([amount / own for own in seconds])

    rows = [
        row(task.measure, spread(seconds), "s"),
        row(f"{task.measure}_tokens_per_second", over(task.tokens), "tokens/s"),
    ]
    if task.moved is not None:
        rows.append(row(f"{task.measure}_bandwidth", over(task.moved), "B/s"))
        known = device_named(device_name(device) or "")
        if known:
            bound = known.seconds(task.flops, task.moved, SHORT[config.dtype])
            rows.append(row(f"{task.measure}_of_bound", over(bound), "1"))
    return rows


def model_tasks(
    config: LatencyBenchConfig, layer: LayerConfig, variant: Variant, tokens: int, clock: Clock
) -> Iterator[Task]:
    """A training step's two passes, reading a prompt of ``tokens`` tokens, and reading further ones after it.

    Raises:
        UserError: a model that cannot be built.
    """
    model = random_model(config, layer, variant, torch.float32)
    parameters = list(model.parameters())
    windows = torch.randint(config.vocab, (config.batch, tokens + 1))
    mixed = partial(_autocast, config, windows.device)

    def train() -> object:
        with mixed():
            loss = token_losses(model, windows).mean()
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    @torch.no_grad()
    def prefill() -> dict[str, Tensor]:
        with mixed():
            _, state = model(windows[:, :-1], state={})
        return state

    if config.train:
        yield Task("train", clock("train", train), config.batch * tokens)
    yield Task("prefill", clock("prefill", prefill), config.batch * tokens)
    if not config.decode:
        return
    after, more = prefill(), torch.randint(config.vocab, (config.decode, config.batch, 1))

    @torch.no_grad()
    def decode() -> None:
        state = after
        with mixed():
            for ids in more:
                _, state = model(ids, state=state)

    yield Task("decode", _each(clock("decode", decode), config.decode), config.batch)


def _autocast(config: LatencyBenchConfig, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, DTYPES[config.dtype], enabled=config.dtype != "float32")


def _each(measure: Measurement, times: int) -> Measurement:
    """What one of ``times`` repetitions takes on average: every b-th token of a TTT layer does more."""

    def one() -> dict[str, float]:
        return {name: seconds / times for name, seconds in measure().items()}

    return one


def kernel_tasks(config: LatencyBenchConfig, name: str, tokens: int, clock: Clock) -> Iterator[Task]:
    """The Triton operators alone, on random views of ``tokens`` tokens, a multiple of ``MINI_BATCH_SIZE``.

    Args:
        config: the benchmark.
        name: linear or mlp.
        tokens: T.
        clock: what times them.
    """
    from ttt.kernels.triton import op
    from ttt.kernels.triton.configurations import Layer
    from ttt.kernels.triton.counts import Sizes, count

    B, H, D, b = config.batch, config.heads, config.width // config.heads, MINI_BATCH_SIZE
    model, group = make_inner_model(name, D, HIDDEN[name], "gelu", True), config.checkpoint_group[0] or 0
    torch.manual_seed(config.seed)
    W = tuple(w.float().expand(B, *w.shape) for w in model.initial(H, D, INIT_STD).values())
    q, k, v = torch.randn(3, B, tokens, H, D, dtype=DTYPES[config.dtype]).transpose(2, 3)
    eta, tau = torch.rand(B, H, tokens) / D, token_scale(torch.zeros(b))
    scale, shift = torch.ones(H, 1, D), torch.zeros(H, 1, D)
    leaves = [x.requires_grad_() for x in (*W, scale, shift, q, k, v, eta, tau)]
    upstream = torch.randn_like(q)

    def outputs() -> Tensor:
        return op.inner_loop(W, scale, shift, q, k, v, eta, tau, group)[0]

    def gradients() -> object:
        return torch.autograd.grad(outputs(), leaves, upstream)

    step = tuple(torch.zeros_like(w) for w in W)
    q_t, k_t, v_t, eta_t = (x[:, :, :1].detach() for x in (q, k, v, eta))

    def one_token() -> object:
        return op.decode_token(W, step, scale, shift, q_t, k_t, v_t, eta_t, tau, b // 2)

    sizes = Sizes(D, 4 * D, b, q.element_size(), tokens, group or op.DEFAULT_GROUP[len(W) // 2])
    layer = Layer(q.dtype, D, b, 4 * D if len(W) == 4 else 0)
    launched = (layer.forward(keeps=True), layer.backward(), layer.decode(begun=True, ends=False))
    forward, backward, decoding = (count(configuration.kernel, sizes) for configuration in launched)
    read = B * tokens
    if config.train:
        both = H * read * (forward.device_bytes + backward.device_bytes)
        flops = H * read * (forward.flops + backward.flops)
        yield Task("inner_train", clock("inner_train", gradients), read, both, flops)
    # Without a backward pass no W is kept, and nothing but inputs and outputs moves.
    moved, flops = H * read * forward.least_bytes, H * read * forward.flops
    yield Task("inner_forward", clock("inner_forward", _silent(outputs)), read, moved, flops)
    moved, flops = B * H * decoding.device_bytes, B * H * decoding.flops
    yield Task("inner_decode", clock("inner_decode", _silent(one_token)), B, moved, flops)


def _silent(work: Callable[[], object]) -> Callable[[], object]:
    """Without derivatives."""
    return torch.no_grad()(work)


def _group(row: Row) -> str:
    return "" if row["checkpoint_group"] is None else str(row["checkpoint_group"])


def _text(suffix: str, text: Callable[[float], str]) -> Callable[[Line], str]:
    def cell(line: Line) -> str:
        row = line.derived(suffix)
        return text(row["value"]) if row else ""

    return cell


COLUMNS: tuple[Column[Line], ...] = (
    Column("model", 12, lambda line: line.time["model"], left=True),
    Column("tokens", 6, lambda line: str(line.time["tokens"])),
    Column("b", 4, lambda line: str(line.time["mini_batch_size"] or "")),
    Column("form", 6, lambda line: line.time["form"] or "", left=True),
    Column("group", 5, lambda line: _group(line.time)),
    Column("what", 20, lambda line: LINES[line.measure], left=True),
    Column("ms", 9, lambda line: f"{1e3 * line.time['value']:.3f}"),
    Column("quartiles", 17, lambda line: f"{1e3 * line.time['low']:.3f}-{1e3 * line.time['high']:.3f}"),
    Column("tokens/s", 11, _text("_tokens_per_second", lambda value: f"{value:,.0f}")),
    Column("GB/s", 6, _text("_bandwidth", lambda value: f"{value / 1e9:,.0f}")),
    Column("of bound %", 10, _text("_of_bound", lambda value: f"{100 * value:.1f}")),
)
