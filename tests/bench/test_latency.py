"""``ttt-bench latency`` as far as a CPU goes: what is timed, by whose clock, and what follows from the times."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from ttt.bench.case import Setting, Variant
from ttt.bench.clock import choose_device, clock_of, timed_by_gpu
from ttt.bench.devices import A100, B200, H100, H200, Device, device_named
from ttt.bench.latency import Subject, Task, kernel_tasks, measured
from ttt.bench.timing import timed
from ttt.cli import bench as command
from ttt.config.bench import LatencyBenchConfig
from ttt.config.errors import UserError
from ttt.results.benchmarks import Row

TINY = ["width=16", "heads=2", "blocks=1", "mlp_hidden=16", "vocab=16", "tokens=12,20", "rounds=1", "decode=3"]
TINY += ["batch=2", "threads=1", "device=cpu", "dtype=float32"]


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


def test_every_model_is_timed_in_training_prefill_and_decoding(latency: Callable[..., str], tmp_path: Path) -> None:
    printed = latency(*TINY, "model=ttt_linear,transformer", "forms=auto,dual")
    rows = rows_below(tmp_path)
    seen = {(row["model"], row["form"], row["tokens"], row["measure"]) for row in rows}
    named = [("ttt_linear", "auto"), ("ttt_linear", "dual"), ("transformer", None)]
    measures = [f"{use}{suffix}" for use in ("train", "prefill", "decode") for suffix in ("", "_tokens_per_second")]
    assert seen == {(*name, T, measure) for name in named for T in (12, 20) for measure in measures}
    assert len(seen) == len(rows)
    values = {(row["form"], row["tokens"], row["measure"]): row["value"] for row in rows}
    assert values["auto", 20, "train_tokens_per_second"] == pytest.approx(40 / values["auto", 20, "train"])
    # One token of each of two sequences.
    assert values["auto", 20, "decode_tokens_per_second"] == pytest.approx(2 / values["auto", 20, "decode"])
    assert printed.count("one more token") == len(named) * 2 + 1


def test_what_is_switched_off_is_not_timed(latency: Callable[..., str], tmp_path: Path) -> None:
    latency(*TINY, "model=ttt_mlp", "forms=dual", "train=false", "decode=0", "tokens=12", "dtype=bfloat16")
    assert {row["measure"] for row in rows_below(tmp_path)} == {"prefill", "prefill_tokens_per_second"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["device=tpu"], "device=tpu: choose one of auto, cpu, cuda"),
        (["forms=fast"], "forms=fast: choose from auto, "),
        (["dtype=float64"], "dtype=float64: choose one of bfloat16, float16, float32"),
        (["decode=-1"], "decode=-1: must be at least 0"),
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
    with pytest.raises(UserError, match="device=cuda: torch finds no CUDA device here"):
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
    device = Device("one", memory_bandwidth=10.0, half_flops=100.0, float_flops=1.0)
    assert device.seconds(200.0, 10.0, "bf16") == 2.0
    assert device.seconds(200.0, 50.0, "fp16") == 5.0
    assert device.seconds(200.0, 50.0, "fp32") == 200.0


def test_devices_are_found_by_their_names() -> None:
    names = {"NVIDIA A100-SXM4-80GB": A100, "NVIDIA H100 80GB HBM3": H100, "NVIDIA H200": H200, "NVIDIA B200": B200}
    assert {name: device_named(name) for name in names} == names
    assert device_named("NVIDIA L40S") is None


def test_bandwidth_and_share_of_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """67 GFLOP in float32 take an H100 1 ms, and 6.7 GB 2 ms."""
    monkeypatch.setattr("ttt.bench.timing.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("ttt.bench.latency.device_name", lambda _: "NVIDIA H100 80GB HBM3")
    config = LatencyBenchConfig(rounds=2, dtype="float32")
    task = Task("inner_forward", lambda: {"inner_forward": 0.008}, 400, moved=6.7e9, flops=67e9)
    subject = Subject(Setting("linear", 100, 16, 4), Variant("triton", 16), [task])
    (rows,) = measured([subject], config, torch.device("cpu"))
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
    config = LatencyBenchConfig(width=32, heads=2, batch=1, checkpoint_group=[1], dtype="float16")
    tasks = list(kernel_tasks(config, name, 32, timed))
    assert [task.measure for task in tasks] == ["inner_train", "inner_forward", "inner_decode"]
    assert all(task.measurement()[task.measure] > 0 for task in tasks)
    train, forward, decode = tasks
    # D 16, float16: q, k, v and z have 32 bytes a token and head, and W of 272 numbers moves for every token.
    assert (forward.tokens, decode.tokens) == (32, 1)
    assert train.moved > forward.moved > 2 * 32 * 4 * 32
    assert decode.moved > 2 * 3 * 4 * 272
    assert train.flops > forward.flops > 0
