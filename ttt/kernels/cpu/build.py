"""Compiles the C++ sources beside this file once for this machine, and loads them."""

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
SOURCES = ("operator.cpp", "kernel_float.cpp", "kernel_double.cpp")

ARM = platform.machine().lower() in ("arm64", "aarch64")
# Nothing of -ffast-math that assumes away NaN and infinity: a loop that diverged must be seen. OpenMP is what torch's
# parallel_for is made of; Apple's compiler has none, and the kernel uses one thread there.
FLAGS = (
    "-O3",
    "-mcpu=native" if ARM else "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    *(() if sys.platform == "darwin" else ("-fopenmp",)),
)


class CompilerError(Exception):
    """The kernel could not be compiled or loaded here. The message is one line that says why."""


def load() -> None:
    """Makes the operators ``ttt_cpu::forward`` and ``ttt_cpu::backward`` runnable; at first, compiles them.

    The library lands in the user's cache (``XDG_CACHE_HOME`` is heard) in a folder for these sources and flags, this
    torch and this CPU. Processes that begin at once compile once. A line on stderr says when that happens.

    Raises:
        CompilerError: no compiler, no ninja, or neither a build nor a load that succeeds. A process tries once.
    """
    failure = _load_once()
    if failure:
        raise CompilerError(failure)


@functools.cache
def _load_once() -> str:
    """Why it failed, or nothing."""
    try:
        torch.ops.load_library(_library())
    except CompilerError as error:
        return str(error)
    except OSError as error:
        return f"the compiled CPU kernel cannot be loaded: {_one_line(str(error))}"
    return ""


def _library() -> Path:
    """The compiled library, built if it is not there."""
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
    """Compiles into ``scratch``, and moves the result to ``library`` when it is whole."""
    # What a build that was killed left behind; torch would wait for ever on the lock file among it.
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    print(f"compiling the CPU kernel of the inner loop (once, about 15 s) into {library.parent}", file=sys.stderr)
    before = dict(os.environ)
    # An environment's programs, ninja among them, need not be on PATH for its Python to run.
    scripts = [str(Path(sys.executable).parent), sysconfig.get_path("scripts")]
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *scripts])
    os.environ["TORCH_DONT_CHECK_COMPILER_ABI"] = "1"  # else a page of warnings where $CXX is not g++
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
    except Exception as error:  # torch raises RuntimeError, ImportError, OSError, CalledProcessError: all the same here
        raise CompilerError(f"the CPU kernel does not compile: {_one_line(str(error))}") from error
    finally:
        os.environ.clear()
        os.environ.update(before)
    (scratch / library.name).replace(library)
    shutil.rmtree(scratch, ignore_errors=True)


def _fingerprint(here: Path) -> str:
    """Changes with whatever the compiled library depends on. Homes are shared by machines with different CPUs."""
    digest = hashlib.sha256()
    for path in sorted([*here.glob("*.h"), *here.glob("*.cpp")]):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(repr((FLAGS, torch.__version__, sys.platform, platform.machine(), _cpu())).encode())
    return digest.hexdigest()[:16]


def _cpu() -> str:
    """The CPU's instruction sets, as the system names them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() + platform.platform()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else text


def _one_line(message: str) -> str:
    """The line of a compiler's output that names what is wrong, or the first one."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no reason given"]
    wrong = re.compile(r"error:|not found|No such file|cannot ")
    return next((line for line in lines if wrong.search(line)), lines[0])[:300]
