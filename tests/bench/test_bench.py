"""``ttt-bench``: complete rows, fair baselines, errors of one line, and a file that stays complete after a kill."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from ttt.analysis.store import load_results
from ttt.bench.inner import inner_functions, random_inputs, split_times
from ttt.bench.measurement import PLAIN, Implementation, Measurement, Workload, implementations
from ttt.bench.timing import spread
from ttt.bench.turns import take_turns
from ttt.cli import bench as command
from ttt.config.bench import InnerBenchConfig
from ttt.config.errors import UserError
from ttt.inner.dual import dual_mini_batch
from ttt.inner.loop import InnerSpec
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.scan import scan
from ttt.kernels.dispatch import choose_kernel
from ttt.results.benchmarks import Benchmark, Row, read_benchmark

INNER = ["width=8", "heads=2", "tokens=20", "mini_batch_size=4", "rounds=2", "kernels=plain,dual", "memory=false"]
MODEL = ["width=8", "heads=2", "tokens=20", "rounds=1", "blocks=1", "mlp_hidden=8", "vocab=16", "decode=2", "threads=1"]

Command = Callable[..., str]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Return a function that runs ``ttt-bench`` in this process and returns its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ttt.bench.timing.LEAST_SECONDS", 0.0)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ttt-bench", *arguments])
        command.main()
        return capsys.readouterr().out

    return run


def only_benchmark(folder: Path) -> Benchmark:
    (path,) = folder.glob("*/benchmark.json")
    return read_benchmark(path)


def selected(benchmark: Benchmark, measure: str) -> list[Row]:
    return [row for row in benchmark["rows"] if row["measure"] == measure]


@pytest.mark.slow
def test_inner_measures_every_form_in_every_setting(bench: Command, tmp_path: Path) -> None:
    printed = bench("inner", *INNER, "inner_model=linear,mlp", "tokens=12,20", "checkpoint_group=0,2")
    benchmark = only_benchmark(tmp_path / "runs")
    assert benchmark["kind"] == "inner"
    assert benchmark["ended"] is not None
    forms = {("plain", 0), ("dual", 0), ("dual", 2)}
    for name in ("forward", "forward_backward"):
        for suffix in ("", "_speedup", "_tokens_per_second", "_share"):
            rows = selected(benchmark, name + suffix)
            seen = {(row["model"], row["tokens"], row["form"], row["checkpoint_group"]) for row in rows}
            assert seen == {(model, T, *form) for model in ("linear", "mlp") for T in (12, 20) for form in forms}
            assert len(rows) == len(seen)
    assert {row["unit"] for row in selected(benchmark, "forward_speedup")} == {"1"}
    assert len(selected(benchmark, "matmul")) == 4
    assert all(0 < row["low"] <= row["value"] <= row["high"] for row in benchmark["rows"])
    assert benchmark["machine"]["cpu"] in printed
    assert printed.splitlines()[-1] == str(Path("runs", benchmark["benchmark_id"], "benchmark.json"))


def test_plain_is_its_own_measure_and_alone_has_a_split(bench: Command, tmp_path: Path) -> None:
    bench("inner", *INNER, "inner_model=linear", "kernels=dual")
    benchmark = only_benchmark(tmp_path / "runs")
    for row in selected(benchmark, "forward_speedup") + selected(benchmark, "forward_backward_speedup"):
        if row["form"] == "plain":
            assert (row["low"], row["value"], row["high"]) == (1.0, 1.0, 1.0)
    for measure in ("W", "z", "total"):
        assert [row["form"] for row in selected(benchmark, measure)] == ["plain"]


def test_what_is_switched_off_is_not_measured(bench: Command, tmp_path: Path) -> None:
    bench("inner", *INNER, "split=false", "backward=false", "kernels=plain", "inner_model=mlp")
    measures = {row["measure"] for row in only_benchmark(tmp_path / "runs")["rows"]}
    assert measures == {"matmul", "forward", "forward_speedup", "forward_tokens_per_second", "forward_share"}


def test_the_baseline_is_the_scan_of_ordinary_operators() -> None:
    kernel = choose_kernel(PLAIN.config, InnerSpec(InnerMLP()))
    assert isinstance(kernel, partial)
    assert (kernel.func, kernel.args, kernel.keywords) == (scan, (dual_mini_batch,), {"recompute_group": 0})


def test_implementations_begin_with_the_baseline_and_repeat_nothing() -> None:
    found = implementations(InnerBenchConfig(kernels=["auto", "plain", "auto"], checkpoint_group=[0, 16]))
    assert found == [PLAIN, Implementation("auto", 0), Implementation("auto", 16)]
    with pytest.raises(UserError, match="kernels=fast: choose from plain, auto"):
        implementations(InnerBenchConfig(kernels=["fast"], checkpoint_group=[0]))


@pytest.mark.slow
@pytest.mark.parametrize("b", [1, 4, 100])
@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_all_kernels_compute_the_same(model: str, b: int) -> None:
    kernels = ["dual", "auto", "primal"]
    config = InnerBenchConfig(width=8, heads=2, batch=2, dtype="float64", kernels=kernels, checkpoint_group=[2])
    chosen = implementations(config)
    assert len(chosen) == 4
    functions = [inner_functions(config, model, b, implementation, 70) for implementation in chosen]
    torch.testing.assert_close([each["forward"]() for each in functions], [functions[0]["forward"]()] * len(functions))
    gradients = [each["forward_backward"]() for each in functions]
    # q, k, v, eta, tau, scale and shift, and every parameter of W_0.
    assert len(gradients[0]) == 7 + (2 if model == "linear" else 4)  # type: ignore[arg-type]
    assert all(torch.isfinite(gradient).all() for gradient in gradients[0])  # type: ignore[attr-defined]
    torch.testing.assert_close(gradients, [gradients[0]] * len(gradients))


@pytest.mark.parametrize(("b", "tokens", "lengths"), [(8, 20, [8, 8, 4]), (128, 200, [128, 72])])
def test_the_split_goes_the_whole_way(b: int, tokens: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    config = InnerBenchConfig(width=8, heads=2, batch=1)
    inputs = random_inputs(config, InnerSpec(InnerMLP()), b, tokens)
    real = sys.modules["ttt.bench.inner"].dual_outputs

    def watched(*arguments: object) -> object:
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr("ttt.bench.inner.dual_outputs", watched)
    seconds = split_times(inputs)
    assert seconds.keys() == {"W", "z", "total"}
    assert seconds["total"] == seconds["W"] + seconds["z"]
    whole = inner_functions(InnerBenchConfig(width=8, heads=2, batch=1), "linear", b, PLAIN, tokens)["forward"]()
    torch.testing.assert_close(torch.cat(seen, dim=2), whole)
    # The paper's dual form: each mini-batch at once, however long.
    assert [z.shape[2] for z in seen] == lengths


def test_everything_is_timed_in_turn_and_the_first_time_does_not_count() -> None:
    order: list[str] = []
    workload = Workload("linear", 8, 4, 1)
    measurements = [
        Measurement(workload, None, name, lambda _, name=name: {name: partial(order.append, name)}) for name in "ab"
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttt.bench.timing.LEAST_SECONDS", 0.0)
        samples = take_turns(measurements, 3, torch.device("cpu"), lambda _: None)
    assert order == ["a", "b"] * 4
    times = {name: len(values) for found in samples.values() for name, values in found.seconds.items()}
    assert times == {"a": 3, "b": 3}


def test_spread_is_median_and_quartiles() -> None:
    assert spread([3.0, 1.0, 2.0, 5.0, 4.0]) == (3.0, 2.0, 4.0)
    assert spread([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(bench: Command, tmp_path: Path) -> None:
    """Two heads of width 256 have a W of 512 KiB, and plain keeps W of each of the 128 mini-batches."""
    bench("inner", *INNER, "memory=true", "inner_model=linear", "width=512", "tokens=512", "checkpoint_group=8")
    plain, grouped = selected(only_benchmark(tmp_path / "runs"), "peak_memory")
    assert (plain["unit"], plain["form"], grouped["checkpoint_group"]) == ("B", "plain", 8)
    assert plain["value"] > 128 * 512 * 1024
    assert grouped["value"] < 0.7 * plain["value"]


@pytest.mark.slow
def test_model_measures_training_and_decoding(bench: Command, tmp_path: Path) -> None:
    printed = bench(
        "model", *MODEL, "model=ttt_linear,transformer", "tokens=12,20", "kernels=auto", "memory=false", "--wide"
    )
    benchmark = only_benchmark(tmp_path / "runs")
    rows = selected(benchmark, "forward_backward")
    seen = [(row["model"], row["tokens"], row["form"], row["mini_batch_size"]) for row in rows]
    assert seen == [
        *(("ttt_linear", T, form, 16) for T in (12, 20) for form in ("plain", "auto")),
        *(("transformer", T, "plain", None) for T in (12, 20)),
    ]
    decoded = [(row["model"], row["form"], row["tokens"]) for row in selected(benchmark, "decode")]
    assert decoded == [("ttt_linear", "plain", 512), ("ttt_linear", "auto", 512), ("transformer", "plain", 512)]
    assert "ms/1k tokens" in printed


MISTAKES = [
    (["outer"], "outer: no such benchmark; choose one of inner, model, latency, kernels"),
    (["inner", "kernels=fast"], "kernels=fast: choose from plain, auto"),
    (["inner", "tokens=0"], "tokens=0: must be at least 1"),
    (["inner", "tokens=16,0"], "tokens=0: must be at least 1"),
    (["inner", "tokens=[]"], "tokens=[]: give at least one value"),
    (["inner", "tokens=many"], "tokens[0]=many: Value 'many' of type 'str' could not be converted to Integer"),
    (["inner", "width=10", "heads=4"], "heads=4: must divide width=10"),
    (["inner", "width=4", "heads=4"], "heads=4: must divide width=4 into heads of even width"),
    (["inner", "mini_batch_size=0"], "mini_batch_size=0: must be at least 1"),
    (["inner", "checkpoint_group=-1"], "checkpoint_group=-1: must be at least 0"),
    (["inner", "inner_model=cnn"], "inner_model=cnn: choose from linear, mlp"),
    (["inner", "dtype=float16"], "dtype=float16: choose one of float32, float64"),
    (["inner", "kernals=plain"], "kernals: no such key; did you mean kernels?"),
    (["inner", "blocks=2"], "blocks: no such key"),
    (["model", "model=rwkv"], "model=rwkv: choose one of"),
    (["model", "backbone=transformr"], "backbone=transformr: choose one of mamba, own, transformer"),
    (["model", "model=ttt_linear,mamba", "backbone=mamba"], "backbone=mamba: model=mamba sits in own or transformer"),
    (["model", "vocab=0"], "vocab=0: must be at least 1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_gets_one_line_and_writes_nothing(
    arguments: list[str], line: str, bench: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench(*arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert shown.err.startswith(f"error: {line}")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(bench: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        bench("inner", *INNER, f"runs={tmp_path}/file")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--help"], *([kind, "--help"] for kind in command.COMMANDS)], ids=" ".join)
def test_help_names_the_keys_and_imports_no_torch(arguments: list[str]) -> None:
    code = f"import sys; sys.argv = ['ttt-bench', *{arguments}]\nfrom ttt.cli.bench import main\n"
    code += "try: main()\nexcept SystemExit: pass\nprint({'torch', 'pandas'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("set()\n")
    if arguments[:1] and arguments[0] in command.COMMANDS:
        schema = command.COMMANDS[arguments[0]].schema
        keys = {
            {"models": "model", "sizes": "size", "contexts": "ctx"}.get(name, name)
            for name in schema.__dataclass_fields__.keys() - {"parent"}
        }
        assert all(f"  {key}=" in shown for key in keys)


@pytest.mark.slow
def test_what_was_measured_survives_a_kill(tmp_path: Path) -> None:
    sizes = ",".join(map(str, range(1, 200)))
    arguments = [*INNER, "inner_model=linear", "kernels=plain", "rounds=1", f"runs={tmp_path}"]
    # So many sizes take minutes, so the benchmark is certainly still running.
    arguments += [f"mini_batch_size={sizes}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ttt.cli.bench", "inner", *arguments],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 600
        while not (rows := _rows(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert rows
    benchmark = only_benchmark(tmp_path)
    assert benchmark["ended"] is None
    assert {row["measure"] for row in benchmark["rows"]} >= {"forward", "forward_backward", "W", "z"}


def _rows(folder: Path) -> list[Row]:
    return [row for path in folder.glob("*/benchmark.json") for row in json.loads(path.read_text())["rows"]]


@pytest.mark.slow
def test_repetitions_lie_side_by_side_and_the_store_reads_them(bench: Command, tmp_path: Path) -> None:
    for _ in range(2):
        bench("inner", *INNER, "inner_model=linear", "kernels=plain")
    results = load_results(tmp_path / "runs")
    assert results.runs.empty
    table = results.benchmarks
    assert table["benchmark_id"].nunique() == 2
    written = [row for path in sorted(tmp_path.glob("runs/*/benchmark.json")) for row in read_benchmark(path)["rows"]]
    assert table["value"].tolist() == [row["value"] for row in written]
    assert table["measure"].tolist() == [row["measure"] for row in written]
    first = table.iloc[0]
    assert (first["kind"], first["width"], first["threads"], first["rounds"]) == ("inner", 8, 1, 2)
    assert first["cpu"]
    assert [first == second for first, second in pairwise(table["benchmark_id"])].count(False) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda text: text[:-20], "not a benchmark"),
        (lambda text: text[:0] + "[]", "no schema_version"),
        (
            lambda text: text.replace('"schema_version": 1', '"schema_version": 2').replace('"kind"', '"sort"'),
            "schema_version=2 is newer",
        ),
        (lambda text: text.replace('"kind"', '"sort"'), "lacks kind"),
        (lambda text: text.replace('"threads"', '"treads"'), "is damaged or was edited"),
    ],
)
def test_a_damaged_file_is_named(spoil: Callable[[str], str], line: str, bench: Command, tmp_path: Path) -> None:
    bench("inner", *INNER, "inner_model=linear", "kernels=plain")
    (path,) = tmp_path.glob("runs/*/benchmark.json")
    path.write_text(spoil(path.read_text()))
    with pytest.raises(UserError, match=line) as raised:
        load_results(tmp_path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
