"""``ttt-bench kernels``: numbers read from compiled code, rows and table, and the limits for the kernels."""

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from compiled_kernels import KEEPING_PTX, MANY_PROGRAMS, WITHOUT_CODE, Facts, accesses, record, recorded, spills
from ptx_races import pairs, without_barriers
from starter import Starter

from ttt.analysis.store import load_results
from ttt.bench.kernels import COLUMNS, MARKERS
from ttt.cli.command import as_pairs
from ttt.config.assets import assets
from ttt.config.bench import KernelBenchConfig
from ttt.config.text_table import Column, markdown_lines
from ttt.kernels.triton.compile import innermost_products, local_stores
from ttt.kernels.triton.configurations import SHARED
from ttt.kernels.triton.counts import KERNELS
from ttt.kernels.triton.sizes import SMALL_SHARED
from ttt.results.benchmarks import Row

BEGIN, END = MARKERS
DOCUMENT = assets() / "docs" / "kernels.md"

Command = Callable[..., subprocess.CompletedProcess[str]]


PROGRAM = "from ttt.cli.bench import main; main()"


@pytest.fixture(scope="module")
def compiling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Start processes in which kernels are compiled; in this one they may be interpreted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        preloaded = ("ttt.cli.bench", "ttt.bench.kernels", "ttt.bench.run", "triton")
        starter = Starter(tmp_path_factory.mktemp("output"), preloaded=preloaded)
    yield starter
    starter.close()


@pytest.fixture
def kernels(compiling: Starter, tmp_path: Path) -> Command:
    """Return a function that runs ``ttt-bench kernels`` in a new process; in this one kernels may be interpreted."""

    def run(*arguments: str, program: str = PROGRAM, **variables: str) -> subprocess.CompletedProcess[str]:
        return compiling.run(program, ["kernels", *arguments], cwd=tmp_path, environment=variables)

    return run


def rows_below(folder: Path) -> list[Row]:
    (path,) = folder.glob("runs/*/benchmark.json")
    return json.loads(path.read_text())["rows"]


def table_of(text: str) -> list[dict[str, str]]:
    """Return the lines of the document's table as heading -> cell."""
    lines = [line for line in text.split(BEGIN)[1].split(END)[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


@pytest.mark.slow
def test_one_kernel_is_compiled_counted_and_recorded(kernels: Command, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    one = ["kernels=linear_decode", "head_dim=64", f"markdown={page}"]
    done = kernels("--targets", "sm_90,gfx942", *one)
    assert done.returncode == 0, done.stderr
    by_target = {target: {row["measure"]: row for row in rows_below(tmp_path) if row["target"] == target}
                 for target in ("sm_90", "gfx942")}  # fmt: skip
    for target, found in by_target.items():
        assert found["spilled"]["value"] == 0
        assert 16 < found["registers"]["value"] <= 512
        assert {(row["kernel"], row["dtype"], row["head_dim"]) for row in found.values()} == {
            ("linear_decode", "bf16", 64)
        }
        assert re.search(rf"^linear_decode +{target} +bf16 +64 +16 ", done.stdout, re.MULTILINE)
    assert by_target["sm_90"].keys() - by_target["gfx942"].keys() == {"spilled_in_loops"}
    memory = by_target["sm_90"]["device_bytes"]["value"]
    assert by_target["sm_90"]["model_H100"]["value"] == pytest.approx(memory / 3.35e12)
    stored = load_results(tmp_path / "runs").benchmarks
    assert set(stored["kernel"]) == {"linear_decode"}
    assert set(stored["dtype"]) == {"bf16"}
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert [line["target"] for line in table_of(text)] == ["sm_90", "gfx942"]
    # The document has the same lines, and a column for another version of Triton.
    headings = [column.heading for column in COLUMNS]
    committed = [{name: line[name] for name in headings} for line in table_of(DOCUMENT.read_text())]
    assert all(line in committed for line in table_of(text)), "docs/kernels.md describes how to make its table"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["targets=sm_91"], "targets=sm_91: choose from sm_80, sm_86"),
        (["--targets", "sm_91"], "targets=sm_91: choose from sm_80, sm_86"),
        (["targets=[]"], "targets=[]: give at least one value"),
        (["kernels=conv"], "kernels=conv: choose from linear_forward"),
        (["dtype=float32"], "dtype=float32: choose from bf16, fp16, fp32"),
        (["head_dim=48"], "head_dim=48: choose from 32, 64, 96, 128"),
        (["mini_batch_size=1"], "mini_batch_size=1: choose from 8, 16, 32, 64"),
        (["tokens=0"], "tokens=0: must be at least 1"),
        (["markdown=none.md"], "none.md: cannot be read (No such file or directory)"),
        (["tragets=sm_90"], "tragets: no such key; did you mean targets?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_line(arguments: list[str], line: str, kernels: Command, tmp_path: Path) -> None:
    done = kernels(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_interpreted_kernels_are_not_compiled(kernels: Command) -> None:
    done = kernels("targets=sm_90", TRITON_INTERPRET="1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "TRITON_INTERPRET=1: interpreted kernels cannot be compiled; unset it" in done.stderr


def test_dashes_are_accepted_only_for_keys_of_the_benchmark() -> None:
    arguments = ["--targets", "sm_80,sm_90", "--dtype=fp16", "--cfg", "job", "head_dim=64", "--tokens"]
    expected = ["targets=sm_80,sm_90", "dtype=fp16", "--cfg", "job", "head_dim=64", "tokens="]
    assert as_pairs(arguments, KernelBenchConfig) == expected


CODE = [
    (0x00, "STL.64 [R1], R2"),
    (0x10, "HMMA.16816.F32 R4, R8, R10, R4"),
    (0x20, "STL [R1+0x8], R2"),
    (0x30, "HGMMA.64x16x16.F32.BF16 R24, gdesc[UR8], R24"),
    (0x40, "STL.128 [R1+0x10], R4"),
    (0x50, "@P0 BRA 0x30"),
    (0x60, "STL [R1+0x20], R2"),
    (0x70, "IADD3 R1, R1, 0x1, RZ"),
    (0x80, "@!P1 BRA 0x70"),
    (0x90, "@P2 BRA 0x10"),
    (0xA0, "BRA 0xa0"),
]
"""A loop from 0x10 to 0x90 that contains a loop with products, from 0x30 to 0x50, and one without."""


def test_local_stores_of_the_innermost_loop_with_products() -> None:
    assert [address for address, _ in innermost_products(CODE)] == [0x30, 0x40, 0x50]
    assert local_stores(innermost_products(CODE)) == 16
    assert local_stores(CODE) == 8 + 4 + 16 + 4
    assert innermost_products([(0, "STL [R1], R2"), (16, "EXIT")]) == []


def test_a_table_in_markdown() -> None:
    columns: list[Column[int]] = [Column("n", 2, str, left=True), Column("n^2", 3, lambda n: str(n * n))]
    assert markdown_lines(columns, [3]) == ["| n | n^2 |", "| :--- | ---: |", "| 3 | 9 |"]


def test_the_document_has_every_kernel_on_every_target() -> None:
    lines = table_of(DOCUMENT.read_text())
    assert set(lines[0]) >= {column.heading for column in COLUMNS}
    seen = {(line["kernel"], line["target"]) for line in lines if (line["D"], line["b"]) == ("64", "16")}
    every = {(kernel, target) for kernel in KERNELS for target in ("sm_80", "sm_90", "sm_100", "gfx942")}
    assert seen == every - {("mlp_forward_on_chip", "gfx942")}


def test_every_kernel_fits_the_smallest_shared_memory() -> None:
    """The smallest is 99 KB, on sm_86 and sm_89; the table marks larger sizes with a star."""
    fitting = {line["kernel"] for line in table_of(DOCUMENT.read_text()) if not line["shared"].endswith("*")}
    assert fitting == set(KERNELS)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "itemsize", "b"), [("bf16", 2, 64), ("fp32", 4, 16)])
def test_shared_memory_matches_the_table_that_refuses_sizes(
    dtype: str, itemsize: int, b: int, kernels: Command, tmp_path: Path
) -> None:
    """Compile D = 128. Larger mini-batches of float32 take minutes to compile."""
    known = recorded()
    most: dict[str, int] = known["shared"][f"{dtype} {b}"] if known else {}
    if not known:
        sizes = [f"dtype={dtype}", "head_dim=128", f"mini_batch_size={b}"]
        done = kernels("targets=sm_86", *sizes, program=WITHOUT_CODE + PROGRAM)
        assert done.returncode == 0, done.stderr
        for row in rows_below(tmp_path):
            if row["measure"] == "shared":
                most[row["model"]] = max(most.get(row["model"], 0), int(row["value"]))
        record(shared={f"{dtype} {b}": most})
    for name, found in most.items():
        stated = SHARED.get((name, itemsize, 128, b))
        assert found <= SMALL_SHARED if stated is None else found == stated, name


SPILLED = {
    "linear_forward": {"sm_90": 0, "sm_80": 0, "gfx942": 0},
    "linear_decode": {"sm_90": 0, "sm_80": 0, "gfx942": 0},
    "mlp_decode": {"sm_90": 0, "sm_80": 0, "gfx942": 0},
    "linear_backward": {"sm_90": 0, "sm_80": 128, "gfx942": 24},
    "mlp_forward": {"sm_90": 128, "sm_80": 256, "gfx942": 0},
    "mlp_forward_on_chip": {"sm_90": 704, "sm_80": 1920},
    "mlp_backward": {"sm_90": 576, "sm_80": 896, "gfx942": 192},
}
"""Largest number of bytes that a kernel may spill, bf16, D = 64, b = 16. Wide blocks of TTT-MLP spill more, wait less:
by the latency model its backward pass takes 0.42 times as long with 128 columns as with 32. The same holds for its
forward pass with W on chip: with 16 warps a thread on sm_80 has 64 registers, and a multiprocessor two programs."""

IN_LOOPS = {"linear_forward": 0, "linear_backward": 0, "mlp_forward": 0, "mlp_backward": 256}
"""Largest number of bytes that a kernel may spill within its innermost loops with products, on sm_80 and sm_90."""


@pytest.fixture(scope="module")
def facts(compiling: Starter, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """Return the spills and unordered accesses of D = 64 and b = 16 in bf16, compiled only if no record has them."""
    if known := recorded():
        return known
    folder = tmp_path_factory.mktemp("compiled")
    found = compiled(compiling, folder, MANY_PROGRAMS, "sm_80,sm_90,gfx942", SPILLED)
    record(**found)
    return found


def compiled(compiling: Starter, folder: Path, more: str, targets: str, kernels: Iterable[str]) -> Facts:
    """Compile kernels in a process and return their facts."""
    arguments = ["kernels", f"targets={targets}", "head_dim=64", "kernels=" + ",".join(kernels)]
    done = compiling.run(KEEPING_PTX + more + PROGRAM, arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {"spills": spills(rows_below(folder)), "accesses": accesses(folder)}


@pytest.mark.slow
def test_the_record_is_what_the_compiler_gives(compiling: Starter, facts: Facts, tmp_path: Path) -> None:
    """Two kernels, compiled in every test run; the others only if their code changed."""
    found = compiled(compiling, tmp_path, "", "sm_90", ["linear_backward", "linear_decode"])
    assert len(found["spills"]) == len(found["accesses"]) == 2
    for kind, values in found.items():
        assert values.items() <= facts[kind].items()


def test_other_code_is_not_the_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECORD_KERNELS", raising=False)
    monkeypatch.setattr("triton.__version__", "0")
    assert recorded() is None


@pytest.mark.slow
def test_kernels_spill_no_more_than_they_may(facts: Facts) -> None:
    found = facts["spills"]
    too_many = {
        (kernel, target): found[f"{kernel} {target}"]
        for kernel, targets in SPILLED.items()
        for target, most in targets.items()
        if found[f"{kernel} {target}"][0] > most
    }
    assert too_many == {}
    in_loops = {key: value for key, (_, value) in found.items() if value is not None and key.split()[0] in IN_LOOPS}
    assert {key: value for key, value in in_loops.items() if value > IN_LOOPS[key.split()[0]]} == {}


HARMLESS = {
    # A block's part is stored after the next block's part, at other addresses, has been loaded.
    ("b1_last", "mlp_forward.py"),
    ("b1_sum", "functions.py"),
    # Several warps load the same numbers and one stores; the others' sums are not stored.
    ("db1", "mlp_backward.py"),
}
"""Arguments and files of accesses that no barrier separates and that need none."""


@pytest.mark.slow
def test_a_barrier_stands_between_accesses_of_different_threads(facts: Facts) -> None:
    checked = facts["accesses"]
    assert {name.partition("-")[0] for name in checked} == SPILLED.keys()
    assert {"linear_backward-sm_90-4", "linear_forward-sm_90-2"} <= checked.keys()
    for name, (found, without) in checked.items():
        assert set(map(tuple, found)) <= HARMLESS, name
        # Between its first and its last mini-batch W is in registers: nothing that it stores is loaded again.
        reads_back = (name.startswith("mlp_") or "decode" in name) and "on_chip" not in name
        if reads_back:
            assert without >= 3, f"{name}: missing barriers are seen"


@pytest.mark.slow
def test_a_cache_is_filled_with_every_kernel_of_a_layer(kernels: Command, tmp_path: Path) -> None:
    done = kernels("targets=sm_90", "kernels=linear_decode", "head_dim=32", "mini_batch_size=8", "warm=cache")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^3 kernels, \d\.\d MiB; use them with TRITON_CACHE_DIR=cache$", done.stdout, re.MULTILINE)
    assert not (tmp_path / "runs").exists()
    assert len(list((tmp_path / "cache").glob("*/linear_decode.cubin"))) == 3


RACE = """.visible .entry kernel(.param .u64 kernel_param_0, .param .u64 kernel_param_1)
{
	ld.param.b64 %rd1, [kernel_param_0];
	ld.param.b64 %rd2, [kernel_param_1];
	add.s64 %rd3, %rd1, %rd9;
$L__BB0_1:
	st.global.b32 [ %rd3 + 0 ], { %r1 };
	@%p1 bra $L__BB0_2;
	BARRIER
$L__BB0_2:
	ld.global.b32 { %r2 }, [ %rd1 + 4 ];
	ld.global.b32 { %r3 }, [ %rd2 + 4 ];
	bar.sync 0;
	@%p2 bra $L__BB0_1;
	ret;
}
"""
"""A store that a branch leads past the barrier to a load of the same argument, in a loop with a barrier at its end."""


def test_the_check_follows_branches_and_pointers() -> None:
    assert {pair[0] for pair in pairs(RACE.replace("BARRIER", "bar.sync 0;"))} == {0}
    straight = RACE.replace("@%p1 bra $L__BB0_2;", "").replace("BARRIER", "bar.sync 0;")
    assert pairs(straight) == set()
    (after_the_loop,) = (pair for pair in pairs(without_barriers(straight)) if pair.first_loads)
    assert after_the_loop.argument == 0
