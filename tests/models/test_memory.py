import platform
import resource
import subprocess
import sys

import pytest

from ttt.models.memory import keep_freed_memory

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


def test_it_returns_whether_the_c_library_supports_it() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
