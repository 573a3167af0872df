"""Ahead-of-time compilation: the registers and shared memory that a kernel needs, found without a GPU.

Triton compiles for any target on any machine. Registers and spilled bytes come from the log of Triton's own ``ptxas``
for the binary that Triton keeps, and local memory within loops from that binary's machine code; on AMD registers and
spills come from the assembly's metadata.
"""

import io
import re
import subprocess
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ttt.config.errors import RunError, bad_value
from ttt.kernels.triton.configurations import Configuration

CUDA_TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""sm_80: A100; sm_86, sm_89: RTX 30 and 40, A10, L4, L40; sm_90: H100, H200; sm_100: B200; sm_120: RTX 50."""

HIP_TARGETS = ("gfx90a", "gfx942", "gfx950")
"""MI200; MI300; MI350."""

TARGETS = (*CUDA_TARGETS, *HIP_TARGETS)

BYTES_PER_REGISTER = 4
POINTER_ALIGNMENT = [["tt.divisibility", 16]]
"""The alignment of tensors that PyTorch allocates; the launcher compiles for it."""

PTXAS_REGISTERS = re.compile(r"Used (\d+) registers")
PTXAS_SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+([^;]*);")
BRANCH = re.compile(r"\bBRA\b.*?0x([0-9a-f]+)")
MATRIX_PRODUCT = re.compile(r"\b\w*MMA\b")
LOCAL_STORE = re.compile(r"\bSTL\b")

Instructions = list[tuple[int, str]]
"""Address and text of each machine instruction, in order."""


@dataclass(frozen=True)
class Resources:
    """Resources of one compiled kernel.

    Attributes:
        registers: registers per thread; on AMD vector registers.
        spilled: bytes that a thread spills from registers to memory, each instruction counted once.
        spilled_in_loops: of these, bytes within the innermost loops that contain matrix products; None on AMD.
        shared: bytes of shared memory per program.
    """

    registers: int
    spilled: int
    spilled_in_loops: int | None
    shared: int


def interpreted() -> bool:
    """Return whether this process interprets kernels, ``TRITON_INTERPRET=1``, and so cannot compile them."""
    return bool(knobs.runtime.interpret)


def gpu_target(name: str) -> GPUTarget:
    """Return Triton's description of a target.

    Raises:
        UserError: the target is not in ``TARGETS``.
    """
    if name in CUDA_TARGETS:
        return GPUTarget("cuda", int(name.removeprefix("sm_")), 32)
    if name in HIP_TARGETS:
        return GPUTarget("hip", name, 64)
    raise bad_value("targets", name, f"choose from {', '.join(TARGETS)}")


def compile_resources(configuration: Configuration, target: str) -> Resources:
    """Compile one kernel, without Triton's cache: a hit would leave out the log of ``ptxas``.

    Raises:
        UserError: the target is not in ``TARGETS``.
        RunError: Triton cannot compile the kernel for the target.
    """
    gpu = gpu_target(target)
    ptxas_log = io.StringIO()
    try:
        with knobs.compilation.scope(), knobs.nvidia.scope(), redirect_stdout(ptxas_log):
            knobs.compilation.always_compile = True
            knobs.nvidia.dump_ptxas_log = True
            compiled: Any = triton.compile(_source(configuration), target=gpu, options=configuration.options)
    except Exception as error:  # compiler passes raise errors of any type
        raise _uncompiled(configuration, target, error) from error
    if gpu.backend == "hip":
        return _amd_resources(compiled.asm["amdgcn"], compiled.metadata.shared)
    stored, registers = (pattern.search(ptxas_log.getvalue()) for pattern in (PTXAS_SPILL, PTXAS_REGISTERS))
    assert stored, ptxas_log.getvalue()
    assert registers, ptxas_log.getvalue()
    in_loops = local_stores(innermost_products(instructions(compiled.asm["cubin"])))
    return Resources(int(registers[1]), int(stored[1]), in_loops, compiled.metadata.shared)


def compile_into(folder: Path, configuration: Configuration, target: str) -> None:
    """Compile one kernel into a Triton cache, where a launch on a GPU of this target finds it.

    Raises:
        UserError: the target is not in ``TARGETS``.
        RunError: Triton cannot compile the kernel for the target.
    """
    gpu = gpu_target(target)
    try:
        with knobs.cache.scope():
            knobs.cache.dir = str(folder.absolute())
            triton.compile(_source(configuration), target=gpu, options=configuration.options)
    except Exception as error:  # compiler passes raise errors of any type
        raise _uncompiled(configuration, target, error) from error


def _uncompiled(configuration: Configuration, target: str, error: Exception) -> RunError:
    reason = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {reason[-1] if reason else 'no reason given'}"
    return RunError(f"{configuration.kernel}: triton cannot compile it for {target} ({line})")


def _source(configuration: Configuration) -> ASTSource:
    names = configuration.fn.arg_names
    pointers = [index for index, name in enumerate(names) if configuration.signature.get(name, "").startswith("*")]
    attributes: dict[tuple[int], list[list[Any]]] = {(index,): POINTER_ALIGNMENT for index in pointers}
    if not triton.__version__.startswith("3.6."):
        # Since 3.7 a launch lists the constants too, and its key in Triton's cache contains the list.
        attributes |= {(index,): [] for index, name in enumerate(names) if name in configuration.constexprs}
    return ASTSource(
        fn=configuration.fn,
        signature={name: configuration.signature.get(name, "constexpr") for name in names},
        constexprs=configuration.constexprs,
        attrs=attributes,
    )


def _amd_resources(assembly: str, shared: int) -> Resources:
    found = {key: int(value) for key, value in re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", assembly)}
    return Resources(found["vgpr_count"], BYTES_PER_REGISTER * found["vgpr_spill_count"], None, shared)


def instructions(cubin: bytes) -> Instructions:
    """Return the machine code of a binary."""
    tool = Path(triton.backends.__path__[0], "nvidia", "bin", "cuobjdump")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        shown = subprocess.run([tool, "-sass", path], capture_output=True, text=True, check=True).stdout
    return [(int(address, 16), text) for address, text in INSTRUCTION.findall(shown)]


def innermost_products(code: Instructions) -> Instructions:
    """Return the instructions of the innermost loops that contain matrix products."""
    ends = ((address, BRANCH.search(text)) for address, text in code)
    spans = {(int(branch[1], 16), address) for address, branch in ends if branch and int(branch[1], 16) < address}
    loops = {
        (first, last)
        for first, last in spans
        if any(first <= address <= last and MATRIX_PRODUCT.search(text) for address, text in code)
    }
    innermost = [
        (first, last)
        for first, last in loops
        if not any(first <= start and end <= last and (start, end) != (first, last) for start, end in loops)
    ]
    return [(a, text) for a, text in code if any(first <= a <= last for first, last in innermost)]


def local_stores(code: Instructions) -> int:
    """Return the bytes that a thread writes to local memory in these instructions, each counted once."""
    stores = [text for _, text in code if LOCAL_STORE.search(text)]
    return sum(16 if ".128" in text else 8 if ".64" in text else 4 for text in stores)
