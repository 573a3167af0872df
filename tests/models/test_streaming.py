"""Every layer, in each of its backbones, gives the same results for a sequence in chunks and as a whole."""

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ttt.config.schema import TrainConfig
from ttt.layers.registry import layer_types
from ttt.models.build import build_model
from ttt.models.language_model import LanguageModel

V, B, T = 50, 2, 80
IDS = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))
CASES = [f"{name}-{backbone}" for name, layer in layer_types().items() for backbone in layer.backbones]
FORMATS = {
    "torch": (torch.save, partial(torch.load, weights_only=True)),
    "safetensors": (safetensors.torch.save_file, safetensors.torch.load_file),
}


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest, configure: Callable[..., TrainConfig]) -> LanguageModel:
    name, backbone = request.param.split("-")
    config = configure(f"model={name}", f"backbone={backbone}", "size.blocks=2", "size.init_std=0.2")
    torch.manual_seed(0)
    return build_model(config.model, config.size, config.backbone, config.kernel, V).double()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("chunks", [T, 2, 5, 10, 30])
def test_chunks_of_a_sequence_are_the_whole(model: LanguageModel, chunks: int) -> None:
    cuts = sorted(random.Random(chunks).sample(range(1, T), chunks - 1))
    logits, state = [], {}
    for chunk in IDS.split([end - start for start, end in pairwise([0, *cuts, T])], dim=1):
        chunk_logits, state = model(chunk, state)
        logits.append(chunk_logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), model(IDS), rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_state_from_a_file_continues_unchanged(model: LanguageModel, format_name: str, tmp_path: Path) -> None:
    save, load = FORMATS[format_name]
    _, state = model(IDS[:, :37], {})
    save(state, tmp_path / "state")
    expected, expected_state = model(IDS[:, 37:], state)
    actual, actual_state = model(IDS[:, 37:], load(tmp_path / "state"))
    # The memory alignment of safetensors' tensors can change the last bit of a result.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual_state, expected_state, rtol=0, atol=1e-12)
    assert all(torch.equal(value, state[name]) for name, value in load(tmp_path / "state").items())


@torch.no_grad()
def test_states_differ_only_in_their_numbers(model: LanguageModel, request: pytest.FixtureRequest) -> None:
    _, short = model(IDS[:, :40], {})
    _, long = model(IDS[:, 40:], short)
    assert short.keys() == long.keys()
    if "transformer-" not in request.node.callspec.id:
        assert [(x.shape, x.dtype) for x in short.values()] == [(x.shape, x.dtype) for x in long.values()]
    # A view would keep the memory of all tokens alive, and write it to files.
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in (*short.values(), *long.values()))


@torch.no_grad()
def test_a_state_is_returned_on_request(model: LanguageModel) -> None:
    logits, state = model(IDS, {})
    assert torch.equal(model(IDS), logits)
    assert all(name.startswith("blocks.") for name in state)
