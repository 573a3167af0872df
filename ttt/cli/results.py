"""Reading a folder of runs for a command: labels through Hydra, and messages about runs that were left out."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ttt.analysis.store import Results, load_results
from ttt.cli.label import hydra_ready, label_of_plain


def read_results(folder: Path | Sequence[Path], strict: bool, stopped: bool = False) -> Results:
    """Read all runs below a folder, or several; report on standard error which were left out, or were stopped early.

    With ``stopped``, runs that ``trainer.max_steps`` has stopped early count as if their schedules had ended there.

    Raises:
        UserError: no such folder; if ``strict``, a file in it that cannot be read.
    """
    with hydra_ready():
        results = load_results(folder, label_of_plain, strict, stopped)
    for line in results.unreadable:
        print(f"left out: {line}", file=sys.stderr)
    for left_out, kept in results.left_out.items():
        print(f"left out: {left_out} is the same run as {kept}, which has at least as many steps", file=sys.stderr)
    if results.stopped:
        counts = "counted, as --stopped asks" if stopped else "claims and the paper's figures count them with --stopped"
        print(f"{results.describe_stopped(results.stopped)[:-1]}; {counts}", file=sys.stderr)
    return results
