"""``ttt-bench latency`` on a CPU: the measurements, the clock, and the numbers derived from the times."""

import json
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from ttt.analysis.latency import latencies
from ttt.analysis.store import load_results
from ttt.bench.latency_kernels import kernel_measurements
from ttt.bench.measurement import Implementation, Measurement, Samples, Workload
from ttt.bench.models import (
    decode_functions,
    for_batch,
    latency_groups,
    loss_functions,
    prefill_functions,
    prompt_state,
    random_model,
)
from ttt.bench.rows import rows_of_group
from ttt.bench.timing import clock_of, timed, timed_by_gpu
from ttt.bench.turns import take_turns
from ttt.cli import bench as command
from ttt.cli.compose import as_object, compose, method
from ttt.config.bench import LatencyBenchConfig
from ttt.config.errors import UserError
from ttt.config.gpus import A100, B200, GPU, H100, H200, gpu_named
from ttt.layers.gla import GatedLinearAttention
from ttt.models.decoder import FixedDecoder
from ttt.models.device import choose_device
from ttt.models.language_model import LanguageModel
from ttt.results.benchmarks import PLAIN_RECURRENCE, Row

TINY = ["width=16", "heads=2", "blocks=1", "mlp_hidden=16", "vocab=16", "tokens=12,20", "rounds=1", "decode=3"]
TINY += ["batch=2", "decode_batch=3", "train_tokens=40", "device=cpu", "memory=false"]
CPU = torch.device("cpu")


@pytest.fixture
def latency(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ttt.bench.timing.LEAST_SECONDS", 0.0)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ttt-bench", "latency", *arguments])
        command.main()
        return capsys.readouterr().out

    return run


def rows_below(folder: Path) -> list[Row]:
    (path,) = folder.glob("runs/*/benchmark.json")
    return json.loads(path.read_text())["rows"]


@pytest.mark.slow
def test_every_model_is_timed_in_training_prefill_and_decoding(latency: Callable[..., str], tmp_path: Path) -> None:
    printed = latency(*TINY, "model=ttt_linear,transformer", "kernels=auto,dual")
    rows = rows_below(tmp_path)
    seen = {(row["model"], row["form"], row["tokens"], row["measure"]) for row in rows}
    named = [("ttt_linear", "auto"), ("ttt_linear", "dual"), ("transformer", None)]
    measures = [f"{use}{suffix}" for use in ("train", "prefill", "decode") for suffix in ("", "_tokens_per_second")]
    assert seen == {(*name, T, measure) for name in named for T in (12, 20) for measure in measures}
    assert len(seen) == len(rows)
    by = {(row["form"], row["tokens"], row["measure"]): row for row in rows}
    # 40 tokens per step are three sequences of 12 or two of 20; prefill reads two sequences, decoding three.
    for tokens, measure, batch, read in ((12, "train", 3, 36), (20, "train", 2, 40), (20, "prefill", 2, 40)):
        assert by["auto", tokens, measure]["batch"] == batch
        rate = by["auto", tokens, f"{measure}_tokens_per_second"]["value"]
        assert rate == pytest.approx(read / by["auto", tokens, measure]["value"])
    assert by["auto", 20, "decode"]["batch"] == 3
    assert by["auto", 20, "decode_tokens_per_second"]["value"] == pytest.approx(3 / by["auto", 20, "decode"]["value"])
    assert printed.count("one more token") == len(named) * 2 + 1


@pytest.mark.slow
def test_every_model_sits_in_the_backbone_that_it_trains_in(latency: Callable[..., str], tmp_path: Path) -> None:
    latency(*TINY, "tokens=8", "train=false", "decode=0")
    seen = {row["model"]: row["backbone"] for row in rows_below(tmp_path)}
    assert seen == {"ttt_linear": "mamba", "ttt_mlp": "mamba", "transformer": "transformer", "mamba": "own"}
    table = latencies(load_results(tmp_path / "runs"), "prefill")
    assert dict(zip(table["model"], table["backbone"], strict=True)) == seen


@pytest.mark.slow
def test_one_backbone_can_be_asked_for(latency: Callable[..., str], tmp_path: Path) -> None:
    latency(*TINY, "tokens=8", "train=false", "decode=0", "model=ttt_linear,mamba", "backbone=transformer")
    assert {row["backbone"] for row in rows_below(tmp_path)} == {"transformer"}


@pytest.mark.slow
def test_the_memory_of_training_and_prefill_is_measured(latency: Callable[..., str], tmp_path: Path) -> None:
    """Attention keeps q, k, v and z for the backward pass: 8 MiB for 1024 tokens of width 512."""
    sizes = ["model=transformer", "width=512", "tokens=1024", "train_tokens=1", "batch=1", "decode_batch=1"]
    printed = latency(*TINY, *sizes, "memory=true", "--wide")
    rows = {row["measure"]: row for row in rows_below(tmp_path)}
    assert rows["train_memory"]["unit"] == rows["prefill_memory"]["unit"] == "B"
    assert rows["train_memory"]["value"] > 8 * 2**20
    assert 0 < rows["prefill_memory"]["value"] < rows["train_memory"]["value"]
    assert "decode_memory" not in rows
    assert f"{rows['train_memory']['value'] / 2**20:,.0f}" in printed


@pytest.mark.slow
def test_what_does_not_fit_is_named_and_the_rest_goes_on(latency: Callable[..., str], tmp_path: Path) -> None:
    """The token ids would take a petabyte."""
    printed = latency(*TINY, "model=mamba,transformer", "tokens=8", f"decode_batch={10**14}")
    assert printed.count(f"mamba, decode, tokens=8, B={10**14}: does not fit in memory; left out") == 1
    seen = {(row["model"], row["measure"]) for row in rows_below(tmp_path) if row["unit"] == "s"}
    assert seen == {(model, measure) for model in ("mamba", "transformer") for measure in ("train", "prefill")}


def measurement(function: Callable[[], object], measure: str = "train") -> Measurement:
    return Measurement(Workload("mamba", 8, None, 2), None, measure, lambda _: {measure: function}, 16)


@pytest.mark.slow
def test_lack_of_memory_at_any_time_skips_a_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    """It may run out while its peak is measured in a separate process, which is killed, or in a later round."""
    runs: list[None] = []

    def third_time() -> None:
        runs.append(None)
        if len(runs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def peak(measured: Measurement) -> int | None:
        if measured is killed:
            raise BrokenProcessPool
        return 7 if measured is good else None

    killed, late, good = (
        measurement(function, name) for function, name in ((int, "train"), (third_time, "prefill"), (int, "decode"))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttt.bench.timing.LEAST_SECONDS", 0.0)
        samples = take_turns([killed, late, good], 3, CPU, peak)
    assert list(samples) == [good]
    assert (len(samples[good].seconds["decode"]), samples[good].peak) == (3, 7)
    assert capsys.readouterr().out.splitlines() == [
        "mamba, train, tokens=8, B=2: its process died, most likely for lack of memory; left out",
        "mamba, prefill, tokens=8, B=2: does not fit in memory; left out",
    ]


def test_another_error_is_no_lack_of_memory() -> None:
    def broken() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        take_turns([measurement(broken)], 1, CPU, lambda _: None)


def test_measurements_take_turns_within_a_round() -> None:
    order: list[str] = []
    measurements = [measurement(partial(order.append, name)) for name in "ab"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttt.bench.timing.LEAST_SECONDS", 0.0)
        take_turns(measurements, 2, CPU, lambda _: None)
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize("name", ["ttt_linear", "ttt_mlp", "transformer", "mamba"])
@pytest.mark.usefixtures("configure")
def test_a_prompt_that_was_read_once_is_continued_by_every_sequence(name: str) -> None:
    config = LatencyBenchConfig(width=16, heads=2, blocks=1, mlp_hidden=16, vocab=16, decode=2, decode_batch=3)
    its, dual = method(name, 21), Implementation("dual", None)
    state = for_batch(prompt_state(config, its, dual, 21), 3, CPU)
    model = random_model(config, its, dual)
    # The same random ids as the prompt's.
    prompt, more = torch.randint(16, (1, 21)), torch.randint(16, (3, 1))
    after, _ = model(more, state=state)
    whole = model(torch.cat((prompt.expand(3, -1), more), dim=1))
    torch.testing.assert_close(after[:, -1], whole[:, -1])
    torch.testing.assert_close(model.read_prompt(prompt)[0], model(prompt)[:, -1])


@pytest.mark.parametrize("name", ["ttt_linear", "ttt_mlp", "transformer", "mamba"])
@pytest.mark.usefixtures("configure")
def test_inference_in_half_precision_has_half_precision_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding spends its time on reading weights: autocast would read float32 weights, twice the bytes."""
    config = LatencyBenchConfig(
        width=16, heads=2, blocks=1, mlp_hidden=16, vocab=16, decode=1, dtype="bfloat16", batch=1
    )
    its, dual, used = method(name, 21), Implementation("dual", None), []

    def watched(*arguments: object) -> LanguageModel:
        model = random_model(*arguments)  # type: ignore[arg-type]
        model.register_forward_pre_hook(lambda *_: used.append((torch.is_autocast_enabled("cpu"), types(model))))
        read = model.read_prompt
        monkeypatch.setattr(model, "read_prompt", lambda ids: (used.append((False, types(model))), read(ids))[1])
        return model

    def types(model: LanguageModel) -> set[torch.dtype]:
        return {parameter.dtype for parameter in model.parameters()}

    monkeypatch.setattr("ttt.bench.models.random_model", watched)
    prefill_functions(config, its, dual, 21)["prefill"]()
    decode_functions(config, its, dual, partial(prompt_state, config, its, dual), 2, 21)["decode"]()
    assert used == [(False, {torch.bfloat16})] * len(used)
    assert len(used) == 3
    used.clear()
    loss_functions(config, its, dual, 1, 21)["train"]()
    assert used == [(True, {torch.float32})]
    used.clear()
    other = replace(config, half_weights=False)
    decode_functions(other, its, dual, partial(prompt_state, other, its, dual), 2, 21)["decode"]()
    assert (True, {torch.float32}) in used


@pytest.mark.usefixtures("configure")
def test_a_state_that_is_overwritten_is_decoded_in_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LatencyBenchConfig(
        width=16, heads=1, blocks=1, mlp_hidden=16, vocab=16, decode=2, batch=1, decode_state="float16"
    )
    its, used, states = method("ttt_linear", 5), Implementation("triton", None), []
    monkeypatch.setattr(FixedDecoder, "__call__", lambda self, _: states.append(self.state))
    decode_functions(config, its, used, partial(prompt_state, config, its, used), 3, 5)["decode"]()
    assert len(states) == 2
    W = {name: x for name, x in states[0].items() if ".inner.W." in name}
    assert {(x.shape[0], x.dtype, x.is_contiguous()) for x in W.values()} == {(3, torch.float16, True)}
    assert {int(x) for name, x in states[0].items() if name.endswith("place")} == {5}


@pytest.mark.usefixtures("configure")
def test_the_scales_are_of_the_sizes_that_they_name() -> None:
    laptop, paper = (
        as_object(compose("bench_latency", [f"scale={scale}"]), LatencyBenchConfig) for scale in ("laptop", "paper")
    )
    assert as_object(compose("bench_latency", []), LatencyBenchConfig) == laptop
    assert (laptop.size.name, laptop.width, laptop.vocab, laptop.dtype) == ("w64", laptop.size.width, 1024, "float32")
    assert (laptop.tokens[0], laptop.tokens[-1], laptop.batch, laptop.decode_batch) == (512, 16384, 1, 1)
    assert {laptop.train_batch(tokens) for tokens in laptop.tokens} == {1}
    assert (paper.size.name, paper.blocks, paper.vocab, paper.dtype) == ("1.3b", 24, 32000, "bfloat16")
    assert (paper.tokens[-1], paper.batch, paper.decode_batch) == (32768, 16, 512)
    assert {paper.train_batch(tokens) * tokens for tokens in paper.tokens} == {32768}
    for config in (laptop, paper):
        config.check()
        assert config.backbone is None


@pytest.mark.usefixtures("configure")
def test_the_papers_scale_has_the_papers_models() -> None:
    config = as_object(compose("bench_latency", ["scale=paper"]), LatencyBenchConfig)
    with torch.device("meta"):
        models = {
            name: random_model(config, method(name, 2048), Implementation("auto", None)) for name in config.models
        }
    billions = {name: sum(p.numel() for p in model.parameters()) / 1e9 for name, model in models.items()}
    assert {name: len(model.blocks) for name, model in models.items()} == dict.fromkeys(models, 24) | {"mamba": 48}
    # The paper's Mamba of 1.4B has a vocabulary of 50k.
    assert all(1.25 < billions[name] < 1.45 for name in models), billions


@pytest.mark.usefixtures("configure")
def test_keys_of_a_scale_can_be_set() -> None:
    arguments = ["scale=paper", "size=125m", "tokens=[64]", "width=64", "batch=2"]
    config = as_object(compose("bench_latency", arguments), LatencyBenchConfig)
    assert (config.width, config.blocks, config.tokens, config.batch, config.vocab) == (64, 12, [64], 2, 32000)


def test_what_is_switched_off_is_not_timed(latency: Callable[..., str], tmp_path: Path) -> None:
    latency(*TINY, "model=ttt_mlp", "kernels=dual", "train=false", "decode=0", "tokens=12", "dtype=bfloat16")
    assert {row["measure"] for row in rows_below(tmp_path)} == {"prefill", "prefill_tokens_per_second"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["device=tpu"], "device=tpu: choose one of auto, cpu, cuda"),
        (["kernels=fast"], "kernels=fast: choose from auto, "),
        (["dtype=float64"], "dtype=float64: choose one of bfloat16, float16, float32"),
        (["decode=-1"], "decode=-1: must be at least 0"),
        (["train_tokens=0"], "train_tokens=0: must be at least 1"),
        (["decode_batch=0"], "decode_batch=0: must be at least 1"),
        (["scale=small"], "scale=small: choose one of gpu, laptop, paper"),
        (["size=2b"], "size=2b: choose one of g1, g2, w64, w128, "),
        (["model=ttt_linear", "backbone=own"], "backbone=own: model=ttt_linear sits in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_line(
    arguments: list[str], line: str, latency: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        latency(*TINY, *arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith(f"error: {line}")
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_is_asked_for_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="device=cuda: torch finds no such device here; cpu always runs"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")
    assert clock_of(torch.device("cpu")) is timed
    assert clock_of(torch.device("cuda")) is timed_by_gpu


def test_events_stand_around_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            happened.append("record")

        def synchronize(self) -> None:
            happened.append("synchronize")

        def elapsed_time(self, end: object) -> float:
            assert end is not self
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert timed_by_gpu("train", partial(happened.append, "work"))() == {"train": 0.25}
    assert happened == ["record", "work", "record", "synchronize"]


def test_a_bound_is_the_later_of_operations_and_memory() -> None:
    device = GPU("one", memory_bandwidth=10.0, half_flops=100.0, float_flops=1.0, memory=1.0)
    assert device.seconds(200.0, 10.0, "bf16") == 2.0
    assert device.seconds(200.0, 50.0, "fp16") == 5.0
    assert device.seconds(200.0, 50.0, "fp32") == 200.0


def test_devices_are_found_by_their_names() -> None:
    names = {"NVIDIA A100-SXM4-80GB": A100, "NVIDIA H100 80GB HBM3": H100, "NVIDIA H200": H200, "NVIDIA B200": B200}
    assert {name: gpu_named(name) for name in names} == names
    assert gpu_named("NVIDIA GeForce GTX 1080") is None


def test_bandwidth_and_share_of_the_bound() -> None:
    """An H100 needs 1 ms for 67 GFLOP in float32, and 2 ms for 6.7 GB."""
    workload, triton = Workload("linear", 100, 16, 4), Implementation("triton", 16)
    measured = Measurement(workload, triton, "inner_forward", lambda _: {}, 400, moved=6.7e9, flops=67e9)
    samples = {measured: Samples({"inner_forward": [0.008, 0.008]})}
    (rows,) = rows_of_group(samples, "float32", "NVIDIA H100 80GB HBM3")
    values = {row["measure"]: (row["value"], row["unit"]) for row in rows}
    assert values == {
        "inner_forward": (0.008, "s"),
        "inner_forward_tokens_per_second": (pytest.approx(50_000), "tokens/s"),
        "inner_forward_bandwidth": (pytest.approx(6.7e9 / 0.008), "B/s"),
        "inner_forward_of_bound": (pytest.approx(0.25), "1"),
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="interpreted; tests/gpu runs the same compiled")
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_the_kernels_alone_can_be_run(name: str) -> None:
    config = LatencyBenchConfig(width=32, heads=2, inner_batch=1, checkpoint_group=[1], dtype="float16")
    measurements = list(kernel_measurements(config, name, 32))
    assert [each.measure for each in measurements] == ["inner_train", "inner_forward", "inner_decode"]
    for each in measurements:
        each.function(32)()
    train, forward, decode = measurements
    # D = 16, float16: q, k, v and z have 32 bytes per token and head, and W of 272 numbers moves for every token.
    assert (forward.read, decode.read) == (32, 1)
    assert train.moved > forward.moved > 2 * 32 * 4 * 32
    assert decode.moved > 2 * 3 * 4 * 272
    assert train.flops > forward.flops > 0


@pytest.mark.parametrize(("installed", "package"), [(True, "flash-linear-attention"), (False, PLAIN_RECURRENCE)])
@pytest.mark.usefixtures("configure")
def test_the_package_whose_kernels_run_on_a_gpu_is_recorded(
    installed: bool, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package has no kernel for single tokens, so decoding is plain; on a CPU there is nothing to name."""
    kernels = replace(
        GatedLinearAttention.recurrence, load=lambda: GatedLinearAttention.recurrence.in_chunks if installed else None
    )
    monkeypatch.setattr(GatedLinearAttention, "recurrence", kernels)
    config = LatencyBenchConfig(
        kernels=["auto"], models=["gla"], tokens=[8], width=16, heads=2, blocks=1, mlp_hidden=16, vocab=16,
        dtype="bfloat16", inner=False, checkpoint_group=[None], decode=1,
    )  # fmt: skip
    methods = {("gla", 8): method("gla", 8)}
    for device, forms in (("cuda", [package, package, PLAIN_RECURRENCE]), ("cpu", [None] * 3)):
        (measured,) = latency_groups(config, methods, torch.device(device))
        assert [one.implementation and one.implementation.kernel for one in measured] == forms
