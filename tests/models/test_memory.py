import platform
import resource
import shlex
import subprocess
import sys

import pytest

from ttt.models.memory import has_large_pages, keep_freed_memory

FAULTS = """
import resource, torch
from ttt.models.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Count the pages that the system cleared for ten consecutive tensors of 64 MB."""
    program = [sys.executable, "-c", FAULTS.format(keep=keep)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in their own ways")
def test_freed_memory_is_used_again() -> None:
    every_tensor = 10 * 2**26 // resource.getpagesize()
    assert faults(keep=False) >= every_tensor
    assert faults(keep=True) <= 0.8 * every_tensor


LARGE = """
import torch
from pathlib import Path
from ttt.models.memory import keep_freed_memory, start_peak
keep_freed_memory()
if {peak}:
    start_peak(torch.device("cpu"))
x = [torch.ones(2**20) for _ in range(16)]
print(next(l.split()[1] for l in Path("/proc/self/smaps_rollup").read_text().splitlines() if l.startswith("AnonHuge")))
"""


def large_pages(*, peak: bool, limit: str = "") -> int:
    """Return how many bytes of 16 tensors of 4 MB lie in large pages."""
    program = shlex.join([sys.executable, "-c", LARGE.format(peak=peak)])
    return 1024 * int(
        subprocess.run(["bash", "-c", limit + program], capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.slow
@pytest.mark.skipif(not has_large_pages(), reason="the system gives no large pages")
def test_tensors_lie_in_large_pages_also_after_a_peak_is_measured_where_addresses_are_free() -> None:
    most = 14 * 2**22
    assert large_pages(peak=False) >= most
    assert large_pages(peak=True) >= most
    assert large_pages(peak=True, limit=f"ulimit -v {2**26}; ") == 0  # 64 GB of addresses


def test_it_returns_whether_the_c_library_supports_it() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
