"""Recomputed blocks give the same losses and gradients, bit for bit, and keep less memory."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

from ttt.config.schema import TrainConfig
from ttt.layers.compiled import compile_blocks
from ttt.layers.registry import layer_types
from ttt.models.build import build_model
from ttt.models.checkpointing import checkpoint_blocks
from ttt.models.language_model import LanguageModel, token_losses

V, B, T = 50, 2, 40
IDS = torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(0))
CASES = [(name, backbone) for name, layer in layer_types().items() for backbone in layer.backbones]
KERNELS = [("ttt_linear", "triton"), ("ttt_linear", "dual"), ("ttt_mlp", "primal")]

Loss = Callable[[LanguageModel], Tensor]


def whole(model: LanguageModel) -> Tensor:
    return token_losses(model, IDS).mean()


def short(model: LanguageModel) -> Tensor:
    return token_losses(model, IDS[:1, :17]).mean()


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
    configure: Callable[..., TrainConfig], loss: Loss, *overrides: str, compiles: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Return loss and gradients of a model, and the same with recomputed blocks, which may be compiled."""
    config = configure("size.blocks=2", "size.init_std=0.2", *overrides)
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = build_model(config.model, config.size, config.backbone, config.kernel, V)
        if checkpointed and compiles:
            compile_blocks(model.blocks, torch.device("cpu"), "eager")
        if checkpointed:
            checkpoint_blocks(model)
        found.append(gradients(model, loss))
    return found[0], found[1]


@pytest.mark.parametrize("loss", [whole, streamed, accumulated])
@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_gradients_are_the_same(configure: Callable[..., TrainConfig], name: str, backbone: str, loss: Loss) -> None:
    expected, actual = both(configure, loss, f"model={name}", f"backbone={backbone}")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kernel"), KERNELS)
def test_gradients_are_the_same_with_every_kernel(
    configure: Callable[..., TrainConfig], name: str, kernel: str
) -> None:
    expected, actual = both(configure, short, f"model={name}", f"kernel={kernel}", "size.blocks=1")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Connect a group of one process."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "backbone", "compiles"),
    [*((*case, False) for case in CASES), pytest.param("ttt_linear", "mamba", True, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_gradients_are_the_same_in_a_distributed_model(
    configure: Callable[..., TrainConfig], strategy: str, name: str, backbone: str, compiles: bool
) -> None:
    def loss(model: LanguageModel) -> Tensor:
        # As Lightning's FSDPStrategy does with the policy of ttt.train.device.
        policy = ModuleWrapPolicy({type(model.blocks[0])})
        sharded = partial(
            FullyShardedDataParallel, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
        )
        wrap = DistributedDataParallel if strategy == "ddp" else sharded
        return token_losses(wrap(model), IDS).mean()

    expected, actual = both(configure, loss, f"model={name}", f"backbone={backbone}", compiles=compiles)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))


def test_in_mixed_precision_too(configure: Callable[..., TrainConfig]) -> None:
    def loss(model: LanguageModel) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return whole(model)

    expected, actual = both(configure, loss, "model=ttt_linear")
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
