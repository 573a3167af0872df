"""Device and precision of a configuration, on machines with and without a GPU."""

import pytest
import torch

from ttt.config.errors import UserError
from ttt.config.trainer import TrainerConfig
from ttt.models.device import choose_device, choose_precision
from ttt.train.device import choose_hardware

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def machine(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, bf16: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    # As torch: every GPU can at least emulate bfloat16.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, True, "cuda")],
)
def test_auto_takes_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    machine(monkeypatch, cuda, mps)
    assert choose_device("auto", "trainer.device").type == chosen


def test_an_unavailable_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=False, mps=False)
    with pytest.raises(UserError, match=r"trainer.device=cuda: torch finds no such device here; cpu always runs"):
        choose_device("cuda", "trainer.device")
    with pytest.raises(UserError, match=r"device=tpu: choose one of auto, cpu, cuda, mps"):
        choose_device("tpu", "device")


@pytest.mark.parametrize(
    ("device", "bf16", "chosen"), [(CPU, True, "32-true"), (CUDA, True, "bf16-mixed"), (CUDA, False, "16-mixed")]
)
def test_precision_is_mixed_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, bf16: bool, chosen: str
) -> None:
    machine(monkeypatch, cuda=True, mps=False, bf16=bf16)
    assert choose_precision("auto", device) == chosen
    assert choose_precision("32-true", device) == "32-true"


def test_more_devices_than_the_machine_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=True, mps=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"^trainer\.devices=8: torch finds 1 GPU on this machine$"):
        choose_hardware(TrainerConfig(name="gpu", device="cuda", devices=8, strategy="ddp"))


def test_the_precision_of_float32_products_is_the_keys() -> None:
    for precision in ("high", "highest"):
        choose_hardware(TrainerConfig(name="cpu", device="cpu", matmul_precision=precision))
        assert torch.get_float32_matmul_precision() == precision
