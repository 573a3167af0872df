"""Schemas of the shipped layer types.

They stand here, and not beside their layers, so that composing a configuration needs no torch. A layer in a file
of its own under ``ttt/layers/`` may define its schema there; composing it then imports that file.
"""

from dataclasses import dataclass

from ttt.config.schema import LayerConfig


@dataclass
class TTTConfig(LayerConfig):
    """A TTT layer.

    ``mini_batch_size`` is the paper's b. ``eta_base`` rises linearly from ``eta_base_start`` during warm-up.
    """

    inner_model: str = "???"
    mini_batch_size: int = 16
    eta_base: float = 1.0
    eta_base_start: float = 1.0
    rope_base: float = 10000.0


@dataclass
class AttentionConfig(LayerConfig):
    """Causal softmax attention with RoPE, the sequence layer of Transformer++."""

    rope_base: float = 10000.0


@dataclass
class MambaConfig(LayerConfig):
    """Selective state space layer. ``dt_rank`` null means ceil(width / 16)."""

    state_size: int = 16
    expand: int = 2
    conv_kernel: int = 4
    dt_rank: int | None = None


SHIPPED: dict[str, type[LayerConfig]] = {
    "ttt_linear": TTTConfig,
    "ttt_mlp": TTTConfig,
    "transformer": AttentionConfig,
    "mamba": MambaConfig,
}
"""``model=`` key -> schema."""
