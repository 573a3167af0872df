"""Schemas of the shipped layer types.

They stand here, and not beside their layers, so that composing a configuration needs no torch. A layer in a file
of its own under ``ttt/layers/`` may define its schema there; composing it then imports that file.
"""

from dataclasses import dataclass, field

from ttt.config.errors import bad_value
from ttt.config.schema import LayerConfig


@dataclass
class TTTConfig(LayerConfig):
    """A TTT layer. The defaults are the released code's; the paper's text and Table 1 are ``conf/ablation/``.

    Attributes:
        inner_model: linear, mlp, or a name that ``ttt/inner/models/`` registers.
        hidden: widths of the MLP's hidden layers as multiples of the head width.
        activation: gelu (tanh form), relu, silu or tanh.
        inner_bias: whether the inner model's maps have biases.
        mini_batch_size: the paper's b. 1 is online gradient descent; ${ctx.length} makes the whole context one batch.
        W_init: learnable, or zero.
        norm: whether f has LN.
        learnable_norm: whether its scale and shift are learned.
        residual: whether f adds its input.
        halved_loss: 1/2 || ... ||^2 instead of || ... ||^2.
        learnable_eta: eta = eta_base sigmoid(x theta_lr + beta_lr); else eta_base / 2, which that is at the start.
        eta_base: rises linearly from ``eta_base_start`` during warm-up.
        eta_over_dim: whether eta is divided by the head width.
        token_scale: tau_i = max(0, 1 / i + delta_i) at place i of a mini-batch, delta learned; else 1.
        momentum: share of the last update that each update repeats (beyond the paper).
        forget_gate: each token keeps a learned share of W (beyond the paper).
        rope_base: base of RoPE, whose positions restart in every mini-batch.
    """

    inner_model: str = "???"
    hidden: list[int] = field(default_factory=list)
    activation: str = "gelu"
    inner_bias: bool = True
    mini_batch_size: int = 16
    W_init: str = "learnable"
    norm: bool = True
    learnable_norm: bool = True
    residual: bool = True
    halved_loss: bool = True
    learnable_eta: bool = True
    eta_base: float = 1.0
    eta_base_start: float = 1.0
    eta_over_dim: bool = True
    token_scale: bool = True
    momentum: float = 0.0
    forget_gate: bool = False
    rope_base: float = 10000.0

    def check(self) -> None:
        """What no TTT layer can be.

        Raises:
            UserError: a value out of its range, or switches that contradict each other.
        """
        if self.mini_batch_size < 1:
            raise bad_value("model.mini_batch_size", self.mini_batch_size, "must be at least 1")
        if min(self.hidden, default=1) < 1 or (self.inner_model == "mlp") > bool(self.hidden):
            raise bad_value("model.hidden", self.hidden, "an MLP needs one positive width or more, such as [4]")
        if self.inner_model == "linear" and self.hidden:
            raise bad_value("model.hidden", self.hidden, "must be [] for inner_model=linear; mlp has hidden layers")
        if self.W_init not in ("learnable", "zero"):
            raise bad_value("model.W_init", self.W_init, "choose one of learnable, zero")
        if self.W_init == "zero" and self.inner_model != "linear":
            must = f"leaves inner_model={self.inner_model} without gradients; take learnable"
            raise bad_value("model.W_init", "zero", must)
        if self.learnable_norm and not self.norm:
            raise bad_value("model.learnable_norm", True, "model.norm=false leaves no LN to learn; set both to false")
        if not self.eta_base > 0:
            raise bad_value("model.eta_base", self.eta_base, "must be positive")
        if not 0 <= self.momentum < 1:
            raise bad_value("model.momentum", self.momentum, "must be at least 0 and below 1")


@dataclass
class AttentionConfig(LayerConfig):
    """Causal softmax attention with RoPE, the sequence layer of Transformer++."""

    rope_base: float = 10000.0


@dataclass
class LinearAttentionConfig(LayerConfig):
    """Causal linear attention with RoPE.

    ``feature_map`` phi is elu (elu(x) + 1) or none; ``normaliser`` divides by the sum of phi(k_s) . phi(q_t).
    """

    feature_map: str = "elu"
    normaliser: bool = True
    rope_base: float = 10000.0

    def check(self) -> None:
        """What linear attention cannot be.

        Raises:
            UserError: no such feature map, or a normaliser that could be zero.
        """
        if self.feature_map not in ("elu", "none"):
            raise bad_value("model.feature_map", self.feature_map, "choose one of elu, none")
        if self.normaliser and self.feature_map == "none":
            raise bad_value("model.normaliser", True, "could be zero with model.feature_map=none; set it to false")


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
    "linear_attention": LinearAttentionConfig,
    "transformer": AttentionConfig,
    "mamba": MambaConfig,
}
"""``model=`` key -> schema."""
