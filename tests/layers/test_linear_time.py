"""Work that grows with the context grows linearly: time per token, forward and backward, at two lengths."""

import statistics
import time

import pytest
import torch

from ttt.config.layers import MambaConfig, TTTConfig
from ttt.config.schema import LayerConfig
from ttt.layers.registry import LayerSpec, build_layer

SHORT, LONG, ROUNDS = 1024, 8192, 5


def seconds_per_token(layer: torch.nn.Module, tokens: int) -> float:
    x = torch.randn(1, tokens, 32, requires_grad=True)
    started = time.perf_counter()
    layer(x).sum().backward()
    return (time.perf_counter() - started) / tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        TTTConfig(name="ttt_linear", inner_model="linear"),
        TTTConfig(name="ttt_mlp", inner_model="mlp", eta_base=0.1),
        MambaConfig(name="mamba"),
    ],
    ids=lambda config: config.name,
)
def test_time_per_token_does_not_grow(config: LayerConfig) -> None:
    layer = build_layer(config, LayerSpec(width=32, heads=2, init_std=0.1))
    seconds_per_token(layer, SHORT)
    # Alternating within one process: a machine that slows down slows both.
    rounds = [(seconds_per_token(layer, LONG), seconds_per_token(layer, SHORT)) for _ in range(ROUNDS)]
    assert statistics.median(long / short for long, short in rounds) < 1.3
