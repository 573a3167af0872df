"""Training on a device that computes behind the host, simulated on the CPU: nothing waits for it in every step."""

import json
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from ttt.cli.train import train
from ttt.config.errors import RunError
from ttt.config.gpus import peak_flops
from ttt.config.schema import TrainConfig
from ttt.train import callbacks, module, speed
from ttt.train.module import TrainingModule
from ttt.train.optimizers import adamw

Configure = Callable[..., TrainConfig]

PEAK = 1e12


class Waits(TorchDispatchMode):
    """Counts by step how often the host reads a number of a tensor; AdamW keeps its own numbers on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.step: int | None = None
        self.by_step: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and self.step is not None:
            own = not any("torch/optim" in frame.filename for frame in traceback.extract_stack())
            self.by_step[self.step] += own
        return func(*args, **(kwargs or {}))


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the CPU as a device that computes behind the host."""
    for used_in in (module, callbacks):
        monkeypatch.setattr(used_in, "is_asynchronous", lambda _: True)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


@pytest.mark.slow
def test_no_step_waits_but_those_that_transfer(
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["trainer.fetch_every=4", "recipe.steps=10", "trainer.checkpoint_every=0", "trainer.eval_test=false"]
    train(configure(f"run={tmp_path}/plain", *common), [])
    request.getfixturevalue("behind")
    monkeypatch.setattr(speed, "peak_flops", lambda *_: PEAK)
    waits = Waits()
    starts, ends = TrainingModule.on_train_batch_start, TrainingModule.on_train_end

    def starting(self: TrainingModule, batch: Any, batch_idx: int) -> None:
        waits.step = self.global_step + 1
        starts(self, batch, batch_idx)

    def ending(self: TrainingModule) -> None:
        waits.step = None
        ends(self)

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", starting)
    monkeypatch.setattr(TrainingModule, "on_train_end", ending)
    run = tmp_path / "behind"
    with waits:
        train(configure(f"run={run}", *common, "trainer.device_batch=2", "trainer.progress=true"), [])
    assert {step for step, count in waits.by_step.items() if count} == {4, 8, 10}
    assert waits.by_step[4] == waits.by_step[8] == 1
    rows, plain = (pd.read_parquet(folder / "metrics.parquet") for folder in (run, tmp_path / "plain"))
    assert rows[["step", "metric", "split"]].equals(plain[["step", "metric", "split"]])
    assert rows["value"].to_numpy() == pytest.approx(plain["value"].to_numpy(), rel=1e-3, nan_ok=True)
    _check_speed(run, capsys.readouterr().err)


def _check_speed(run: Path, errors: str) -> None:
    """Check tokens per second, MFU and memory in the record, the logs and the progress line."""
    written = record(run)
    flops = written["training_flops"] / (written["steps_planned"] * written["tokens_per_step"])
    tokens_per_second = written["timing"]["tokens_per_second"]
    assert written["measurements"]["mfu"] == pytest.approx(tokens_per_second * flops / PEAK)
    logged = pd.read_csv(run / "logs/csv/metrics.csv").set_index("step")
    speeds = logged[["tokens_per_second", "mfu", "peak_memory"]].dropna()
    assert speeds.index.tolist() == [4, 8, 10]
    assert speeds["mfu"].tolist() == pytest.approx((speeds["tokens_per_second"] * flops / PEAK).tolist())
    assert logged["loss"].notna().all()
    assert "% MFU, " in errors


@pytest.mark.slow
@pytest.mark.usefixtures("behind")
def test_a_loss_that_is_not_finite_ends_the_run_before_a_checkpoint(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fused(*groups: object, **options: object) -> AdamW:
        return AdamW(*groups, **options | {"fused": True})  # type: ignore[arg-type]

    monkeypatch.setattr(adamw, "uncompiled", lambda _: fused)
    loss, finite = module.mean_loss, list[bool]()

    def diverging(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        # After step 6 the batches are harmless again.
        calls.append(0)
        return loss(model, ids) * (torch.nan if len(calls) == 7 else 1)

    def diagnosis(message: str, model: torch.nn.Module, _: torch.Tensor) -> str:
        finite.extend(bool(parameter.isfinite().all()) for parameter in model.parameters())
        return message

    calls: list[int] = []
    monkeypatch.setattr(module, "mean_loss", diverging)
    monkeypatch.setattr(module, "with_diagnosis", diagnosis)
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"the loss became nan at step 6; the last good checkpoint is .*step-00000005"):
        train(configure(f"run={run}", "trainer.fetch_every=100", "trainer.checkpoint_every=5"), [])
    assert len(calls) == 10
    assert finite
    assert all(finite)
    assert record(run)["status"] == "diverged"
    assert [path.name for path in sorted((run / "checkpoints").glob("*.ckpt"))] == ["step-00000005.ckpt"]
    assert pd.read_parquet(run / "metrics.parquet")["step"].max() == 6


@pytest.mark.parametrize(("on_gpu", "fused"), [(True, True), (False, None)])
def test_adamw_is_fused_on_gpus(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, on_gpu: bool, fused: bool | None
) -> None:
    monkeypatch.setattr(adamw, "uncompiled", lambda _: lambda _, **options: options["fused"])
    groups = [{"params": [SimpleNamespace(is_cuda=True)]}, {"params": [SimpleNamespace(is_cuda=on_gpu)]}]
    assert adamw.adamw(groups, configure().recipe) is fused
    # A checkpoint of another device does not decide.
    checkpoint = {"optimizer_states": [{"param_groups": [{"fused": not fused}, {}]}]}
    device = torch.device("cuda" if on_gpu else "cpu")
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=device))
    TrainingModule.on_load_checkpoint(SimpleNamespace(trainer=trainer), checkpoint)  # type: ignore[arg-type]
    assert checkpoint["optimizer_states"][0]["param_groups"] == [{"fused": fused}, {}]


@pytest.mark.parametrize(
    ("name", "precision", "products", "expected"),
    [
        ("cuda: NVIDIA H100 80GB HBM3", "bf16-mixed", "highest", 989e12),
        ("cuda: NVIDIA A100-SXM4-40GB", "32-true", "highest", 19.5e12),
        ("cuda: NVIDIA A100-SXM4-40GB", "32-true", "high", 156e12),
        ("cuda: Tesla V100-SXM2-32GB", "32-true", "high", 15.7e12),
        ("cuda: NVIDIA L40S", "bf16-mixed", "highest", 362e12),
        ("cuda: NVIDIA A10G", "bf16-mixed", "highest", None),
        ("cpu: x86_64", "32-true", "highest", None),
    ],
)
def test_peak_rates(name: str, precision: str, products: str, expected: float | None) -> None:
    assert peak_flops(name, precision, products) == expected
