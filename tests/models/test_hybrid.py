"""Several layers in one stack: their places, parameters, FLOPs, states and errors; attention in a sliding window."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from ttt.backbones.own import OwnBlock
from ttt.backbones.transformer import TransformerBlock
from ttt.cli.compose import as_object, compose
from ttt.cli.label import standard
from ttt.config.errors import UserError
from ttt.config.identity import identity, run_id
from ttt.config.layers import SHIPPED, AttentionConfig, HybridConfig
from ttt.config.plan import check
from ttt.config.schema import TrainConfig
from ttt.layers.attention import Attention
from ttt.layers.deltanet import DeltaNet
from ttt.layers.mamba import Mamba
from ttt.layers.registry import LayerSpec, build_layer
from ttt.layers.rope import rotated
from ttt.layers.ttt import TTT
from ttt.layers.views import merge_heads
from ttt.models.build import build_model
from ttt.models.count import count
from ttt.models.flops import training_flops
from ttt.models.language_model import LanguageModel

SMALL = ["size.width=32", "size.heads=2", "size.mlp_hidden=48", "data.vocab_size=300"]

pytestmark = pytest.mark.usefixtures("configure")


def config_of(pattern: str, blocks: int = 4, *overrides: str) -> TrainConfig:
    chosen = ["model=hybrid", f"model.pattern={pattern}", f"size.blocks={blocks}", *SMALL, *overrides]
    return as_object(compose("train", chosen), TrainConfig)


def model_of(config: TrainConfig) -> LanguageModel:
    torch.manual_seed(0)
    return build_model(config.model, config.size, config.backbone, config.kernel, config.data.vocab_size)


def layers_of(model: LanguageModel) -> list[type]:
    return [type(block.layer) for block in model.blocks]


def test_the_pattern_is_repeated_to_the_last_block() -> None:
    model = model_of(config_of("[ttt_linear,attention]"))
    assert layers_of(model) == [TTT, Attention, TTT, Attention]


def test_a_layer_that_the_backbone_cannot_contain_sits_in_its_own() -> None:
    model = model_of(config_of("[mamba,deltanet]", 2, "backbone=mamba"))
    # Two of Mamba's layers replace a block with a feed-forward part.
    assert layers_of(model) == [Mamba, Mamba, DeltaNet]
    assert [type(block) for block in model.blocks] == [OwnBlock, OwnBlock, TransformerBlock]
    assert [block.layer_norm.eps for block in model.blocks] == [1e-5, 1e-5, 1e-6]  # type: ignore[union-attr]


@pytest.mark.parametrize("pattern", ["[ttt_linear,ttt_linear,sliding_attention]", "[mamba2,gated_deltanet,attention]"])
def test_a_hybrid_read_in_parts_is_the_whole(pattern: str) -> None:
    model = model_of(config_of(pattern, 3, "model.sliding_attention.window=8")).double()
    ids = torch.randint(300, (2, 60), generator=torch.Generator().manual_seed(0))
    whole, state = model(ids), {}
    parts = []
    for length in (1, 7, 20, 31, 1):
        logits, state = model(ids[:, :length], state=state)
        ids = ids[:, length:]
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-10, atol=1e-10)


def test_parameters_and_flops_are_those_of_the_layers() -> None:
    """Count from one pattern what the whole model has, and the mean of the models with one layer only."""
    config = config_of("[mamba2,attention]", 6)
    parameters, flops = count(config, tokens=1000)
    model = model_of(config)
    assert parameters == sum(p.numel() for p in model.parameters())
    assert flops == training_flops(model, config.ctx.length, 1000)
    alone = [count(config_of(f"[{name}]", 6), 1000) for name in ("mamba2", "attention")]
    assert (parameters, flops) == tuple(sum(values) / 2 for values in zip(*alone, strict=True))


@pytest.mark.parametrize("pattern", ["[ttt_linear,attention]", "[mamba,sliding_attention]", "[mamba2,deltanet]"])
def test_hybrids_have_about_the_parameters_of_their_size(pattern: str) -> None:
    hybrid, plain = (
        count(as_object(compose("train", ["size=125m", *chosen]), TrainConfig), 1)[0]
        for chosen in (["model=hybrid", f"model.pattern={pattern}"], ["model=transformer"])
    )
    assert hybrid == pytest.approx(plain, rel=0.06)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_layers_have_the_values_of_their_own_option(name: str) -> None:
    hybrid = config_of("[attention]").model
    assert isinstance(hybrid, HybridConfig)
    config = asdict(getattr(hybrid, {"transformer": "attention"}.get(name, name)))
    assert config.pop("name") == name
    assert config == standard("model", name)


def test_keys_of_layers_count_one_by_one() -> None:
    plain = config_of("[gla,attention]")
    changed = replace(plain, model=config_of("[gla,attention]", 4, "model.gla.decay_rank=8").model)
    assert run_id(plain) != run_id(changed)
    assert identity(changed)["model"]["gla"] == {"decay_rank": 8}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.pattern=[gla,mamba,attention]"],
            r"^model.pattern=\[gla,mamba,attention\]: has 3 layers, which must di",
        ),
        (["model.pattern=[]"], r"^model.pattern=\[\]: give at least one value$"),
        (["model.gla.decay_rank=0"], r"^model.gla.decay_rank=0: must be at least 1"),
        (["model.ttt_linear.norm=false"], r"^model.ttt_linear.learnable_norm=true: model.ttt_linear.norm=false leaves"),
        (["model.sliding_attention.window=0"], r"^model.sliding_attention.window=0: must be at least 1"),
    ],
)
def test_impossible_hybrids_are_refused_before_anything_is_loaded(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(config_of("[ttt_linear,attention]", 2, *overrides))


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(
        UserError, match=r"^model.pattern=rwkv: choose from ttt_linear, .*, sliding_attention, .*mamba2"
    ):
        model_of(config_of("[rwkv]"))


WIDTH, T = 16, 50


def attention(window: int | None) -> Attention:
    torch.manual_seed(0)
    layer = build_layer(AttentionConfig("transformer", window=window), LayerSpec(WIDTH, heads=2, init_std=0.5))
    assert isinstance(layer, Attention)
    return layer.double()


def by_definition(layer: Attention, x_BTC: Tensor, window: int) -> Tensor:
    (q, k, v, *gate), _ = layer.views(x_BTC, None, layer.output.g)
    q, k = rotated(q, k, torch.arange(T), layer.rope_base)
    distance = torch.arange(T)[:, None] - torch.arange(T)
    seen = (distance >= 0) & (distance < window)
    weights = ((q @ k.mT) / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf).softmax(dim=-1)
    return layer.output(merge_heads(weights @ v), *gate)


@pytest.mark.parametrize("window", [1, 7, 16, T, T + 1])
@pytest.mark.parametrize("cuts", [[T], [3, 30, 17], [1] * T], ids=["whole", "parts", "tokens"])
def test_a_window_is_the_definitions(window: int, cuts: Sequence[int]) -> None:
    layer = attention(window)
    x, dy = torch.randn(2, 2, T, WIDTH, dtype=torch.float64)
    x.requires_grad_()
    outputs, state = [], {}
    for chunk in x.split(list(cuts), dim=1):
        y, state = layer(chunk, state)
        outputs.append(y)
    actual, expected = torch.cat(outputs, dim=1), by_definition(layer, x, window)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    of_actual, of_expected = (torch.autograd.grad(y, x, dy)[0] for y in (actual, expected))
    torch.testing.assert_close(of_actual, of_expected, rtol=1e-10, atol=1e-10)
    assert state["keys"].shape[2] == state["values"].shape[2] == min(T, window - 1)
    assert state["position"] == T


def test_a_window_of_the_whole_sequence_is_attention() -> None:
    x = torch.randn(1, T, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(attention(T)(x)[0], attention(None)(x)[0], rtol=1e-12, atol=1e-12)


def test_flops_count_the_pairs_in_the_window() -> None:
    windowed, whole = attention(8), attention(None)
    assert whole.flops(64) - windowed.flops(64) == 4 * 64 * (64 - 8) * WIDTH
    assert whole.flops(8) == windowed.flops(8)
    assert windowed.flops(128) == 2 * windowed.flops(64)
