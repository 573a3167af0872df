"""Stage ``latency``: ``ttt-bench latency`` at the paper's size, each time printed and saved as it comes."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ttt.bench.gpu.card import card
from ttt.bench.gpu.tables import Table
from ttt.bench.table import LINES
from ttt.config.errors import UserError
from ttt.results.benchmarks import BENCHMARK_FILE, read_benchmark

OPTIONS = ("scale=paper", "device=cuda", "turns=false", "rounds=2", "memory=false", "decode=16")
ENOUGH = 0.9
"""Share of the stage's time after which the benchmark is ended, to leave time for its table."""


def latency(table: Table, folder: Path, seconds: float) -> None:
    """Run the benchmark, and add its times.

    Raises:
        UserError: there is no card, or Hydra is missing.
        RuntimeError: the benchmark failed before its limit.
    """
    card()
    if find_spec("hydra") is None:
        raise UserError("hydra-core, which reads the settings of ttt-bench, is not installed here")
    command = [sys.executable, "-m", "ttt.cli.bench", "latency", *OPTIONS, f"runs={folder / 'latency'}"]
    code = 0
    try:
        code = subprocess.run(command, timeout=ENOUGH * seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"latency: ended after {ENOUGH * seconds:.0f} s; the times so far are saved", flush=True)
    add_times(table, folder / "latency")
    if code:
        raise RuntimeError(f"ttt-bench latency ended with code {code}")


def add_times(table: Table, runs: Path) -> None:
    """Add the times of the newest benchmark in a folder of runs."""
    files = sorted(runs.glob(f"*/{BENCHMARK_FILE}"), key=lambda path: path.stat().st_mtime)
    for row in read_benchmark(files[-1])["rows"] if files else ():
        if row["measure"] not in LINES:
            continue
        tokens = row["batch"] * (1 if "decode" in row["measure"] else row["tokens"])
        cells = {"model": row["model"], "tokens": row["tokens"], "B": row["batch"], "what": LINES[row["measure"]]}
        table.add(**cells, ms=f"{1e3 * row['value']:.3f}", tokens_s=f"{tokens / row['value']:,.0f}")
