"""The count of FLOPs agrees with torch's, with sums by hand, and with the table in ttt/models/FLOPS.md."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ttt.cli.compose import as_object, compose, quote_option
from ttt.cli.sweep.expand import expand, load_sweep
from ttt.config.assets import assets
from ttt.config.layers import GatedDeltaNetConfig, GLAConfig, Mamba2Config, MambaConfig
from ttt.config.schema import TrainConfig
from ttt.inner.flops import inner_flops
from ttt.inner.models.mlp import InnerMLP
from ttt.layers.convolution import CausalConv
from ttt.layers.flops import count_flops
from ttt.layers.gated_deltanet import GatedDeltaNet
from ttt.layers.gla import GatedLinearAttention
from ttt.layers.mamba import Mamba
from ttt.layers.mamba2 import Mamba2
from ttt.layers.registry import LayerSpec
from ttt.models.build import build_model
from ttt.models.count import count
from ttt.models.flops import training_flops
from ttt.models.language_model import LanguageModel

LLAMA_2_VOCABULARY = 32000

T = 256
"""Sixteen mini-batches, so that the last update, which is unused and has no backward pass, does not matter."""
LATER = ["deltanet", "gated_deltanet", "gla", "mamba2"]
SMALL = ["size.width=48", "size.heads=2", "size.mlp_hidden=96", "kernel=dual", "kernel.checkpoint_group=0"]


def small(*overrides: str) -> LanguageModel:
    config = as_object(compose("train", [*map(quote_option, overrides), *SMALL]), TrainConfig)
    return build_model(config.model, config.size, config.backbone, config.kernel, vocab_size=100)


def torch_counts(model: LanguageModel, backward: bool) -> int:
    # Of torch's attention kernels on a CPU, its counter knows only the plain one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = model(torch.zeros(1, T, dtype=torch.int64)).sum()
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("model", ["ttt_linear", "ttt_mlp", "linear_attention", "transformer", "mamba", *LATER])
def test_a_models_forward_pass_is_what_torch_counts(model: str) -> None:
    built = small(f"model={model}")
    parts = (part for part in built.modules() if hasattr(part, "elementwise_flops"))
    elementwise = sum(part.elementwise_flops(T) for part in parts)  # type: ignore[operator]
    assert built.flops(T) - elementwise == pytest.approx(torch_counts(built, backward=False), rel=0.02)


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("model", ["ttt_linear", "ttt_mlp", "linear_attention", "transformer"])
def test_training_is_what_torch_counts(model: str) -> None:
    """Check models without convolutions: torch counts the backward pass of a depthwise one as a dense one."""
    built = small(f"model={model}", "backbone=transformer")
    assert training_flops(built, T, tokens=T) == pytest.approx(torch_counts(built, backward=True), rel=0.02)


def test_a_convolution_by_hand() -> None:
    assert count_flops(CausalConv(channels=6, kernel_size=4), tokens=10) == 2 * 10 * 6 * 4


def test_mambas_layer_by_hand() -> None:
    C, E, N, R, K = 32, 64, 16, 2, 4
    layer = Mamba(MambaConfig(name="mamba"), LayerSpec(width=C, heads=2))
    projections = C * 2 * E + E * (R + 2 * N) + R * E + E * C
    # delta A, its exponential, delta B u (two), a h + x (two), and the product with C and its sum.
    scan = (6 + 2) * E * N
    assert count_flops(layer, tokens=10) == 10 * (2 * projections + 2 * K * E + scan)


def test_a_gated_deltanet_by_hand() -> None:
    C, H, D, V, K, L, tokens = 32, 2, 8, 16, 4, 64, 128
    layer = GatedDeltaNet(GatedDeltaNetConfig(name="gated_deltanet"), LayerSpec(width=C, heads=H))
    projections = C * (2 * H * D + 3 * H * V + 2 * H)
    convolutions = K * (2 * H * D + H * V)
    head = 4 * L * D + L * (D + V) + 2 * L * V + 2 * D * D + 6 * D * V + 2 * D * D * V // L
    assert count_flops(layer, tokens) == tokens * (2 * projections + 2 * convolutions + H * head)


def test_gated_linear_attention_by_hand() -> None:
    C, H, D, V, L, rank, tokens = 32, 2, 8, 16, 16, 16, 48
    layer = GatedLinearAttention(GLAConfig(name="gla"), LayerSpec(width=C, heads=H))
    projections = C * (2 * H * D + 3 * H * V) + rank * (C + H * D)
    assert count_flops(layer, tokens) == tokens * (2 * projections + H * (3 * L * D + 2 * L * V + 4 * D * V))


def test_mamba_2_by_hand() -> None:
    C, E, N, H, K, L, tokens = 32, 64, 16, 4, 4, 64, 128
    layer = Mamba2(Mamba2Config(name="mamba2", state_size=N), LayerSpec(width=C, heads=2))
    projections = C * (2 * E + 2 * N + H) + E * C
    state_space = 2 * L * N + 2 * L * E + 4 * N * E
    assert count_flops(layer, tokens) == tokens * (2 * projections + 2 * K * (E + 2 * N) + state_space)


@pytest.mark.parametrize("b", [1, 16])
def test_the_inner_loop_by_hand(b: int) -> None:
    D, tokens = 8, 48
    forward, update, output = 3 * [2 * tokens * D * D]
    correction = 2 * tokens * b * (D + D)
    assert inner_flops(InnerMLP(), D, tokens, b) == forward + update + output + correction
    # The MLP's two maps have 4 D^2 weights each, and its gradient passes back through the second.
    back = 2 * tokens * 4 * D * D
    mlp = 8 * (forward + update + output) + back + 2 * 2 * tokens * b * (D + 4 * D)
    assert inner_flops(InnerMLP((4,)), D, tokens, b) == mlp


@pytest.mark.usefixtures("configure")
def test_attention_and_head_by_hand() -> None:
    """Check the T x T pairs that doubling the context adds, and the head's FLOPs."""
    built, C, blocks = small("model=transformer"), 48, 2
    assert built.flops(2 * T) - 2 * built.flops(T) == blocks * 4 * C * (4 - 2) * T**2
    only_blocks = sum(count_flops(block, T) for block in built.blocks)
    assert built.flops(T) - only_blocks == 2 * T * 100 * C


@cache
def gflops(model: str, *overrides: str) -> float:
    """Return the training FLOPs per token of a model at 1.3B, in units of 1e9."""
    settings = [f"model={model}", "size=1.3b", f"data.vocab_size={LLAMA_2_VOCABULARY}", *overrides]
    config = as_object(compose("train", [quote_option(override) for override in settings]), TrainConfig)
    return count(config, 1)[1] / 1e9


@pytest.mark.usefixtures("configure")
def test_the_sizes_of_the_figure_by_token_index_match_mamba() -> None:
    """Check that the paper's sizes for TTT are within 0.5% of Mamba 1.4B, while Table 2's differ by about 3%."""
    mamba = gflops("mamba", "ctx=32k")
    assert mamba == pytest.approx(8.061, abs=1e-3)
    assert gflops("ttt_linear", "ctx=32k", "size.mlp_hidden=5808") / mamba == pytest.approx(0.996, abs=1e-3)
    assert gflops("ttt_mlp", "ctx=32k", "size.mlp_hidden=5248") / mamba == pytest.approx(0.998, abs=1e-3)
    assert gflops("ttt_linear", "ctx=32k") / mamba == pytest.approx(0.962, abs=1e-3)
    assert gflops("ttt_mlp", "ctx=32k") / mamba == pytest.approx(1.026, abs=1e-3)


@pytest.mark.usefixtures("configure")
def test_the_transformer_of_19_blocks_against_mamba() -> None:
    """Check that the paper's ratio 2.8 of inference FLOPs implies a count of all pairs of attention.

    Training FLOPs per token are 1.18 times Mamba's, the mean over pretraining and finetuning, and 1.42 times in total.
    """
    mamba, head = gflops("mamba", "ctx=32k"), 3 * 2 * LLAMA_2_VOCABULARY * 2048 / 1e9
    short, long = (gflops("transformer", f"ctx={ctx}", "size.blocks=19") for ctx in ("2k", "32k"))
    pairs = 3 * 4 * 32768 * 2048 * 19 / 1e9
    assert long / mamba == pytest.approx(2.66, abs=0.01)
    assert (long - head) / (mamba - head) == pytest.approx(2.75, abs=0.01)
    assert (long - pairs / 2) / mamba == pytest.approx(1.71, abs=0.01)
    assert short / mamba == pytest.approx(0.883, abs=1e-3)
    assert (short + 0.2 * long) / mamba == pytest.approx(1.415, abs=1e-3)
    assert (short + 0.2 * long) / 1.2 / mamba == pytest.approx(1.180, abs=1e-3)


@pytest.mark.slow
def test_the_sweep_has_these_sizes() -> None:
    plan = expand(load_sweep("per_token", "paper"), Path("runs"))
    sizes = {(c.model.name, c.size.blocks, c.size.mlp_hidden, c.ctx.length) for c in plan.configs.values()}
    assert sizes == {
        ("ttt_linear", 24, 5808, 32768),
        ("ttt_mlp", 24, 5248, 32768),
        ("transformer", 19, 5504, 2048),
        ("transformer", 19, 5504, 32768),
        ("mamba", 24, 5504, 32768),
    }


@pytest.mark.usefixtures("configure")
def test_the_table_of_the_document_is_computed() -> None:
    document = (assets() / "ttt" / "models" / "FLOPS.md").read_text(encoding="utf-8")
    stated = [float(number) for number in re.findall(r"^\| [^|]+\| ([\d.]+) \| [\d.]+ \|", document, re.MULTILINE)]
    short, long = (gflops("transformer", f"ctx={ctx}", "size.blocks=19") for ctx in ("2k", "32k"))
    computed = [
        gflops("mamba", "ctx=32k"),
        gflops("ttt_linear", "ctx=32k", "size.mlp_hidden=5808"),
        gflops("ttt_mlp", "ctx=32k", "size.mlp_hidden=5248"),
        short,
        long,
        short + 0.2 * long,
        (short + 0.2 * long) / 1.2,
    ]
    assert stated == pytest.approx(computed, abs=1e-3)
