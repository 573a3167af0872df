"""Stages ``profile`` and ``sanitize``: NVIDIA's tools around single launches of the kernels."""

import csv
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ttt.bench.gpu.card import card
from ttt.bench.gpu.operators import Sizes, passes
from ttt.bench.gpu.tables import Table
from ttt.config.errors import UserError

PROFILED = ("linear_forward", "linear_backward", "mlp_forward_on_chip", "mlp_backward")

METRICS = re.compile(
    r"Duration|Registers Per Thread|Achieved Occupancy|Executed Ipc Active|No Eligible|L1/TEX Hit Rate|L2 Hit Rate|"
    r"Memory Throughput|Compute \(SM\) Throughput|Local Memory|Warp Cycles Per Issued Instruction"
)
"""Lines of Nsight Compute's report that are kept; the whole report is saved beside the table."""

CHECKED = ((64, 16), (24, 5))
"""D and b of the launches that compute-sanitizer checks; the second is padded in both."""

SANITIZERS = ("memcheck", "racecheck")
ERRORS = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard")

LAUNCH = (
    "import sys; from ttt.bench.gpu.tools import launch; launch(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "
    "int(sys.argv[4]))"
)


def launch(layer: str, D: int, b: int, tokens: int) -> None:
    """Launch every kernel of a layer once, in bf16, and wait for it: the program that the tools watch."""
    import torch

    for function in passes(Sizes(layer, "bf16", 1, 32, tokens, D, b), card()).values():
        function()
    torch.cuda.synchronize()


def profile(table: Table, folder: Path, seconds: float) -> None:
    """Add the metrics of four kernels.

    Raises:
        UserError: there is no card, or no Nsight Compute.
        RuntimeError: the profiler ended with an error.
    """
    card()
    ncu = _tool("ncu")
    for kernel in PROFILED:
        options = ["--csv", "--page", "details", "--set", "full", "--launch-count", "1"]
        command = [ncu, *options, "--kernel-name", f"regex:^{kernel}$", *_program(kernel, 64, 16, 256)]
        done = _run(command, seconds / len(PROFILED))
        (folder / f"profile-{kernel}.csv").write_text(done, encoding="utf-8")
        for metric, unit, value in reported(done):
            table.add(kernel=kernel, metric=metric, unit=unit, value=value)


def reported(report: str) -> Iterator[tuple[str, str, str]]:
    """Yield metric, unit and value of the kept lines of a report.

    Raises:
        RuntimeError: the report has no metrics; the message is its last line.
    """
    lines = report.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise RuntimeError(f"ncu: {lines[-1] if lines else 'no output'}")
    for line in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        if METRICS.search(line["Metric Name"] or ""):
            yield line["Metric Name"], line["Metric Unit"], line["Metric Value"]


def sanitize(table: Table, folder: Path, seconds: float) -> None:
    """Add the number of errors that each of NVIDIA's checks finds in the kernels of each layer.

    Raises:
        UserError: there is no card, or no compute-sanitizer.
        RuntimeError: a check found an error, or did not run.
    """
    card()
    tool, bad = _tool("compute-sanitizer"), 0
    runs = [(check, layer, D, b) for check in SANITIZERS for D, b in CHECKED for layer in ("linear", "mlp")]
    for check, layer, D, b in runs:
        report = _run([tool, "--tool", check, *_program(layer, D, b, 4 * b)], seconds / 2)
        (folder / f"sanitize-{check}-{layer}-{D}.txt").write_text(report, encoding="utf-8")
        errors = counted_errors(report)
        verdict = "right" if errors == 0 else "failed: no summary" if errors is None else "WRONG"
        bad += verdict != "right"
        shown = "" if errors is None else errors
        table.add(tool=check, kernels=layer, D=D, b=b, errors=shown, verdict=verdict)
    if bad:
        raise RuntimeError(f"{bad} of {len(runs)} checks found an error or did not run")


def counted_errors(report: str) -> int | None:
    """Return the number of errors in a report of compute-sanitizer, or None without a summary."""
    found = ERRORS.search(report)
    return int(found[1] or found[2]) if found else None


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UserError(f"{name} is not installed here; it comes with the CUDA toolkit")
    return path


def _program(kernel: str, D: int, b: int, tokens: int) -> list[str]:
    return [sys.executable, "-c", LAUNCH, kernel.partition("_")[0], str(D), str(b), str(tokens)]


def _run(command: Sequence[str], seconds: float) -> str:
    """Return what a command prints; one that takes longer is ended, and the text says so."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    return done.stdout + done.stderr
