"""The ways to compile a kernel that are worth comparing, and which of them to use. This module does not import Triton.

A latency model of an H100 compares them: the compiled instructions of one warp in order, with the latencies of memory,
barriers and products, and without contention. It is a model, not a measurement. On a GPU, stage ``kernels`` of
``python -m ttt.bench.gpu`` measures every candidate and stores the fastest in the user's cache, which then decides.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path

MULTIPROCESSORS = 132
"""Of an H100 and an H200."""

NOTICEABLE = 0.9
"""A candidate replaces the first one if its modelled time is below this share of the first one's."""


class Choice(NamedTuple):
    """How a kernel is compiled.

    Attributes:
        warps: warps per program.
        block: columns of the hidden width that are read at a time; 0 for kernels without blocks: those of TTT-Linear
            and ``mlp_forward_on_chip``.
    """

    warps: int
    block: int = 0


class Candidate(NamedTuple):
    """A choice with what the model says about it, for bf16, D = 64 and b = 16 on an H100.

    Attributes:
        choice: how the kernel is compiled.
        cycles: clock cycles of one mini-batch of one program.
        resident: programs that run on one multiprocessor at a time; registers limit them, or the L2 cache.
    """

    choice: Choice
    cycles: int
    resident: int

    def modelled(self, programs: int) -> int:
        """Return the cycles for one mini-batch of ``programs`` programs on ``MULTIPROCESSORS``."""
        return -(-programs // (MULTIPROCESSORS * self.resident)) * self.cycles


CANDIDATES: dict[str, tuple[Candidate, ...]] = {
    "linear_forward": (Candidate(Choice(4), 3_211, 2), Candidate(Choice(2), 5_064, 4)),
    "linear_backward": (Candidate(Choice(8), 6_733, 1), Candidate(Choice(4), 7_982, 2)),
    "mlp_forward_on_chip": (
        Candidate(Choice(16), 6_942, 1),
        Candidate(Choice(8), 7_869, 1),
        Candidate(Choice(8, 128), 13_333, 1),
        Candidate(Choice(4, 32), 32_843, 2),
    ),
    "mlp_forward": (Candidate(Choice(8, 128), 13_333, 1), Candidate(Choice(4, 32), 32_843, 2)),
    "mlp_backward": (
        Candidate(Choice(8, 128), 50_897, 1),
        Candidate(Choice(8, 32), 122_208, 1),
        Candidate(Choice(4, 128), 75_848, 1),
    ),
}
"""Kernel -> candidates for half precision, 32 < D <= 64 and b <= 16, on NVIDIA's GPUs; the first is the default.

``mlp_backward`` with 4 warps would have room for two programs per multiprocessor, but the scratch of 264 programs,
314 KB each, exceeds the 50 MB of L2, so the model counts one. A GPU with more L2 may measure otherwise.
"""


FIXED = {"linear_recompute": Candidate(Choice(4), 2_037, 3)}
"""Kernels that are compiled in one way, with the model's numbers."""

CLOCK = 1.75e9
"""Hz, of the modelled H100."""


_forced: dict[str, Choice] = {}


@contextmanager
def using(forced: Mapping[str, Choice]) -> Iterator[None]:
    """Compile and launch the kernels that ``forced`` names as it says, whatever the model or a measurement prefers."""
    before = dict(_forced)
    _forced.update(forced)
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


def forced_choice(kernel: str) -> Choice | None:
    """Return the choice of ``using`` for a kernel, or None."""
    return _forced.get(kernel)


def choose(kernel: str, programs: int, measured: Mapping[str, Choice]) -> Choice:
    """Return the choice for a kernel of ``CANDIDATES``.

    Args:
        kernel: its name.
        programs: sequences times heads.
        measured: fastest choices by ``kernel programs``, see ``read_measured``; they come before the model.
    """
    counts = sorted(int(key.split()[1]) for key in measured if key.split()[0] == kernel)
    if counts:
        nearest = max((count for count in counts if count <= programs), default=counts[0])
        return measured[f"{kernel} {nearest}"]
    first, *others = CANDIDATES[kernel]
    best = min(others, key=lambda candidate: candidate.modelled(programs))
    return (best if best.modelled(programs) < NOTICEABLE * first.modelled(programs) else first).choice


def measured_path(device: str, versions: str) -> Path:
    """Return the file of the choices measured on a device, for a version of Triton and of the kernels' source."""
    name = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in f"{device}-{versions}")
    return user_cache_path("ttt-suite") / "kernels" / f"{name}.json"


@functools.cache
def read_measured(path: Path) -> dict[str, Choice]:
    """Return the choices in a file of ``measured_path``, empty without one or if it names no candidate of today."""
    try:
        found = {key: Choice(*value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return found if all(_is_known(key, choice) for key, choice in found.items()) else {}


def _is_known(key: str, choice: Choice) -> bool:
    kernel, _, programs = key.partition(" ")
    return programs.isdecimal() and any(choice == candidate.choice for candidate in CANDIDATES.get(kernel, ()))
