"""Parameters and FLOPs of the paper's models, on torch's meta device, which allocates nothing."""

import pytest
import torch
from torch import nn
from transformers import Mamba2Config, Mamba2ForCausalLM

from ttt.cli.compose import as_object, compose
from ttt.config.errors import UserError
from ttt.config.schema import TrainConfig
from ttt.layers.convolution import CausalConv
from ttt.models.build import build_model
from ttt.models.flops import training_flops
from ttt.models.language_model import LanguageModel

LLAMA_2_VOCABULARY = 32000

pytestmark = pytest.mark.usefixtures("configure")


def build(model: str, size: str, vocabulary: int = LLAMA_2_VOCABULARY) -> tuple[LanguageModel, TrainConfig]:
    config = as_object(compose("train", [f"model={model}", f"size={size}"]), TrainConfig)
    with torch.device("meta"):
        return build_model(config.model, config.size, config.backbone, config.kernel, vocabulary), config


def count(model: LanguageModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["125m", "350m", "760m", "1.3b"])
def test_a_transformers_parameters_and_flops_by_hand(name: str) -> None:
    model, config = build("transformer", name)
    C, hidden, blocks, T = config.size.width, config.size.mlp_hidden, config.size.blocks, 2048
    matrices = blocks * (4 * C * C + 3 * C * hidden) + LLAMA_2_VOCABULARY * C
    norms = (2 * blocks + 1) * C
    assert count(model) == matrices + norms
    attention = blocks * 4 * T * C
    assert training_flops(model, T, tokens=10**9) == pytest.approx(3 * (2 * matrices + attention) * 10**9)


def test_mamba_130m_has_its_authors_number_of_parameters() -> None:
    assert count(build("mamba", "125m", vocabulary=50280)[0]) == 129_135_360


def test_mamba_2_130m_has_its_authors_number_of_parameters() -> None:
    with torch.device("meta"):
        shape = {"hidden_size": 768, "num_hidden_layers": 24, "num_heads": 24, "n_groups": 1, "vocab_size": 50288}
        theirs = Mamba2ForCausalLM(Mamba2Config(**shape, tie_word_embeddings=True))
    assert count(build("mamba2", "125m", vocabulary=50288)[0]) == sum(p.numel() for p in theirs.parameters())


def test_mamba_has_its_packages_norms_and_initial_values() -> None:
    model, config = build("mamba", "125m")
    assert {module.eps for module in model.modules() if isinstance(module, nn.RMSNorm)} == {1e-5}
    assert config.model.projection_init == "uniform"  # type: ignore[attr-defined]
    others = build("ttt_linear", "125m")[0].modules()
    assert {module.eps for module in others if isinstance(module, nn.RMSNorm)} == {1e-6}


def test_convolutions_start_as_in_either_release_of_the_authors() -> None:
    def convolutions(init: str) -> list[CausalConv]:
        torch.manual_seed(0)
        config = as_object(compose("train", [f"backbone.conv_init={init}", "size.width=512"]), TrainConfig)
        model = build_model(config.model, config.size, config.backbone, config.kernel, 100)
        return [module.requires_grad_(False) for module in model.modules() if isinstance(module, CausalConv)]

    for conv in convolutions("torch"):
        assert conv.weight.abs().max() == pytest.approx(0.5, abs=0.01)
        assert conv.bias.std() == pytest.approx(0.5 / 3**0.5, rel=0.1)
    for conv in convolutions("lecun"):
        assert conv.weight.std() == pytest.approx(0.5, rel=0.05)
        assert 0.9 < conv.weight.abs().max() < 1.14  # flax cuts the distribution off at 2 * 0.5 / 0.8796
        assert not conv.bias.any()


def test_an_initial_convolution_needs_a_convolution() -> None:
    config = as_object(compose("train", ["backbone=transformer", "backbone.conv_init=lecun"]), TrainConfig)
    with pytest.raises(UserError, match=r"^backbone.conv_init=lecun: backbone=transformer has no convolution$"):
        build_model(config.model, config.size, config.backbone, config.kernel, 100)


def test_a_width_of_the_convolution_needs_a_convolution() -> None:
    config = as_object(
        compose("train", ["model=ttt_linear", "backbone=transformer", "model.conv_kernel=2"]), TrainConfig
    )
    with pytest.raises(UserError, match=r"model.conv_kernel=2: backbone=transformer has no convolution"):
        build_model(config.model, config.size, config.backbone, config.kernel, 100)


LATER = [(model, name) for model in ("deltanet", "gated_deltanet", "gla", "mamba2") for name in ("125m", "1.3b")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name"),
    [
        (model, name)
        for name in ("125m", "350m", "760m", "1.3b")
        for model in ("ttt_linear", "ttt_mlp", "linear_attention", "mamba")
    ]
    + LATER,
)
def test_all_methods_of_a_size_have_about_equal_parameters(model: str, name: str) -> None:
    assert count(build(model, name)[0]) == pytest.approx(count(build("transformer", name)[0]), rel=0.06)
