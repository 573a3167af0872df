"""Decoding with a state at fixed addresses. CUDA graphs need a GPU; here the step that they would repeat runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ttt.config.errors import UserError
from ttt.config.schema import TrainConfig
from ttt.layers.inner_state import in_place
from ttt.models.build import build_model
from ttt.models.decoder import FixedDecoder
from ttt.models.language_model import LanguageModel

V, PROMPT, TOKENS = 50, 13, 7
IDS = torch.randint(V, (2, PROMPT + TOKENS), generator=torch.Generator().manual_seed(0))


class NoHostReads(TorchDispatchMode):
    """Refuse to read a number of a tensor into Python: a CUDA graph would keep the first one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host reads a number of the device"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def build(configure: Callable[..., TrainConfig]) -> Callable[..., LanguageModel]:
    def build(*options: str) -> LanguageModel:
        config = configure("size.blocks=1", "size.init_std=0.2", "kernel=triton", *options)
        torch.manual_seed(0)
        return build_model(config.model, config.size, config.backbone, config.kernel, V)

    return build


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (("model=ttt_linear", "backbone=mamba"), torch.float16),
        (("model=ttt_mlp", "backbone=transformer", "kernel.rotates=false"), torch.float32),
    ],
    ids=["linear", "mlp"],
)
@torch.no_grad()
def test_every_token_is_one_step_that_no_number_of_the_host_decides(
    build: Callable[..., LanguageModel], options: tuple[str, ...], dtype: torch.dtype
) -> None:
    model = build(*options)
    expected, _ = model(IDS, {})
    _, state = model(IDS[:, :PROMPT], {})
    decoder = FixedDecoder(model, in_place(state, dtype))
    addresses = {name: x.data_ptr() for name, x in decoder.state.items()}
    assert {x.dtype for name, x in decoder.state.items() if ".inner.W." in name} == {dtype}
    with NoHostReads():
        found = [decoder(ids_B1).clone() for ids_B1 in IDS[:, PROMPT:].split(1, dim=1)]
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    difference = torch.stack(found, 1) - expected[:, PROMPT:]
    assert difference.norm() < tolerance * expected[:, PROMPT:].norm()
    assert {name: x.data_ptr() for name, x in decoder.state.items()} == addresses
    assert {int(x) for name, x in decoder.state.items() if name.endswith("place")} == {PROMPT + TOKENS}


def test_a_read_of_the_host_would_be_noticed() -> None:
    with NoHostReads(), pytest.raises(AssertionError, match="the host reads"):
        int(torch.ones(()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("model=transformer", "kernel=auto"), "its state grows with every token"),
        (
            ("model=ttt_linear", "model.forget_gate=true", "kernel=auto"),
            "decoding in place needs it, but it supports no f",
        ),
        (("model=ttt_linear", "model.momentum=0.5", "kernel=auto"), "has no decoding in place"),
    ],
)
@torch.no_grad()
def test_models_without_fixed_states_are_refused(
    options: tuple[str, ...], message: str, build: Callable[..., LanguageModel]
) -> None:
    model = build(*options)
    _, state = model(IDS[:, :3], {})
    with pytest.raises(UserError, match=message):
        FixedDecoder(model, in_place(state, torch.float32))(IDS[:, 3:4])
