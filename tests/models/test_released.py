"""The model agrees with stored numbers of the authors' released model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ttt.config.errors import UserError
from ttt.models.released import from_released, to_released

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.safetensors"))
TOLERANCE = 1e-10


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Return all tensors, the weights under the released names, and the meta data."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        meta = json.loads(file.metadata()["meta"])
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    return tensors, state, meta


def test_all_golden_files_are_there() -> None:
    assert len(GOLDEN) == 6


@pytest.mark.parametrize("kernel", ["dual", pytest.param("primal", marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_logits_and_gradients_are_the_released_models(path: Path, kernel: str) -> None:
    tensors, state, meta = load(path)
    model = from_released(state, meta, kernel=kernel)
    logits = model(tensors["input_ids"])
    assert (logits - tensors["logits"]).abs().max() < TOLERANCE
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tensors["input_ids"][:, 1:].flatten())
    assert abs(loss.item() - tensors["loss"].item()) < TOLERANCE
    loss.backward()
    gradients = to_released(model, grads=True)
    assert {f"grad.{name}" for name in gradients} == {name for name in tensors if name.startswith("grad.")}
    for name, gradient in gradients.items():
        expected = tensors[f"grad.{name}"]
        assert gradient.shape == expected.shape
        error = (gradient - expected).abs().max() / expected.abs().max()
        assert error < TOLERANCE, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_weights_come_back_as_they_went_in(path: Path) -> None:
    _, state, meta = load(path)
    back = to_released(from_released(state, meta))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_convolutions_of_another_width() -> None:
    """Filters with two more taps of 0 before the others compute the same."""
    tensors, state, meta = load(next(path for path in GOLDEN if "mamba" in path.stem))
    wider = {
        name: torch.nn.functional.pad(value, (2, 0))
        if "conv" in name and name.endswith("weight") and value.ndim == 3
        else value
        for name, value in state.items()
    }
    assert sum(wider[name].shape != state[name].shape for name in state) == 3 * meta["num_layers"]
    model = from_released(wider, meta | {"conv_kernel": 6})
    assert (model(tensors["input_ids"]) - tensors["logits"]).abs().max() < TOLERANCE
    assert all(torch.equal(value, wider[name]) for name, value in to_released(model).items())


def test_a_tied_head_is_accepted() -> None:
    _, state, meta = load(GOLDEN[0])
    from_released(state | {"lm_head.weight": state["model.embed_tokens.weight"]}, meta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, _: state.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda state, _: state.update(extra=torch.zeros(1)), "extra does not belong"),
        (lambda state, _: state.update({"model.norm.weight": torch.zeros(3)}), r"model.norm.weight=\(3,\)"),
        (lambda _, meta: meta.pop("num_heads"), "meta lacks num_heads"),
        (lambda _, meta: meta.update(layer="conv"), "choose one of"),
        (lambda _, meta: meta.update(backbone="rnn"), "choose one of"),
    ],
)
def test_mismatches_are_named(change: Any, message: str) -> None:
    _, state, meta = load(GOLDEN[0])
    change(state, meta)
    with pytest.raises(UserError, match=message):
        from_released(state, meta)


def test_an_unknown_kernel_is_named() -> None:
    _, state, meta = load(GOLDEN[0])
    with pytest.raises(UserError, match=r"kernel.name=fast: choose one of auto, primal, dual"):
        from_released(state, meta, kernel="fast")
