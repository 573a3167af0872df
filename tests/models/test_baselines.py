"""The Transformer, Mamba and Mamba-2 models agree with transformers' models on the same weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Mamba2ForCausalLM, MambaForCausalLM
from transformers import Mamba2Config as TheirMamba2Config
from transformers import MambaConfig as TheirMambaConfig

from ttt.config.layers import AttentionConfig, Mamba2Config, MambaConfig
from ttt.config.schema import BackboneConfig, KernelConfig, LayerConfig, SizeConfig
from ttt.models.build import build_model

V, T = 50, 40
SIZE = SizeConfig(name="test", width=24, blocks=2, heads=2, mlp_hidden=40, init_std=0.2)
TOLERANCE = 1e-5


def llama() -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V,
            hidden_size=SIZE.width,
            intermediate_size=SIZE.mlp_hidden,
            num_hidden_layers=SIZE.blocks,
            num_attention_heads=SIZE.heads,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            initializer_range=0.2,
        )
    )


def mamba() -> nn.Module:
    return MambaForCausalLM(
        TheirMambaConfig(
            vocab_size=V,
            hidden_size=SIZE.width,
            num_hidden_layers=2 * SIZE.blocks,
            layer_norm_epsilon=1e-5,
            tie_word_embeddings=True,
            use_mambapy=False,
        )
    )


def mamba2() -> nn.Module:
    return Mamba2ForCausalLM(
        TheirMamba2Config(
            vocab_size=V,
            hidden_size=SIZE.width,
            num_hidden_layers=2 * SIZE.blocks,
            num_heads=4,
            head_dim=12,
            n_groups=1,
            state_size=16,
            tie_word_embeddings=True,
        )
    )


def pairs_adjacent(weight: Tensor) -> Tensor:
    """Reorder rows: Llama rotates entry i of a head with entry i + D / 2, this suite with its neighbour."""
    return weight.view(SIZE.heads, 2, -1, SIZE.width).transpose(1, 2).reshape(weight.shape)


def from_llama(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {"embedding.weight": theirs["model.embed_tokens.weight"], "norm.weight": theirs["model.norm.weight"]}
    for n in range(SIZE.blocks):
        their, our = f"model.layers.{n}.", f"blocks.{n}."
        ours[our + "layer_norm.weight"] = theirs[their + "input_layernorm.weight"]
        ours[our + "mlp_norm.weight"] = theirs[their + "post_attention_layernorm.weight"]
        for part in ("q", "k", "v"):
            weight = theirs[f"{their}self_attn.{part}_proj.weight"]
            ours[f"{our}layer.views.{part}.weight"] = weight if part == "v" else pairs_adjacent(weight)
        ours[our + "layer.output.o.weight"] = theirs[their + "self_attn.o_proj.weight"]
        for part in ("gate", "up", "down"):
            ours[f"{our}mlp.{part}.weight"] = theirs[f"{their}mlp.{part}_proj.weight"]
    return ours


def from_mamba(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"backbone.embeddings.weight": "embedding.weight", "backbone.norm_f.weight": "norm.weight"}
    ours = {}
    for name, value in theirs.items():
        if name != "lm_head.weight":
            own = name if ".mixer." in name else name.replace(".norm.weight", ".layer_norm.weight")
            in_block = own.replace("backbone.layers.", "blocks.").replace(".mixer.", ".layer.")
            ours[names.get(name, in_block)] = value
    return ours


def logits_and_gradients(
    model: nn.Module, read: Callable[[nn.Module, Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    ids = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(0))
    logits = read(model, ids)
    nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("theirs", "translate", "layer", "backbone"),
    [
        (llama, from_llama, AttentionConfig(name="transformer"), "transformer"),
        (mamba, from_mamba, MambaConfig(name="mamba", norm_eps=1e-5), "own"),
        (mamba2, from_mamba, Mamba2Config(name="mamba2", state_size=16), "own"),
    ],
    ids=["transformer", "mamba", "mamba2"],
)
def test_logits_and_gradients_are_theirs(
    theirs: Callable[[], nn.Module],
    translate: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    layer: LayerConfig,
    backbone: str,
) -> None:
    torch.manual_seed(0)
    their_model = theirs()
    our_model = build_model(layer, SIZE, BackboneConfig(backbone), KernelConfig(), V)
    our_model.load_state_dict(translate(their_model.state_dict()))
    expected, their_gradients = logits_and_gradients(their_model, lambda model, ids: model(ids).logits)
    actual, our_gradients = logits_and_gradients(our_model, lambda model, ids: model(ids))
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())
    translated = translate(their_gradients)
    assert our_gradients.keys() == translated.keys()
    for name, gradient in our_gradients.items():
        error = (gradient - translated[name]).abs().max() / translated[name].abs().max()
        assert error < TOLERANCE, f"{name}: relative error {error:.1e}"
