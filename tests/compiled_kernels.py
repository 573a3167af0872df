"""Facts about the compiled kernels: registers that spill, and accesses that no barrier separates.

Compiling all kernels for three targets takes a minute and a half of processor time, and gives the same each time. So
``bench/compiled_kernels.json`` has the facts, with a digest of everything that they depend on: the kernels' code
without comments, this module's programs and check, and Triton's version. If the digest differs, the tests compile
again. Afterwards write the facts anew::

    RECORD_KERNELS=1 .venv/bin/python -m pytest -q tests/bench/test_kernels_table.py
"""

import ast
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import ptx_races
import triton
from ptx_races import pairs, without_barriers

from ttt.kernels.triton import configurations

Facts = dict[str, Any]

RECORD = Path(__file__).parent / "bench" / "compiled_kernels.json"

KEEPING_PTX = """
import pathlib
import torch, triton
import ttt.kernels.triton.compile as compiler
from ttt.kernels.triton.choices import Choice
from ttt.kernels.triton.configurations import Layer

compile_kernel, resources_of = triton.compile, compiler.compile_resources

def keeping(source, **given):
    keeping.last = compile_kernel(source, **given)
    return keeping.last

def resources(configuration, target):
    found = resources_of(configuration, target)
    if target.startswith("sm"):
        name = f"{configuration.kernel}-{target}-{configuration.num_warps}.ptx"
        names = " ".join(configuration.signature)
        pathlib.Path(name).write_text(f"// {names}\\n" + keeping.last.asm["ptx"])
    return found

triton.compile, compiler.compile_resources = keeping, resources
"""
"""Keeps the PTX of all kernels."""

MANY_PROGRAMS = """
resources(Layer(torch.bfloat16, 64, 16).backward(choice=Choice(4)), "sm_90")
resources(Layer(torch.bfloat16, 64, 16).forward(True, choice=Choice(2)), "sm_90")
"""
"""TTT-Linear's kernels as they are compiled for many programs."""

WITHOUT_CODE = """
import ttt.kernels.triton.compile
from triton.backends.nvidia.compiler import CUDABackend, llvm

def make_ptx(self, source, metadata, *_):
    metadata["name"] = "none"
    return ""

def make_cubin(*_):
    print("Used 0 registers, 0 bytes spill stores, 0 bytes spill loads")
    return b""

CUDABackend.make_ptx, CUDABackend.make_cubin = make_ptx, make_cubin
llvm.optimize_module = lambda *_: None
ttt.kernels.triton.compile.instructions = lambda cubin: []
"""
"""Stop when the shared memory is allocated: optimised machine code takes most of the time."""


def digest() -> str:
    """Return a digest of the kernels' code without comments, of this module, of the check, and of Triton's version."""
    kernels = sorted(Path(configurations.__file__).parent.glob("*.py"))
    sources = [path for path in (*kernels, Path(__file__), Path(ptx_races.__file__)) if path.stem not in UNRELATED]
    trees = [ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in sources]
    return hashlib.sha256("\n".join([triton.__version__, *trees]).encode()).hexdigest()


UNRELATED = {"op", "decoding", "launch", "counts", "__init__"}
"""Modules of the kernels' package that no compiled code depends on."""


def recorded() -> Facts | None:
    """Return the recorded facts, or None if they are of other code or of another Triton."""
    stored: Facts = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    current = stored.get("digest") == digest() and "RECORD_KERNELS" not in os.environ
    return stored if current else None


def record(**facts: Any) -> None:
    """Add facts to the record if RECORD_KERNELS is set; those of another digest are dropped."""
    if "RECORD_KERNELS" not in os.environ:
        return
    stored: Facts = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    kept = stored if stored.get("digest") == digest() else {}
    for name, value in facts.items():
        kept[name] = kept.get(name, {}) | value
    text = json.dumps({"digest": digest()} | kept, indent=1, sort_keys=True)
    RECORD.write_text(text + "\n", encoding="utf-8")


def spills(rows: list[Any]) -> Facts:
    """Return "kernel target" -> [spilled bytes, of these within loops; None on AMD] from a benchmark's rows."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        if row["measure"] in ("spilled", "spilled_in_loops"):
            values = found.setdefault(f"{row['kernel']} {row['target']}", [None, None])
            values[row["measure"] == "spilled_in_loops"] = row["value"]
    return found


def accesses(folder: Path) -> Facts:
    """Return "kernel-target-warps" -> pairs as [argument, file], and their number if all barriers are removed."""
    found = {}
    for path in sorted(folder.glob("*.ptx")):
        ptx = path.read_text()
        names = ptx.splitlines()[0].split()[1:]
        for name in names:
            if name.endswith("_next"):  # in place, the new state is the old one
                old, new = (names.index(x) for x in (name.removesuffix("_next"), name))
                ptx = ptx.replace(f"_param_{new}]", f"_param_{old}]")
        unordered = {(names[pair.argument], file) for pair in pairs(ptx) for file, _ in (pair.first, pair.second)}
        found[path.stem] = [sorted(map(list, unordered)), len(pairs(without_barriers(ptx)))]
    return found
