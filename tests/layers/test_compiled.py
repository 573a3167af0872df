"""Compiled blocks give the same losses and gradients, and run as they are where nothing is to be learned."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.registry import lookup_backend

from ttt.config.errors import UserError
from ttt.config.identity import run_id
from ttt.config.schema import TrainConfig
from ttt.layers import compiled
from ttt.layers.compiled import compile_blocks, require_compiler
from ttt.models.build import build_model
from ttt.models.checkpointing import checkpoint_blocks
from ttt.models.language_model import LanguageModel, token_losses
from ttt.train import prepare as preparing
from ttt.train.opening import open_run
from ttt.train.planning import plan_run

Configure = Callable[..., TrainConfig]

V, B, T = 50, 2, 48
IDS = torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")
# aot_eager traces the backward pass too, through the operators' gradients; only inductor's generated code is left out.
CASES = [
    ("ttt_linear", True, "accumulated", "aot_eager"),
    ("ttt_mlp", False, "streamed", "eager"),
    ("mamba", True, "whole", "aot_eager"),
]


def whole(model: LanguageModel) -> Tensor:
    return token_losses(model, IDS).mean()


def accumulated(model: LanguageModel) -> Tensor:
    (token_losses(model, IDS[:1]).mean() / 2).backward()
    return token_losses(model, IDS[1:]).mean() / 2


def streamed(model: LanguageModel) -> Tensor:
    """Read two chunks, with gradients through the state."""
    state, losses = {}, []
    for chunk, target in zip(IDS[:, :-1].split(32, dim=1), IDS[:, 1:].split(32, dim=1), strict=True):
        logits, state = model(chunk, state)
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten()))
    return torch.stack(losses).sum()


LOSSES = {"whole": whole, "accumulated": accumulated, "streamed": streamed}


def built(config: TrainConfig) -> LanguageModel:
    """Return a model in float64 but for its buffers.

    torch.compile reads a scalar in float64 on a CPU, as eta's warm-up would be, as a number, and analyses the block
    again for it. Runs have it in float32.
    """
    torch.manual_seed(0)
    model = build_model(config.model, config.size, config.backbone, config.kernel, V).double()
    for buffer in model.buffers():
        buffer.data = buffer.data.float()
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("name", "checkpointed", "loss", "backend"), CASES)
def test_losses_and_gradients_are_the_same(
    configure: Configure, name: str, checkpointed: bool, loss: str, backend: str
) -> None:
    config = configure(f"model={name}", "size.width=32", "size.blocks=2", "size.init_std=0.2")
    found, names = [], []
    calls: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        calls.append(len(graph.graph.nodes))
        return lookup_backend(backend)(graph, inputs)

    for compiles in (False, True):
        model = built(config)
        if compiles:
            compile_blocks(model.blocks, CPU, counting)
        if checkpointed:
            checkpoint_blocks(model)
        value = LOSSES[loss](model)
        value.backward()
        found.append([value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        names.append(list(model.state_dict()))
        before = len(calls)
        with torch.no_grad():
            model(IDS[:, :5])
        assert len(calls) == before
    assert names[0] == names[1]
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    # One graph for both blocks, all batches, and eta's warm-up, which changes from step to step.
    for layer in model.modules():
        if hasattr(layer, "set_warmup"):
            layer.set_warmup(0.5)
    LOSSES[loss](model)
    assert len(calls) == 1


def test_no_compiler_is_one_line(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "why_not_here", lambda *_: "it could not be compiled: no g++")
    with pytest.raises(
        UserError, match=r"^trainer\.compile=true: it could not .* no g\+\+; take trainer\.compile=false$"
    ):
        compile_blocks(built(configure("model=ttt_linear")).blocks, CPU)
    monkeypatch.setattr(compiled, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"^trainer\.compile=true: torch\.compile needs Triton on a GPU; pip install"):
        require_compiler(torch.device("cuda"))
    with pytest.raises(UserError, match=r"^trainer\.compile=true: torch\.compile is not used on mps; take"):
        require_compiler(torch.device("mps"))


@pytest.mark.parametrize("compiles", [True, False])
def test_a_run_compiles_its_blocks_before_they_are_recomputed(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiles: bool
) -> None:
    done: list[str] = []
    for name in ("compile_blocks", "checkpoint_blocks"):
        monkeypatch.setattr(preparing, name, lambda *_, name=name: done.append(name))
    key = f"trainer.compile={str(compiles).lower()}"
    plan = plan_run(configure(key, "trainer.activation_checkpointing=blocks", f"run={tmp_path}/run"), [])
    preparing.prepare(plan, open_run(plan))
    assert done == [*["compile_blocks"] * compiles, "checkpoint_blocks"]


def test_the_keys_of_speed_rename_no_run(configure: Configure) -> None:
    off = ["trainer.compile=true", "trainer.matmul_precision=high", "trainer.fetch_every=1"]
    assert run_id(configure(*off)) == run_id(configure())
