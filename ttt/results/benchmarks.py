"""A benchmark's file, ``benchmark.json``: measurements, machine and version of the code.

Each benchmark has a folder in the folder of runs; ``load_results`` reads it together with the runs.
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
from ttt.results.versioned import digest, read_versioned

SCHEMA_VERSION = 1
BENCHMARK_FILE = "benchmark.json"

PLAIN_SCAN = "plain scan"
"""``form`` of Mamba on a GPU without its authors' kernels, which is much slower."""

PLAIN_RECURRENCE = "plain PyTorch"
"""``form`` of later layers on a GPU where no package's kernels compute them: without the package, and in decoding."""

Kind = Literal["inner", "model", "kernels", "latency"]


class Row(TypedDict):
    """One measurement, or one count of a compiled kernel.

    Attributes:
        model: the inner model, or the language model's layer.
        form: the kernel that computed the inner loop, or on a GPU Mamba's scan; None if there is none. It is not called
            ``kernel``, which is the name of a compiled GPU kernel.
        checkpoint_group: of that kernel; None if there is none, or for the kernel's default.
        tokens: length of the sequences; for ``decode``, of the prompt.
        mini_batch_size: None for a layer without mini-batches.
        batch: number of sequences.
        measure: forward, forward_backward, decode (s), each with _speedup (1), _tokens_per_second (tokens/s) and _share
            (1); total, W, z (s): a forward pass with whole mini-batches, and its parts (older files have W and z
            without total, of mini-batches in chunks of at most 64 tokens); peak_memory (B); matmul (FLOP/s).
            ``ttt-bench latency``: train, prefill, decode and inner_forward, inner_train, inner_decode (s), each with
            _tokens_per_second; train and prefill also with _memory (B), the last three with _bandwidth (B/s) and
            _of_bound (1). ``ttt-bench kernels``: registers (1), spilled, spilled_in_loops, shared, scratch (B); and,
            per token and head, flops (FLOP), device_bytes, least_bytes, l2_bytes (B) and model_<device> (s), a
            modelled, not a measured time.
        value: the median over rounds, in ``unit``.
        low: the lower quartile.
        high: the upper quartile.
        unit: s, 1, tokens/s, B, B/s, FLOP or FLOP/s.
        backbone: of the language model; None for the inner loop only. In older files, ``settings.backbone`` holds for
            all rows.
        kernel: name of the compiled GPU kernel; other rows have neither this nor the following keys.
        target: the architecture that it was compiled for.
        dtype: dtype of the views; bf16, fp16 or fp32.
        head_dim: D.
        warps: warps per program.
        stages: stages of the software pipeline.
        remeasured: times that the row was measured again because it stood out (``ttt.bench.spikes``); absent: once.
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
    remeasured: NotRequired[int]


class Benchmark(TypedDict):
    """The content of ``benchmark.json``.

    ``settings`` is the whole configuration; times are ISO 8601 UTC, and ``ended`` is None until the end. ``sha256`` is
    the digest of all other keys; older files have none.
    """

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
    sha256: NotRequired[str]


class BenchmarkLog:
    """A benchmark in progress. Its file is written after every ``add``, so that a kill loses only later rows.

    Args:
        folder: the folder of runs, in which the benchmark creates its folder.
        kind: the kind of benchmark.
        settings: the configuration.
        threads: CPU threads in use.
        gpu: name of the GPU in use.

    Attributes:
        path: the file.
    """

    def __init__(self, folder: Path, kind: Kind, settings: Resolved, threads: int, gpu: str | None = None) -> None:
        started = datetime.now(UTC)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        # The time keeps a repetition from overwriting an earlier benchmark.
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

    def measured_again(self, rows: list[Row], times: int, replace: bool) -> None:
        """Mark the former rows of the same workload, kernel and measure, and write the file.

        Args:
            rows: the new measurement.
            times: the number of times that it was measured again.
            replace: put ``rows`` in the place of the former rows.

        Raises:
            UserError: the file cannot be written.
        """
        new = {_place(row): row for row in rows}
        former = self._benchmark["rows"]
        for number, row in enumerate(former):
            if _place(row) in new:
                former[number] = {**(new[_place(row)] if replace else row), "remeasured": times}
        self._write()

    def finish(self) -> None:
        """Mark the benchmark as finished."""
        self._benchmark["ended"] = datetime.now(UTC).isoformat()
        self._write()

    def _write(self) -> None:
        self._benchmark["sha256"] = digest(self._benchmark)
        write_text(self.path, json.dumps(self._benchmark, indent=2) + "\n")


def _place(row: Row) -> tuple[object, ...]:
    keys = ("model", "backbone", "form", "checkpoint_group", "tokens", "mini_batch_size", "batch", "measure")
    return tuple(row.get(key) for key in keys)


def read_benchmark(path: Path) -> Benchmark:
    """Read the benchmark in the file ``path``.

    Raises:
        UserError: the file is missing, is not a benchmark, or was written by a newer version of this package.
    """
    hint, remedy = f"a benchmark is one {BENCHMARK_FILE}", "restore or remove its folder"
    benchmark = read_versioned(path, SCHEMA_VERSION, Benchmark.__required_keys__, "a benchmark", hint, remedy)
    for row in benchmark["rows"] if isinstance(benchmark["rows"], list) else [None]:
        missing = sorted(Row.__required_keys__ - (row.keys() if isinstance(row, dict) else set()))
        if missing:
            raise UserError(f"{path}: lacks {', '.join(missing)}; {remedy}")
    return cast(Benchmark, benchmark)
