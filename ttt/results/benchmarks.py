"""A benchmark's file, ``benchmark.json``: measurements, the machine and the code.

Each benchmark has its own folder in the folder of results, where ``load_results`` reads it beside the runs.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, cast

from ttt.config.errors import UserError
from ttt.config.schema import Resolved
from ttt.results.atomic import write_text
from ttt.results.machine import Machine, describe_machine
from ttt.results.provenance import git_state, versions
from ttt.results.record import GitState
from ttt.results.versioned import read_versioned

SCHEMA_VERSION = 1
BENCHMARK_FILE = "benchmark.json"

Kind = Literal["inner", "model", "kernels", "latency"]


class Row(TypedDict):
    """One measurement, or one count of a compiled kernel.

    Attributes:
        model: the inner model, or the language model's layer.
        form: the kernel that computed the inner loop; None where it has no influence.
        checkpoint_group: ``kernel.checkpoint_group``; None where it has no influence, or for the kernel's own choice.
        tokens: length of the sequences; for ``decode`` the tokens read before.
        mini_batch_size: None for a layer that has none.
        batch: sequences at once.
        measure: forward, forward_backward, W, z, decode (s); the first two with _speedup (1), _tokens_per_second
            (tokens/s) and _share (1); peak_memory (B); matmul (FLOP/s). Of ``ttt-bench latency`` train, prefill, decode
            and inner_forward, inner_train, inner_decode (s), each with _tokens_per_second, train and prefill with
            _memory (B), the last three with _bandwidth (B/s) and _of_bound (1). Of ``ttt-bench kernels`` registers (1),
            spilled, spilled_in_loops, shared, scratch (B); and, per token and head, flops (FLOP), device_bytes,
            least_bytes, l2_bytes (B) and model_<device> (s), a modelled time, not a measured one.
        value: the median over rounds, in ``unit``.
        low: the lower quartile.
        high: the upper quartile.
        unit: s, 1, tokens/s, B, B/s, FLOP or FLOP/s.
        backbone: of the language model; None where there is no model. Older files have one for all rows,
            ``settings.backbone``.
        kernel: name of a compiled kernel; only such rows have this key and the following.
        target: the architecture it was compiled for.
        dtype: of its views; bf16, fp16 or fp32.
        head_dim: D.
        warps: of a program.
        stages: of its software pipeline.
    """

    model: str
    form: str | None
    checkpoint_group: int | None
    tokens: int
    mini_batch_size: int | None
    batch: int
    measure: str
    value: float
    low: float
    high: float
    unit: str
    backbone: NotRequired[str | None]
    kernel: NotRequired[str]
    target: NotRequired[str]
    dtype: NotRequired[str]
    head_dim: NotRequired[int]
    warps: NotRequired[int]
    stages: NotRequired[int]


class Benchmark(TypedDict):
    """``benchmark.json``. ``settings`` is the whole configuration; times are ISO 8601 UTC, ``ended`` None before it."""

    schema_version: int
    benchmark_id: str
    kind: Kind
    settings: Resolved
    versions: dict[str, str]
    git: GitState | None
    machine: Machine
    started: str
    ended: str | None
    rows: list[Row]


class BenchmarkLog:
    """A benchmark while it is measured. Its file is complete after every ``add``, so that a kill loses no earlier row.

    Args:
        folder: the folder of results, in which the benchmark makes its own.
        kind: the command of ``ttt-bench``.
        settings: the configuration.
        threads: CPU threads in use.
        gpu: name of the GPU in use.

    Attributes:
        path: the file.
    """

    def __init__(self, folder: Path, kind: Kind, settings: Resolved, threads: int, gpu: str | None = None) -> None:
        started = datetime.now(UTC)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        # With the time, a repetition does not replace the benchmark that it repeats.
        benchmark_id = f"bench-{kind}-{digest}-{started:%Y%m%d-%H%M%S-%f}"
        self.path = folder / benchmark_id / BENCHMARK_FILE
        self._benchmark: Benchmark = {
            "schema_version": SCHEMA_VERSION,
            "benchmark_id": benchmark_id,
            "kind": kind,
            "settings": settings,
            "versions": versions(),
            "git": git_state(),
            "machine": describe_machine(threads, gpu),
            "started": started.isoformat(),
            "ended": None,
            "rows": [],
        }
        self._write()

    @property
    def machine(self) -> Machine:
        """The machine of the benchmark."""
        return self._benchmark["machine"]

    def add(self, rows: list[Row]) -> None:
        """Add measurements and write the file.

        Raises:
            UserError: the file cannot be written.
        """
        self._benchmark["rows"] += rows
        self._write()

    def finish(self) -> None:
        """Note the end and write the file."""
        self._benchmark["ended"] = datetime.now(UTC).isoformat()
        self._write()

    def _write(self) -> None:
        write_text(self.path, json.dumps(self._benchmark, indent=2) + "\n")


def read_benchmark(path: Path) -> Benchmark:
    """Return the benchmark in the file ``path``.

    Raises:
        UserError: the file is missing, is no benchmark, or lacks a required key.
    """
    hint, remedy = f"a benchmark is one {BENCHMARK_FILE}", "restore or remove its folder"
    benchmark = read_versioned(path, SCHEMA_VERSION, Benchmark.__required_keys__, "a benchmark", hint, remedy)
    for row in benchmark["rows"] if isinstance(benchmark["rows"], list) else [None]:
        missing = sorted(Row.__required_keys__ - (row.keys() if isinstance(row, dict) else set()))
        if missing:
            raise UserError(f"{path}: lacks {', '.join(missing)}; {remedy}")
    return cast(Benchmark, benchmark)
