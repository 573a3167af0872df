"""``python -m ttt.bench.gpu``: needs PyTorch and Triton, and no installation of the suite.

The arguments are read here instead of by Hydra, which a machine that is lent for minutes may lack.
"""

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from ttt.bench.gpu.run import UNUSABLE, run_stages
from ttt.bench.gpu.tables import Table
from ttt.config.bench import STAGES, GPUBenchConfig
from ttt.config.errors import RunError, UserError, bad_value, first_line
from ttt.config.keys import check_keys, key
from ttt.config.supported import unsupported_torch

HELP = """\
python -m ttt.bench.gpu compares the Triton kernels on a GPU with their definition and measures them, in ten minutes.

usage: python -m ttt.bench.gpu [KEY=VALUE ...]

Stages: machine (versions, clocks, rates of copies and matrix products), compare (every type and size against the
definition, and repetitions against each other), kernels (times of all ways to compile a kernel; the fastest are used
from then on), mixers (whole layers beside attention and other layers), profile (Nsight Compute), sanitize
(compute-sanitizer), train (125M, Triton beside the dual form), latency (ttt-bench latency scale=paper).
Each has a time limit of its own, prints its table as it goes and saves it as CSV; a stage that fails does not stop the
next. TRITON_CACHE_DIR=FOLDER uses kernels compiled before (ttt-bench kernels warm=FOLDER).
"""

MODULES = {
    "machine": "machine",
    "compare": "compare",
    "kernels": "kernel_times",
    "mixers": "mixers",
    "profile": "tools",
    "sanitize": "tools",
    "train": "training",
    "latency": "latency",
}
"""Stage -> module of ``ttt.bench.gpu`` with a function of the stage's name, of a table, a folder and seconds."""


@dataclass
class _Request(GPUBenchConfig):
    stage: str | None = key(None, "run this stage in this process", choices=STAGES, hidden=True)


def parse(arguments: list[str]) -> _Request:
    """Return the configuration of a command line.

    Raises:
        UserError: an unknown key, or a value that is not allowed.
    """
    known = {item.name: item for item in fields(_Request)}
    request = _Request()
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name not in known:
            shown = ", ".join(item.name for item in known.values() if not item.metadata.get("hidden"))
            raise UserError(f"{argument}: no such key; choose from {shown}, as KEY=VALUE")
        setattr(request, name, _value(name, value))
    check_keys(request)
    return request


def _value(name: str, text: str) -> Any:
    if name == "seconds" and not text.isdecimal():
        raise bad_value(name, text, "must be a whole number")
    convert: dict[str, Callable[[str], Any]] = {"seconds": int, "stages": lambda text: text.strip("[]").split(",")}
    return convert.get(name, str)(text)


def run_here(stage: str, folder: Path, seconds: float) -> int:
    """Run a stage in this process; return its exit code. An error is one line; ``STAGE.log`` has its traceback."""
    try:
        function = getattr(import_module(f"ttt.bench.gpu.{MODULES[stage]}"), stage)
        function(Table(folder, stage), folder, seconds)
    except UserError as error:
        print(f"{stage}: {error}", flush=True)
        return UNUSABLE
    except RunError as error:
        print(f"{stage}: {error}", flush=True)
        return 1
    except Exception as error:  # one line instead of a traceback, which is saved
        (folder / f"{stage}.log").write_text(traceback.format_exc(), encoding="utf-8")
        print(f"{stage}: {type(error).__name__}: {first_line(error)} ({folder / f'{stage}.log'})", flush=True)
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """Run ``python -m ttt.bench.gpu``, and return its exit code."""
    if {"-h", "--help"} & set(arguments):
        keys = (f"  {item.name:<9} {item.metadata['help']}" for item in fields(GPUBenchConfig))
        print(HELP, *keys, sep="\n")
        return 0
    try:
        if problem := unsupported_torch():
            raise UserError(problem)
        request = parse(arguments)
        if request.document:
            from ttt.bench.gpu.document import write_document

            write_document(Path(request.document), Path(request.out))
            return 0
        if request.stage:
            return run_here(request.stage, Path(request.out), request.seconds)
        return 0 if run_stages(request) else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
