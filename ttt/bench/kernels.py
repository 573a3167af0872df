"""The resources and the work of the Triton kernels, compiled ahead of time without a GPU.

Letters: T tokens, D head width, b mini-batch size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from tqdm import tqdm

from ttt.bench.markers import Markers, around, write_between
from ttt.config.bench import KernelBenchConfig, recorded
from ttt.config.errors import RunError, UserError, bad_value
from ttt.config.gpus import GPU, MODELLED
from ttt.config.text_table import Column, markdown_lines, print_headings, print_line
from ttt.kernels.triton.counts import KERNELS, Counts, Sizes, count
from ttt.kernels.triton.sizes import KB, SMALL_SHARED
from ttt.results.benchmarks import BenchmarkLog, Row, read_benchmark
from ttt.results.provenance import versions

if TYPE_CHECKING:  # These modules import Triton, which may be missing.
    from ttt.kernels.triton.compile import Resources
    from ttt.kernels.triton.configurations import Configuration

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

LAYERS = {"linear": 1, "mlp": 2}
"""Prefix of a kernel's name -> layers of its inner model."""

MARKERS = Markers("<!-- ttt-bench kernels: begin -->", "<!-- ttt-bench kernels: end -->")
"""The lines of a Markdown file between which the table is written."""

NOTES = f"""\
regs: registers per thread. spilled: bytes of registers that a thread stores to
  memory for lack of room; in loops: of these, bytes within the innermost loops
  that contain matrix products; not counted on AMD.
shared: bytes of shared memory per program; * more than the {SMALL_SHARED // KB} KB of sm_86
  and sm_89. --wide shows all columns.
FLOP and all columns after it are counted, not measured, per token and head. A
  backward pass includes its recomputation, which also has a line of its own.
  device: bytes from and to device memory; x least: ratio to reading every input
  once and writing every output once; L2: bytes of all loads and stores.
  docs/kernels.md lists the assumptions.
{", ".join(device.name for device in MODELLED)}: ns per token and head by the datasheet, a MODEL, NOT A
  MEASUREMENT: the larger of the times of matrix products and of device memory,
  each at its peak."""


class Job(NamedTuple):
    """A kernel to compile: configuration, target, type of the views, D and b."""

    configuration: "Configuration"
    target: str
    dtype: str
    D: int
    b: int


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel compiled for one target: one line of the table."""

    job: Job
    sizes: Sizes
    resources: "Resources"
    counts: Counts

    @property
    def kernel(self) -> str:
        """Name of the kernel."""
        return self.job.configuration.kernel

    def seconds(self, device: GPU) -> float:
        """Return the modelled time on a device, per token and head."""
        return device.seconds(self.counts.flops, self.counts.device_bytes, self.job.dtype)

    @property
    def rows(self) -> list[Row]:
        """Rows of the benchmark's file, one per measure."""
        resources, counts = self.resources, self.counts
        values: dict[str, tuple[float | None, str]] = {
            "registers": (resources.registers, "1"),
            "spilled": (resources.spilled, "B"),
            "spilled_in_loops": (resources.spilled_in_loops, "B"),
            "shared": (resources.shared, "B"),
            "flops": (counts.flops, "FLOP"),
            "device_bytes": (counts.device_bytes, "B"),
            "least_bytes": (counts.least_bytes, "B"),
            "l2_bytes": (counts.l2_bytes, "B"),
            "scratch": (counts.scratch, "B"),
        }
        values |= {f"model_{device.name}": (self.seconds(device), "s") for device in MODELLED}
        return [self._row(measure, value, unit) for measure, (value, unit) in values.items() if value is not None]

    def _row(self, measure: str, value: float, unit: str) -> Row:
        configuration = self.job.configuration
        return {
            "model": _layer(configuration),
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
            "kernel": configuration.kernel,
            "target": self.job.target,
            "dtype": self.job.dtype,
            "head_dim": self.sizes.D,
            "warps": configuration.num_warps,
            "stages": configuration.num_stages,
        }


IDENTITY = ("kernel", "target", "dtype", "head_dim", "mini_batch_size")
"""Keys of ``Row`` that identify a compiled kernel of a benchmark."""

Columns = tuple[Column[CompiledKernel], ...]


def bench_kernels(config: KernelBenchConfig) -> Path:
    """Compile and count the kernels, print the table, and return the path of the benchmark's file.

    With ``config.warm``, fill a Triton cache instead, and return its folder.

    Raises:
        UserError: an unknown kernel or target, no Triton, or a file that cannot be written.
        RunError: a kernel does not compile; all others have been compiled and recorded.
    """
    _refuse_without_compiler()
    if config.markdown:
        around(Path(config.markdown), MARKERS)
    more = beside(Path(config.beside)) if config.beside else ()
    columns = COLUMNS + more
    printed = columns if config.wide else narrow(more)
    jobs = list(_jobs(config))
    if config.warm:
        return _fill_cache(Path(config.warm), jobs)
    log = BenchmarkLog(Path(config.runs), "kernels", recorded(config), torch.get_num_threads())
    triton_version = versions()["triton"]
    print(f"triton {triton_version}; kernels are compiled ahead of time and counted, not run\n")
    print_headings(printed)
    lines, failures = [], []
    for job in tqdm(jobs, desc="kernels", leave=False, disable=None):
        try:
            line = _compiled(config, job)
        except RunError as error:
            failures.append(str(error))
            continue
        log.add(line.rows)
        # Without this the line would overwrite the progress bar.
        with tqdm.external_write_mode():
            print_line(printed, line)
        lines.append(line)
    print(f"\n{NOTES}")
    if config.markdown:
        heading = f"With triton {triton_version}; the last times are a model by datasheet, not a measurement."
        write_between(Path(config.markdown), MARKERS, [heading, "", *markdown_lines(columns, lines)])
    if failures:
        raise RunError(f"{len(failures)} of {len(jobs)} kernels do not compile, the first: {failures[0]}")
    log.finish()
    return log.path


def _fill_cache(folder: Path, jobs: list[Job]) -> Path:
    """Compile everything that a launch may use into a Triton cache, print a line for each kernel, return the folder."""
    from ttt.kernels.triton.compile import compile_into
    from ttt.kernels.triton.configurations import launched

    done = set[tuple[object, ...]]()
    for job in jobs:
        layer = _layer(job.configuration)
        for configuration in launched(DTYPES[job.dtype], job.D, job.b, layer, job.target):
            known = (configuration.key, job.target)
            if configuration.kernel == job.configuration.kernel and known not in done:
                compile_into(folder, configuration, job.target)
                done.add(known)
                shown = ", ".join(f"{name}={value}" for name, value in configuration.constexprs.items())
                line = f"{configuration.kernel} {job.target} {job.dtype} {shown}, {configuration.num_warps} warps"
                print(line, flush=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{len(done)} kernels, {size / 2**20:.1f} MiB; use them with TRITON_CACHE_DIR={folder}")
    return folder


def _refuse_without_compiler() -> None:
    if find_spec("triton") is None:
        raise UserError("triton: not installed; install it with pip install triton, on Linux")
    import ttt.kernels.triton.compile as compiler

    if compiler.interpreted():
        raise bad_value("TRITON_INTERPRET", 1, "interpreted kernels cannot be compiled; unset it")


def _jobs(config: KernelBenchConfig) -> Iterator[Job]:
    """Yield every kernel at every size for every target, ordered by kernel."""
    from ttt.kernels.triton.compile import gpu_target
    from ttt.kernels.triton.configurations import configurations

    for target in config.targets:
        gpu_target(target)
    for kernel in config.kernels:
        if kernel not in KERNELS:
            raise bad_value("kernels", kernel, f"choose from {', '.join(KERNELS)}")
    sizes = [(dtype, D, b) for dtype in config.dtype for D in config.head_dim for b in config.mini_batch_size]
    for dtype, D, b in sizes:
        by_target = {target: configurations(DTYPES[dtype], D, b, target=target) for target in config.targets}
        for kernel in config.kernels or KERNELS:
            for target, compiled in by_target.items():
                yield from (Job(one, target, dtype, D, b) for one in compiled if one.kernel == kernel)


def _compiled(config: KernelBenchConfig, job: Job) -> CompiledKernel:
    from ttt.kernels.triton.compile import compile_resources
    from ttt.kernels.triton.sizes import DEFAULT_GROUP

    group = config.checkpoint_group or DEFAULT_GROUP[LAYERS[_layer(job.configuration)]]
    sizes = Sizes(job.D, 4 * job.D, job.b, DTYPES[job.dtype].itemsize, config.tokens, group)
    resources = compile_resources(job.configuration, job.target)
    return CompiledKernel(job, sizes, resources, count(job.configuration.kernel, sizes))


def _layer(configuration: "Configuration") -> str:
    """Return the prefix of the kernel's name: linear or mlp."""
    return configuration.kernel.partition("_")[0]


def beside(path: Path) -> Columns:
    """Return a column with the spilled bytes from an earlier benchmark, with another version of Triton.

    Raises:
        UserError: the file is not a benchmark of kernels.
    """
    earlier = read_benchmark(path)
    if earlier["kind"] != "kernels":
        raise bad_value("beside", path, f"a benchmark of {earlier['kind']}, not of kernels")
    spilled = {
        tuple(row.get(key) for key in IDENTITY): row["value"] for row in earlier["rows"] if row["measure"] == "spilled"
    }

    def cell(line: CompiledKernel) -> str:
        value = spilled.get((line.kernel, line.job.target, line.job.dtype, line.sizes.D, line.sizes.b))
        return "" if value is None else f"{value:.0f}"

    return (Column(f"spilled, {earlier['versions']['triton']}", 14, cell),)


def _in_loops(line: CompiledKernel) -> str:
    spilled = line.resources.spilled_in_loops
    return "" if spilled is None else str(spilled)


def _shared(line: CompiledKernel) -> str:
    return f"{line.resources.shared}{'*' * (line.resources.shared > SMALL_SHARED)}"


def _ratio(line: CompiledKernel) -> str:
    least = line.counts.least_bytes
    return f"{line.counts.device_bytes / least:.2f}" if least else ""


def _modelled(device: GPU) -> Column[CompiledKernel]:
    return Column(f"{device.name} ns", 8, lambda line: f"{1e9 * line.seconds(device):.3g}")


COLUMNS: Columns = (
    Column("kernel", 19, lambda line: line.kernel, left=True),
    Column("target", 7, lambda line: line.job.target, left=True),
    Column("dtype", 5, lambda line: line.job.dtype, left=True),
    Column("D", 3, lambda line: str(line.sizes.D)),
    Column("b", 3, lambda line: str(line.sizes.b)),
    Column("warps", 5, lambda line: str(line.job.configuration.num_warps)),
    Column("stages", 6, lambda line: str(line.job.configuration.num_stages)),
    Column("regs", 4, lambda line: str(line.resources.registers)),
    Column("spilled", 7, lambda line: str(line.resources.spilled)),
    Column("in loops", 8, _in_loops),
    Column("shared", 7, _shared),
    Column("FLOP", 9, lambda line: f"{line.counts.flops:,.0f}"),
    Column("device B", 9, lambda line: f"{line.counts.device_bytes:,.0f}"),
    Column("x least", 7, _ratio),
    Column("L2 B", 9, lambda line: f"{line.counts.l2_bytes:,.0f}"),
    *map(_modelled, MODELLED),
)

NARROW = ("kernel", "target", "dtype", "D", "b", "warps", "stages", "regs", "spilled", "shared")
"""Headings of the columns that are printed without ``--wide``, in 80 characters."""


def narrow(more: Columns) -> Columns:
    """Return the columns that fit a line of 80 characters; ``more``, if any, takes the place of warps and stages."""
    left_out = ("warps", "stages") if more else ()
    return (*(column for column in COLUMNS if column.heading in NARROW and column.heading not in left_out), *more)
