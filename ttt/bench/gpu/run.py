"""Run the stages one after another, each in a process of its own, so that none can stop or slow the next."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ttt.bench.gpu.tables import read_table
from ttt.config.bench import STAGES, GPUBenchConfig

SHARES = {
    "machine": 30,
    "compare": 150,
    "kernels": 90,
    "mixers": 60,
    "profile": 50,
    "sanitize": 50,
    "train": 70,
    "latency": 80,
}
"""Stage -> its share of the time. The last stage also has what the others have left."""

UNUSABLE = 2
"""Exit code of a stage that cannot run here, for a reason that it has printed in one line."""


def run_stages(config: GPUBenchConfig) -> bool:
    """Run the stages of a configuration, and return whether all of them finished."""
    stages = [stage for stage in STAGES if stage in (config.stages or STAGES)]
    folder, scale = Path(config.out), config.seconds / sum(SHARES[stage] for stage in stages)
    folder.mkdir(parents=True, exist_ok=True)
    outcomes, begun = [], time.monotonic()
    for stage in stages:
        limit = SHARES[stage] * scale
        if stage == stages[-1]:
            limit = max(limit, config.seconds - (time.monotonic() - begun))
        print(f"\n== {stage}, at most {limit:.0f} s", flush=True)
        started = time.monotonic()
        outcome = run_one(stage, folder, limit)
        outcomes.append((stage, outcome, f"{time.monotonic() - started:.0f}", len(read_table(folder, stage))))
        _save(folder, outcomes)
        print(f"== {stage}: {outcome} after {outcomes[-1][2]} s, {outcomes[-1][3]} lines", flush=True)
    return all(outcome == "finished" for _, outcome, _, _ in outcomes)


def run_one(stage: str, folder: Path, limit: float) -> str:
    """Run a stage in a new process for at most ``limit`` seconds; return its outcome in words."""
    # A session of its own, so that the workers of a stage end with it.
    process = subprocess.Popen(command_of(stage, folder, limit), start_new_session=True)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return "stopped at its limit"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {0: "finished", UNUSABLE: "cannot run here"}.get(code, f"failed with code {code}")


def command_of(stage: str, folder: Path, limit: float) -> list[str]:
    """Return the command of a stage's process."""
    # ``seconds`` has a lower bound that a stage's share may be below.
    seconds = max(10, round(limit))
    return [sys.executable, "-m", "ttt.bench.gpu", f"stage={stage}", f"out={folder}", f"seconds={seconds}"]


def _save(folder: Path, outcomes: list[tuple[str, str, str, int]]) -> None:
    with (folder / "stages.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("stage", "outcome", "seconds", "lines"), *outcomes])
