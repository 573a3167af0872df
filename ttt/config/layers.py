"""Keys of the shipped layer types.

They are defined here, not in ``ttt/layers/``, so that composing a configuration does not import torch. An added layer
may define its keys in its own file there, which is then imported to compose a configuration.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import ClassVar

from ttt.config.errors import UserError, bad_value, counted
from ttt.config.keys import REQUIRED, key
from ttt.config.schema import LayerConfig

CONV_KERNEL = 4
"""Width in tokens of the convolutions of Mamba and of the Mamba backbone, in the paper and in the released code."""


@dataclass
class TTTConfig(LayerConfig):
    """A TTT layer. The defaults are the released code's; for the paper's text and Table 1 see ``conf/ablation/``."""

    inner_model: str = key(REQUIRED, "linear, mlp, or a name registered in ttt/inner/models/")
    hidden: list[int] = key(list, "hidden widths of the MLP, in multiples of the head width", at_least=1)
    activation: str = key("gelu", "activation of the MLP: gelu (tanh form), relu, silu, tanh")
    inner_bias: bool = key(True, "biases in the inner model")
    mini_batch_size: int = key(
        16,
        "the paper's b; 1: online; ${ctx.length}: the whole context at once; RoPE's positions restart with every "
        "mini-batch, as in the authors' code, unless rope_period is set",
        at_least=1,
    )
    W_init: str = key("learnable", "W_0", choices=("learnable", "zero"))
    norm: bool = key(True, "LN in f")
    learnable_norm: bool = key(True, "learn LN's scale and shift")
    residual: bool = key(True, "f adds its input")
    halved_loss: bool = key(True, "1/2 || ... ||^2 instead of || ... ||^2")
    learnable_eta: bool = key(
        True, "eta = eta_base sigmoid(x theta_lr + beta_lr); false: eta_base / 2, its initial value"
    )
    eta_base: float = key(1.0, "base of eta, after the warm-up", above=0)
    eta_base_start: float = key(
        1.0,
        "base of eta at the first step; it rises linearly to eta_base; if it is not set, it follows eta_base: the same "
        "(TTT-Linear) or a tenth of it (TTT-MLP)",
        at_least=0,
    )
    eta_over_dim: bool = key(True, "divide eta by the head width")
    token_scale: str = key(
        "learned",
        "scale of eta at token i of a mini-batch. learned: tau_i = max(0, 1 / i + delta_i), delta learned; "
        "fixed: 1 / i; none: 1",
        choices=("learned", "fixed", "none"),
        formerly={True: "learned", False: "none"},
    )
    momentum: float = key(0.0, "share of the last update in each update (beyond the paper)", at_least=0, below=1)
    forget_gate: bool = key(False, "each token keeps a learned share of W (beyond the paper)")
    rope_base: float = key(10000.0, "base of RoPE", above=0)
    rope_period: int | None = key(
        None,
        "tokens after which RoPE's positions restart, a divisor of mini_batch_size; null: with every mini-batch",
        at_least=1,
    )
    conv_kernel: int = key(
        CONV_KERNEL, "width in tokens of the convolutions of backbone=mamba, in the block and in the layer", at_least=1
    )

    def check(self) -> None:
        """Check that the values are in range and consistent.

        Raises:
            UserError: a value out of its range, or switches that contradict each other.
        """
        super().check()
        if self.inner_model == "mlp" and not self.hidden:
            raise bad_value("model.hidden", self.hidden, "an MLP needs at least one width, such as [4]")
        if self.inner_model == "linear" and self.hidden:
            raise bad_value("model.hidden", self.hidden, "must be [] for inner_model=linear; mlp has hidden layers")
        if self.W_init == "zero" and self.inner_model != "linear":
            reason = f"leaves inner_model={self.inner_model} without gradients; choose learnable"
            raise bad_value("model.W_init", "zero", reason)
        if self.learnable_norm and not self.norm:
            raise bad_value("model.learnable_norm", True, "model.norm=false leaves no LN to learn; set both to false")
        if self.rope_period and self.mini_batch_size % self.rope_period:
            allowed = f"must divide model.mini_batch_size={self.mini_batch_size}"
            raise bad_value("model.rope_period", self.rope_period, allowed)
        if self.eta_base_start > self.eta_base:
            allowed = f"must be at most model.eta_base={self.eta_base}, to which it rises"
            raise bad_value("model.eta_base_start", self.eta_base_start, allowed)


@dataclass
class AttentionConfig(LayerConfig):
    """Causal softmax attention with RoPE, the sequence layer of Transformer++."""

    rope_base: float = key(10000.0, "base of RoPE", above=0)
    window: int | None = key(
        None, "tokens that a token sees, itself included (sliding-window attention); null: all", at_least=1
    )


@dataclass
class LinearAttentionConfig(LayerConfig):
    """Causal linear attention with RoPE."""

    feature_map: str = key("elu", "phi: elu(x) + 1, or the identity", choices=("elu", "none"))
    normaliser: bool = key(True, "divide by the sum of phi(k_s) . phi(q_t)")
    rope_base: float = key(10000.0, "base of RoPE", above=0)

    def check(self) -> None:
        """Check that the values are in range and consistent.

        Raises:
            UserError: no such feature map, or a normaliser that could be zero.
        """
        super().check()
        if self.normaliser and self.feature_map == "none":
            raise bad_value("model.normaliser", True, "could be zero with model.feature_map=none; set it to false")


@dataclass
class MambaConfig(LayerConfig):
    """Selective state space layer."""

    has_heads: ClassVar[bool] = False

    state_size: int = key(16, "state dimensions of a channel", at_least=1)
    expand: int = key(2, "inner width in multiples of the model width", at_least=1)
    conv_kernel: int = key(CONV_KERNEL, "width of the convolution in tokens", at_least=1)
    dt_rank: int | None = key(None, "rank of the step size's projection; null: ceil(width / 16)", at_least=1)
    # These two defaults are the values of the runs before the keys existed; conf/model/mamba.yaml has the package's.
    projection_init: str = key(
        "normal",
        "initial in_proj, x_proj and out_proj; uniform: torch's default, standard deviation (3 inputs)^-0.5, as in the "
        "package mamba-ssm, the public code that the paper's baseline uses; normal: size.init_std, as other layers",
        choices=("normal", "uniform"),
    )
    norm_eps: float = key(1e-6, "epsilon of the model's norms; the package's is 1e-5", above=0)


@dataclass
class GatedConfig(LayerConfig):
    """Keys of the recurrent layers with keys and values of their own widths: DeltaNet, Gated DeltaNet and GLA."""

    heads: int | None = key(None, "heads of this layer; null: size.heads", at_least=1)
    expand_k: float = key(1.0, "width of all keys together, in multiples of the model width", above=0)
    expand_v: float = key(1.0, "width of all values together, in multiples of the model width", above=0)
    conv_kernel: int | None = key(
        CONV_KERNEL,
        "width in tokens of the convolutions on queries, keys and values, with a SiLU after them; null: neither",
        at_least=1,
    )
    gate: bool = key(True, "an output gate SiLU(x theta_G) after the heads' norm")


@dataclass
class DeltaNetConfig(GatedConfig):
    """The delta rule, with the defaults of its paper and of the package flash-linear-attention."""

    gate: bool = key(False, "an output gate SiLU(x theta_G) after the heads' norm; the paper has none")
    negative_eigenvalues: bool = key(False, "beta between 0 and 2 instead of 0 and 1 (arXiv 2411.12537)")


@dataclass
class GatedDeltaNetConfig(GatedConfig):
    """The delta rule with a decay. Keys and values have the paper's ratio 1 : 2, in the 4 C^2 weights of attention.

    The paper and flash-linear-attention have 0.75 and 1.5, which makes 6 C^2 weights, and fewer blocks.
    """

    expand_k: float = key(
        0.5, "width of all keys together, in multiples of the model width; the paper's: 0.75", above=0
    )
    expand_v: float = key(
        1.0, "width of all values together, in multiples of the model width; the paper's: 1.5", above=0
    )
    negative_eigenvalues: bool = key(False, "beta between 0 and 2 instead of 0 and 1 (arXiv 2411.12537)")


@dataclass
class GLAConfig(GatedConfig):
    """Gated linear attention, with the defaults of its paper but the heads: the paper has 4 at every size."""

    expand_k: float = key(0.5, "width of all keys together, in multiples of the model width", above=0)
    conv_kernel: int | None = key(
        None,
        "width in tokens of convolutions on queries, keys and values, with a SiLU after them; null: neither, as in the "
        "paper",
        at_least=1,
    )
    decay_rank: int = key(16, "rank of the decays' projection", at_least=1)
    decay_root: float = key(16.0, "the decay is the root of this degree of sigmoid(...)", above=0)


@dataclass
class Mamba2Config(LayerConfig):
    """State space duality, with the defaults of the package mamba-ssm."""

    state_size: int = key(128, "state dimensions of a channel", at_least=1)
    expand: int = key(2, "inner width in multiples of the model width", at_least=1)
    head_dim: int | None = key(
        None, "inner channels of a head, which share a decay; null: the size's head width, usually 64", at_least=1
    )
    groups: int = key(1, "groups of heads; the heads of a group share B and C", at_least=1)
    conv_kernel: int = key(CONV_KERNEL, "width of the convolution in tokens", at_least=1)
    projection_init: str = key(
        "uniform",
        "initial in_proj and out_proj; uniform: torch's default, as in the package; normal: size.init_std",
        choices=("uniform", "normal"),
    )
    norm_eps: float = key(1e-5, "epsilon of the layer's and the model's norms", above=0)


SHIPPED: dict[str, type[LayerConfig]] = {
    "ttt_linear": TTTConfig,
    "ttt_mlp": TTTConfig,
    "linear_attention": LinearAttentionConfig,
    "transformer": AttentionConfig,
    "mamba": MambaConfig,
    "deltanet": DeltaNetConfig,
    "gated_deltanet": GatedDeltaNetConfig,
    "gla": GLAConfig,
    "mamba2": Mamba2Config,
}
"""``model=`` option -> schema."""


@dataclass
class HybridConfig(LayerConfig):
    """Several layers in one stack. ``pattern`` names them; the keys of each are below its name in the pattern."""

    pattern: list[str] = key(
        list,
        "layers of successive blocks, repeated to the last block: the groups of keys below, or added layers",
        not_empty=True,
    )
    ttt_linear: TTTConfig = key(partial(TTTConfig, name="ttt_linear"), "keys of this layer")
    ttt_mlp: TTTConfig = key(partial(TTTConfig, name="ttt_mlp"), "keys of this layer")
    linear_attention: LinearAttentionConfig = key(
        partial(LinearAttentionConfig, name="linear_attention"), "keys of this layer"
    )
    attention: AttentionConfig = key(partial(AttentionConfig, name="transformer"), "keys of this layer")
    sliding_attention: AttentionConfig = key(
        partial(AttentionConfig, name="transformer", window=512), "keys of this layer"
    )
    mamba: MambaConfig = key(partial(MambaConfig, name="mamba"), "keys of this layer")
    deltanet: DeltaNetConfig = key(partial(DeltaNetConfig, name="deltanet"), "keys of this layer")
    gated_deltanet: GatedDeltaNetConfig = key(partial(GatedDeltaNetConfig, name="gated_deltanet"), "keys of this layer")
    gla: GLAConfig = key(partial(GLAConfig, name="gla"), "keys of this layer")
    mamba2: Mamba2Config = key(partial(Mamba2Config, name="mamba2"), "keys of this layer")

    def check(self) -> None:
        """Check the layers of the pattern.

        Raises:
            UserError: a value out of its range, or values that contradict each other; the key has the layer's name.
        """
        if not self.pattern:
            raise bad_value("model.pattern", "[]", "name at least one layer, such as [ttt_linear, attention]")
        for name in dict.fromkeys(self.pattern):
            config = getattr(self, name, None)
            if isinstance(config, LayerConfig):
                try:
                    config.check()
                except UserError as error:
                    raise UserError(str(error).replace("model.", f"model.{name}.")) from error

    def check_fits(self, blocks: int) -> None:
        """Check that the pattern is repeated a whole number of times.

        Raises:
            UserError: it is not.
        """
        if blocks % len(self.pattern):
            count, names = counted(len(self.pattern), "layer"), f"[{','.join(self.pattern)}]"
            raise bad_value("model.pattern", names, f"has {count}, which must divide size.blocks={blocks}")

    def names(self) -> list[str]:
        """Return the names with keys of their own, which a pattern can have besides those of added layers."""
        return [item.name for item in fields(self) if isinstance(getattr(self, item.name), LayerConfig)]


MODELS: dict[str, type[LayerConfig]] = SHIPPED | {"hybrid": HybridConfig}
"""``model=`` option -> schema, with the option that is no layer."""
