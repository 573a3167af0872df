"""The Triton kernels, compiled ahead of time and counted: what each takes of a GPU, found without one.

Letters: T tokens, D head width, b mini-batch size.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from ttt.bench.columns import Column, markdown_lines, print_headings, print_line
from ttt.bench.devices import MODELLED
from ttt.config.bench import KernelBenchConfig
from ttt.config.errors import RunError, UserError, bad_value
from ttt.results.atomic import write_text
from ttt.results.benchmarks import BenchmarkLog, Row, read_benchmark
from ttt.results.provenance import versions

if TYPE_CHECKING:
    from ttt.kernels.triton.compile import Resources
    from ttt.kernels.triton.configurations import Configuration
    from ttt.kernels.triton.counts import Counts, Sizes

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

LAYERS = {"linear": 1, "mlp": 2}
"""What a kernel's name begins with, and the layers of its inner model."""

SMALL_SHARED = 99 * 1024
"""Bytes of shared memory that a program can have on sm_86 and sm_89, the least of all targets' since sm_80."""

BEGIN, END = "<!-- ttt-bench kernels: begin -->", "<!-- ttt-bench kernels: end -->"
"""The lines of a Markdown file between which the table goes."""

NOTES = f"""\
regs: registers of a thread. spilled: bytes of them that a thread stores to memory for want of room; in loops: of these,
  within the innermost loops that hold matrix products; not counted on AMD.
shared: bytes of shared memory of a program; * more than the {SMALL_SHARED // 1024} KB of sm_86 and sm_89.
Everything from FLOP on is counted, not measured, for each token and head; a backward pass with its recomputation,
  which stands in a line of its own too. device: bytes from and to device memory; x least: against every input read once
  and every output written once; L2: bytes that all loads and stores move. docs/kernels.md says what is assumed.
{", ".join(device.name for device in MODELLED)}: ns a token and head by the datasheet, a MODEL, NOT A MEASUREMENT: \
the later of matrix products
  at their peak and device memory at its, and nothing else."""


@dataclass(frozen=True)
class Line:
    """One kernel compiled for one target."""

    configuration: "Configuration"
    target: str
    dtype: str
    sizes: "Sizes"
    resources: "Resources"
    counts: "Counts"

    @property
    def rows(self) -> list[Row]:
        """Everything that is known of it, as the store has it."""
        taken, counted = self.resources, self.counts
        values: dict[str, tuple[float | None, str]] = {
            "registers": (taken.registers, "1"),
            "spilled": (taken.spilled, "B"),
            "spilled_in_loops": (taken.spilled_in_loops, "B"),
            "shared": (taken.shared, "B"),
            "flops": (counted.flops, "FLOP"),
            "device_bytes": (counted.device_bytes, "B"),
            "least_bytes": (counted.least_bytes, "B"),
            "l2_bytes": (counted.l2_bytes, "B"),
            "scratch": (counted.scratch, "B"),
        }
        for device in MODELLED:
            seconds = device.seconds(counted.flops, counted.device_bytes, self.dtype)
            values[f"model_{device.name}"] = (seconds, "s")
        return [self._row(measure, value, unit) for measure, (value, unit) in values.items() if value is not None]

    def _row(self, measure: str, value: float, unit: str) -> Row:
        return {
            "model": _layer(self.configuration),
            "form": "triton",
            "checkpoint_group": self.sizes.group,
            "tokens": self.sizes.tokens,
            "mini_batch_size": self.sizes.b,
            "batch": 1,
            "measure": measure,
            "value": value,
            "low": value,
            "high": value,
            "unit": unit,
            "kernel": self.configuration.kernel,
            "target": self.target,
            "dtype": self.dtype,
            "head_dim": self.sizes.D,
            "warps": self.configuration.num_warps,
            "stages": self.configuration.num_stages,
        }


IDENTITY = ("kernel", "target", "dtype", "head_dim", "mini_batch_size")
"""What tells the kernels of a benchmark apart, as ``Row`` has it."""

Columns = tuple[Column[Line], ...]

Job = tuple["Configuration", str, str, int, int]
"""Configuration, target, dtype, D and b."""


def bench_kernels(config: KernelBenchConfig) -> Path:
    """Compiles and counts; returns the benchmark's file.

    Raises:
        UserError: no such kernel or target, no Triton, or a file that cannot be written.
        RunError: a kernel that does not compile; everything else has been compiled and recorded.
    """
    _refuse_without_compiler()
    if config.markdown:
        _around(Path(config.markdown))
    columns = COLUMNS + (beside(Path(config.beside)) if config.beside else ())
    jobs = list(_jobs(config))
    log = BenchmarkLog(Path(config.runs), "kernels", asdict(config), torch.get_num_threads())
    triton_version = versions()["triton"]
    print(f"triton {triton_version}; compiled ahead of time and counted, nothing is run\n")
    print_headings(columns)
    lines, failures = [], []
    for job in tqdm(jobs, desc="kernels", leave=False, disable=None):
        try:
            line = _compiled(config, job)
        except RunError as error:
            failures.append(str(error))
            continue
        log.add(line.rows)
        # The bar makes way for the line.
        with tqdm.external_write_mode():
            print_line(columns, line)
        lines.append(line)
    print(f"\n{NOTES}")
    if config.markdown:
        _write_markdown(Path(config.markdown), columns, lines, triton_version)
    if failures:
        raise RunError(f"{len(failures)} of {len(jobs)} do not compile, the first: {failures[0]}")
    log.finish()
    return log.path


def _refuse_without_compiler() -> None:
    if find_spec("triton") is None:
        raise UserError("triton: not installed; it comes with pip install triton, on Linux")
    import ttt.kernels.triton.compile as compiler

    if compiler.interpreted():
        raise bad_value("TRITON_INTERPRET", 1, "interpreted kernels cannot be compiled; unset it")


def _jobs(config: KernelBenchConfig) -> Iterator[Job]:
    """Every kernel at every size for every target, those of one kernel together."""
    from ttt.kernels.triton.compile import gpu_target
    from ttt.kernels.triton.configurations import configurations
    from ttt.kernels.triton.counts import KERNELS

    for target in config.targets:
        gpu_target(target)
    for kernel in config.kernels:
        if kernel not in KERNELS:
            raise bad_value("kernels", kernel, f"choose from {', '.join(KERNELS)}")
    sizes = [(dtype, D, b) for dtype in config.dtype for D in config.head_dim for b in config.mini_batch_size]
    for dtype, D, b in sizes:
        by_target = {target: configurations(DTYPES[dtype], D, b, target=target) for target in config.targets}
        for kernel in config.kernels or KERNELS:
            for target, found in by_target.items():
                yield from ((each, target, dtype, D, b) for each in found if each.kernel == kernel)


def _compiled(config: KernelBenchConfig, job: Job) -> Line:
    from ttt.kernels.triton.compile import compile_resources
    from ttt.kernels.triton.counts import Sizes, count
    from ttt.kernels.triton.op import DEFAULT_GROUP

    configuration, target, dtype, D, b = job
    group = config.checkpoint_group or DEFAULT_GROUP[LAYERS[_layer(configuration)]]
    sizes = Sizes(D, 4 * D, b, DTYPES[dtype].itemsize, config.tokens, group)
    resources = compile_resources(configuration, target)
    return Line(configuration, target, dtype, sizes, resources, count(configuration.kernel, sizes))


def _layer(configuration: "Configuration") -> str:
    """Linear or mlp."""
    return configuration.kernel.partition("_")[0]


def _around(path: Path) -> tuple[str, str]:
    """What stands in a file before and after its table, the markers included.

    Raises:
        UserError: no such file, or one without the markers.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"{path}: needs one line {BEGIN} and one line {END}; the table goes between them")
    return text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]


def _write_markdown(path: Path, columns: Columns, lines: list[Line], triton_version: str) -> None:
    before, after = _around(path)
    heading = f"With triton {triton_version}; the last times are a model by datasheet, not a measurement."
    write_text(path, "\n".join([before, heading, "", *markdown_lines(columns, lines), after]))


def beside(path: Path) -> Columns:
    """A column with what an earlier benchmark, of another version of Triton, found spilled.

    Raises:
        UserError: the file is no benchmark of kernels.
    """
    earlier = read_benchmark(path)
    if earlier["kind"] != "kernels":
        raise bad_value("beside", path, f"a benchmark of {earlier['kind']}, not of kernels")
    spilled = {
        tuple(row.get(key) for key in IDENTITY): row["value"] for row in earlier["rows"] if row["measure"] == "spilled"
    }

    def cell(line: Line) -> str:
        value = spilled.get((line.configuration.kernel, line.target, line.dtype, line.sizes.D, line.sizes.b))
        return "" if value is None else f"{value:.0f}"

    return (Column(f"spilled, {earlier['versions']['triton']}", 14, cell),)


def _shared(line: Line) -> str:
    return f"{line.resources.shared}{'*' * (line.resources.shared > SMALL_SHARED)}"


def _ratio(line: Line) -> str:
    least = line.counts.least_bytes
    return f"{line.counts.device_bytes / least:.2f}" if least else ""


def _modelled(place: int) -> Column[Line]:
    def cell(line: Line) -> str:
        seconds = MODELLED[place].seconds(line.counts.flops, line.counts.device_bytes, line.dtype)
        return f"{1e9 * seconds:.3g}"

    return Column(f"{MODELLED[place].name} ns", 8, cell)


COLUMNS: Columns = (
    Column("kernel", 19, lambda line: line.configuration.kernel, left=True),
    Column("target", 7, lambda line: line.target, left=True),
    Column("dtype", 5, lambda line: line.dtype, left=True),
    Column("D", 3, lambda line: str(line.sizes.D)),
    Column("b", 3, lambda line: str(line.sizes.b)),
    Column("warps", 5, lambda line: str(line.configuration.num_warps)),
    Column("stages", 6, lambda line: str(line.configuration.num_stages)),
    Column("regs", 4, lambda line: str(line.resources.registers)),
    Column("spilled", 7, lambda line: str(line.resources.spilled)),
    Column(
        "in loops",
        8,
        lambda line: "" if line.resources.spilled_in_loops is None else f"{line.resources.spilled_in_loops}",
    ),
    Column("shared", 7, _shared),
    Column("FLOP", 9, lambda line: f"{line.counts.flops:,.0f}"),
    Column("device B", 9, lambda line: f"{line.counts.device_bytes:,.0f}"),
    Column("x least", 7, _ratio),
    Column("L2 B", 9, lambda line: f"{line.counts.l2_bytes:,.0f}"),
    *(_modelled(place) for place in range(len(MODELLED))),
)
