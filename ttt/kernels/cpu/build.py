"""Compile the C++ sources of this folder once per machine, and load them."""

import functools
import hashlib
import os
import platform
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import torch
from filelock import FileLock
from platformdirs import user_cache_dir

NAME = "ttt_cpu"
SOURCES = (
    "operator.cpp",
    "kernel_float.cpp",
    "kernel_double.cpp",
    "selective_scan.cpp",
    "convolution.cpp",
    "pointwise.cpp",
    "loss.cpp",
    "decode.cpp",
)

ARM = platform.machine().lower() in ("arm64", "aarch64")
# The parts of -ffast-math that keep NaN and infinity, because a diverged loop must be detected. torch's parallel_for
# needs OpenMP; with Apple's compiler, which lacks it, the kernel uses one thread.
FLAGS = (
    "-O3",
    "-mcpu=native" if ARM else "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    *(() if sys.platform == "darwin" else ("-fopenmp",)),
)


class CompilerError(Exception):
    """The kernel could not be compiled or loaded on this machine. The message is one line with the reason."""


def load() -> None:
    """Load the operators of the library ``ttt_cpu``, and compile them on first use.

    The library is stored in the user's cache (``XDG_CACHE_HOME``), in one folder for each combination of sources,
    flags, torch version and CPU. Processes that start together compile once. A line on standard error reports it.

    Raises:
        CompilerError: no compiler, no ninja, or the build or load failed. A process tries only once.
    """
    failure = _load_once()
    if failure:
        raise CompilerError(failure)


def load_unless_compiling() -> None:
    """Call ``load``; under torch.compile do nothing, because the fake operator runs first and loads."""
    if not torch.compiler.is_compiling():
        load()


@functools.cache
def _load_once() -> str:
    """Return the reason of a failure, or an empty string."""
    try:
        torch.ops.load_library(_library())
    except CompilerError as error:
        return str(error)
    except OSError as error:
        return f"the compiled CPU kernel cannot be loaded: {_one_line(str(error))}"
    return ""


def _library() -> Path:
    """Return the path of the compiled library, building it if necessary."""
    here = Path(__file__).parent
    folder = Path(user_cache_dir("ttt-suite")) / "kernels" / f"cpu-{_fingerprint(here)}"
    library = folder / f"{NAME}.so"
    if library.is_file():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not library.is_file():
                _build(here, folder / "build", library)
    except OSError as error:
        raise CompilerError(f"the CPU kernel cannot be stored: {_one_line(str(error))}") from error
    return library


def _build(sources: Path, scratch: Path, library: Path) -> None:
    """Compile in ``scratch``, and move the complete result to ``library``."""
    # Remove the files of a killed build; torch would wait forever on its lock file.
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    # Imported here: the GPU kernels need only torch and triton.
    from tqdm import tqdm

    # Above a progress bar that is drawn, such as that of an evaluation.
    tqdm.write(f"compiling the CPU kernels (once, about 15 s) into {library.parent}", file=sys.stderr)
    before = dict(os.environ)
    # The programs of a virtual environment, such as ninja, may be missing from PATH.
    scripts = [str(Path(sys.executable).parent), sysconfig.get_path("scripts")]
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *scripts])
    os.environ["TORCH_DONT_CHECK_COMPILER_ABI"] = "1"  # avoids a page of warnings if $CXX is not g++
    try:
        from torch.utils import cpp_extension

        cpp_extension.load(
            name=NAME,
            sources=[str(sources / name) for name in SOURCES],
            extra_cflags=list(FLAGS),
            extra_ldflags=[flag for flag in FLAGS if flag == "-fopenmp"],
            build_directory=str(scratch),
            is_python_module=False,
        )
    except Exception as error:  # torch raises RuntimeError, ImportError, OSError or CalledProcessError
        raise CompilerError(f"the CPU kernel does not compile: {_one_line(str(error))}") from error
    finally:
        os.environ.clear()
        os.environ.update(before)
    (scratch / library.name).replace(library)
    shutil.rmtree(scratch, ignore_errors=True)


def _fingerprint(here: Path) -> str:
    """Return a hash of everything the library depends on. Machines with different CPUs may share a home folder."""
    digest = hashlib.sha256()
    for path in sorted([*here.glob("*.h"), *here.glob("*.cpp")]):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(repr((FLAGS, torch.__version__, sys.platform, platform.machine(), instruction_sets())).encode())
    return digest.hexdigest()[:16]


def instruction_sets() -> str:
    """Return the names of the CPU's instruction sets."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() + platform.platform()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else text


def _one_line(message: str) -> str:
    """Return the line of a compiler's output that contains the error, or the first line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no reason given"]
    wrong = re.compile(r"error:|not found|No such file|cannot ")
    return next((line for line in lines if wrong.search(line)), lines[0])[:300]
