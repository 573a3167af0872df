"""Recomputed blocks give the same losses and gradients, bit for bit, and keep less memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ttt.config.schema import TrainConfig
from ttt.layers.registry import layer_types
from ttt.models.build import build_model
from ttt.models.checkpointing import checkpoint_blocks
from ttt.models.language_model import LanguageModel, token_losses

V, B, T = 50, 2, 40
IDS = torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(0))
CASES = [(name, backbone) for name, layer in layer_types().items() for backbone in layer.backbones]
KERNELS = [("ttt_linear", "triton"), ("ttt_mlp", "triton"), ("ttt_linear", "dual"), ("ttt_mlp", "primal")]

Loss = Callable[[LanguageModel], Tensor]


def whole(model: LanguageModel) -> Tensor:
    return token_losses(model, IDS).mean()


def streamed(model: LanguageModel) -> Tensor:
    """Read chunks, with gradients through the state, which end within a mini-batch."""
    state, losses = {}, []
    for chunk, target in zip(IDS[:, :-1].split(13, dim=1), IDS[:, 1:].split(13, dim=1), strict=True):
        logits, state = model(chunk, state)
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum"))
    return torch.stack(losses).sum()


def accumulated(model: LanguageModel) -> Tensor:
    (token_losses(model, IDS[:1]).mean() / 2).backward()
    return token_losses(model, IDS[1:]).mean() / 2


def gradients(model: LanguageModel, loss: Loss) -> list[Tensor]:
    model.zero_grad()
    value = loss(model)
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def both(
    configure: Callable[..., TrainConfig], loss: Loss, *overrides: str
) -> tuple[list[Tensor], list[Tensor], LanguageModel]:
    """Return loss and gradients of a model, the same with recomputed blocks, and the second model."""
    config = configure("size.blocks=2", "size.init_std=0.2", *overrides)
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = build_model(config.model, config.size, config.backbone, config.kernel, V)
        if checkpointed:
            checkpoint_blocks(model)
        found.append(gradients(model, loss))
    return found[0], found[1], model


@pytest.mark.parametrize("loss", [whole, streamed, accumulated])
@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_gradients_are_the_same(configure: Callable[..., TrainConfig], name: str, backbone: str, loss: Loss) -> None:
    expected, actual, _ = both(configure, loss, f"model={name}", f"backbone={backbone}")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))


@pytest.mark.parametrize(("name", "kernel"), KERNELS)
def test_gradients_are_the_same_with_every_kernel(
    configure: Callable[..., TrainConfig], name: str, kernel: str
) -> None:
    expected, actual, _ = both(configure, whole, f"model={name}", f"kernel={kernel}")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))


def test_in_mixed_precision_too(configure: Callable[..., TrainConfig]) -> None:
    def loss(model: LanguageModel) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return whole(model)

    expected, actual, _ = both(configure, loss, "model=ttt_linear")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))


def test_names_and_results_without_gradients_stay(configure: Callable[..., TrainConfig]) -> None:
    config = configure("model=ttt_linear")
    torch.manual_seed(0)
    model = build_model(config.model, config.size, config.backbone, config.kernel, V)
    with torch.inference_mode():
        names, logits = list(model.state_dict()), model(IDS)
        checkpoint_blocks(model)
        assert list(model.state_dict()) == names
        assert torch.equal(model(IDS), logits)
