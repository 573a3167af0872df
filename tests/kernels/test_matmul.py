"""Linear maps by oneDNN equal torch's; the faster library is measured once for each shape and remembered."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ttt.backbones.modules import SwiGLU
from ttt.config.identity import run_id
from ttt.config.schema import KernelConfig, TrainConfig
from ttt.kernels import matmul
from ttt.layers.by_kernel import set_kernel
from ttt.models.build import build_model

pytestmark = pytest.mark.skipif(not matmul._has_onednn(), reason="this torch has no oneDNN")


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Let oneDNN compute products of any size; return the list of weight shapes that it computes with."""
    shapes: list[tuple[int, ...]] = []
    original = matmul._onednn

    def noted(x: Tensor, weight: Tensor) -> Tensor:
        shapes.append(tuple(weight.shape))
        return original(x, weight)

    monkeypatch.setattr(matmul, "SMALLEST", 0)
    monkeypatch.setattr(matmul, "_onednn", noted)
    return shapes


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return an empty folder for the choices of this test."""
    matmul._choice.cache_clear()
    monkeypatch.setattr(matmul, "user_cache_dir", lambda _: str(tmp_path))
    return tmp_path / "matmul"


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("shape", [(5, 24), (2, 7, 24), (3, 1, 24)])
def test_values_and_gradients_are_torchs(onednn: list, shape: tuple[int, ...]) -> None:
    x, weight = tensors(shape, (10, 24))
    results = []
    for library in ("torch", "onednn"):
        y = matmul.linear(x, weight, library)
        results.append((y, *torch.autograd.grad((y * torch.arange(10.0)).sum(), (x, weight))))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    # The output and the gradient of x; the gradient of the weight is torch's.
    assert onednn == [(10, 24), (24, 10)]


@pytest.mark.parametrize("library", ["auto", "onednn"])
@pytest.mark.parametrize("frozen", [None, 0, 1, 2])
def test_maps_of_one_input_add_its_gradient(
    onednn: list, monkeypatch: pytest.MonkeyPatch, frozen: int | None, library: str
) -> None:
    monkeypatch.setattr(matmul, "_is_onednn_faster", lambda *_: False)
    x, *weights = tensors((2, 7, 24), (10, 24), (24, 24), (3, 24))
    inputs = [x, *(weight for number, weight in enumerate(weights) if number != frozen)]
    if frozen is not None:
        weights[frozen].requires_grad_(False)
    results = []
    for maps in (matmul.linears(x, weights, library), [F.linear(x.double(), weight.double()) for weight in weights]):
        # One output is not used.
        loss = maps[0].sin().sum() + maps[2].cos().sum()
        results.append((*maps, *torch.autograd.grad(loss, inputs, allow_unused=True)))
    for ours, exact in zip(*results, strict=True):
        if exact is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, exact.float(), rtol=1e-4, atol=1e-4)
    assert matmul.linears(x, weights, library)[0].grad_fn.name() == "_LinearsBackward"
    assert bool(onednn) == (library == "onednn")


def test_a_gated_feed_forward_part_equals_torchs(onednn: list) -> None:
    (x,) = tensors((2, 9, 24))
    module = SwiGLU(24, 40, 0.2)
    results = []
    for library in ("torch", "onednn"):
        set_kernel(module, KernelConfig(matmul=library))
        results.append(torch.autograd.grad(module(x).square().sum(), (x, *module.parameters())))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert len(onednn) == 6


def test_other_products_are_torchs(onednn: list, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = tensors((8, 24), (10, 24))
    matmul.linear(x.double(), weight.double(), "onednn")
    matmul.linear(x.detach().mT.contiguous().mT, weight, "onednn")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert matmul.linear(x, weight, "onednn").dtype == torch.bfloat16
    with FlopCounterMode(display=False) as counter:
        matmul.linear(x, weight, "onednn")
    assert counter.get_total_flops() == 2 * 8 * 24 * 10
    monkeypatch.setattr(matmul, "SMALLEST", 8 * 24 * 10 + 1)
    matmul.linear(x, weight, "onednn")
    assert onednn == []


def test_a_choice_is_measured_once_and_remembered(choices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[int, int, int, bool]] = []

    def measure(*shape: int) -> bool:
        measured.append(shape)
        return True

    monkeypatch.setattr(matmul, "_measured", measure)
    for rows in (64, 100, 127):
        assert matmul._is_onednn_faster(rows, 24, 10, True)
    matmul._choice.cache_clear()  # as another process
    assert matmul._is_onednn_faster(64, 24, 10, True)
    assert measured == [(64, 24, 10, True)]
    assert matmul._is_onednn_faster(10**6, 24, 10, False)
    assert measured[1:] == [(matmul.MOST_ROWS, 24, 10, False)]
    (path,) = choices.glob("*.json")
    assert sorted(json.loads(path.read_text())) == ["2048x24x10 on 1", "64x24x10T on 1"]


@pytest.mark.parametrize("damage", ["", "[]", '{"64x24x10T on 1": "yes"}', "not json"])
def test_a_damaged_file_is_measured_anew(choices: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(matmul, "_measured", lambda *_: True)
    matmul._is_onednn_faster(64, 24, 10, True)
    (path,) = choices.glob("*.json")
    path.write_text(damage)
    matmul._choice.cache_clear()
    assert matmul._is_onednn_faster(64, 24, 10, True)
    assert json.loads(path.read_text()) == {"64x24x10T on 1": True}


def test_without_a_writable_cache_the_choice_is_made_anew(choices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices.write_text("a file where the folder should be")
    monkeypatch.setattr(matmul, "_measured", lambda *_: True)
    assert matmul._is_onednn_faster(64, 24, 10, True)


def test_the_faster_library_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    waits = {F.linear: 3, matmul._onednn: 2}

    def slow(call: Callable[[Tensor, Tensor], Tensor], units: int) -> Callable[[Tensor, Tensor], Tensor]:
        def timed(x: Tensor, weight: Tensor) -> Tensor:
            for _ in range(units):
                next(clock)
            return call(x, weight)

        return timed

    monkeypatch.setattr(matmul.time, "perf_counter", lambda: float(next(clock)))
    onednn, plain = slow(matmul._onednn, waits[matmul._onednn]), slow(F.linear, waits[F.linear])
    monkeypatch.setattr(matmul, "_onednn", onednn)
    monkeypatch.setattr(matmul.F, "linear", plain)
    assert matmul._measured(4, 6, 5, True)
    assert matmul._measured(4, 6, 5, False)
    monkeypatch.setattr(matmul, "_onednn", slow(plain, 1))
    assert not matmul._measured(4, 6, 5, True)


def test_the_key_reaches_every_linear_map_and_no_identity(configure: Callable[..., TrainConfig], onednn: list) -> None:
    config, plain = configure("kernel.matmul=onednn"), configure("kernel.matmul=torch")
    assert run_id(config) == run_id(plain) == run_id(configure())
    losses = []
    for chosen in (config, plain):
        torch.manual_seed(0)
        model = build_model(chosen.model, chosen.size, chosen.backbone, chosen.kernel, chosen.data.vocab_size)
        losses.append(model(torch.arange(64)[None]).logsumexp(-1).sum())
        losses[-1].backward()
        if chosen is config:
            # q, v, g, o, gate, up and down of the block, and the logits: once forward and once backward.
            assert len(onednn) == 16
    torch.testing.assert_close(*losses)
    assert len(onednn) == 16
