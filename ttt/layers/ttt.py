"""TTT-Linear and TTT-MLP: sequence layers whose hidden state is a model that learns while it reads.

Shapes: B batch, H heads, T tokens, C model width, D = C / H head width, b mini-batch size.
"""

import torch
from torch import Tensor, nn

from ttt.config.errors import bad_value
from ttt.config.layers import TTTConfig
from ttt.inner.dual import dual_flops
from ttt.inner.eta import inner_learning_rate, token_scale
from ttt.inner.layer_norm import EPS, LayerNormParams
from ttt.inner.models import INNER_MODELS
from ttt.inner.scan import scan
from ttt.kernels.dispatch import choose_form
from ttt.layers.flops import count_flops
from ttt.layers.registry import LayerSpec, register_layer
from ttt.layers.rope import rope_tables, rotate
from ttt.layers.views import Output, Views, merge_heads


@register_layer("ttt_linear", TTTConfig, backbones=("mamba", "transformer"))
@register_layer("ttt_mlp", TTTConfig, backbones=("mamba", "transformer"))
class TTT(nn.Module):
    """The TTT layer of Section 2, as the authors' code has it. [B, T, C] -> [B, T, C].

    Attributes:
        W_init: theta_init, the inner model's parameters before the first token (W1 [H, D, D], b1 [H, 1, D], ...).
        norm_scale: scale [H, D] of the inner model's LN; ``norm_shift`` its shift.
        eta_weight: theta_lr [H, C]; ``eta_bias`` is beta_lr [H].
        token_delta: learnable part delta [b] of the token scale.
        eta_warmup: share of ``eta_base`` in effect, set by ``set_warmup`` and kept in checkpoints.
        no_weight_decay: names of the parameters that the optimizer must not decay.

    Raises:
        UserError: a mini-batch size or an inner model that cannot be.
    """

    eta_warmup: Tensor

    def __init__(self, config: TTTConfig, spec: LayerSpec) -> None:
        super().__init__()
        if config.inner_model not in INNER_MODELS:
            raise bad_value("model.inner_model", config.inner_model, f"choose one of {', '.join(INNER_MODELS)}")
        if not config.eta_base > 0:
            raise bad_value("model.eta_base", config.eta_base, "must be positive")
        self.config, self.kernel, self.head_dim = config, spec.kernel, spec.head_dim
        self.form = choose_form(spec.kernel.name)
        self.inner_model = INNER_MODELS[config.inner_model]
        self.views, self.output = Views(spec), Output(spec)
        self.W_init = nn.ParameterDict(
            {
                name: nn.Parameter(_initial(name, (spec.heads, *shape), spec.init_std))
                for name, shape in self.inner_model.shapes(spec.head_dim).items()
            }
        )
        self.norm_scale = nn.Parameter(torch.ones(spec.heads, spec.head_dim))
        self.norm_shift = nn.Parameter(torch.zeros(spec.heads, spec.head_dim))
        self.eta_weight = nn.Parameter(torch.randn(spec.heads, spec.width) * spec.init_std)
        self.eta_bias = nn.Parameter(torch.zeros(spec.heads))
        self.token_delta = nn.Parameter(torch.zeros(config.mini_batch_size))
        self.post_norm = nn.LayerNorm(spec.width, eps=EPS)
        self.register_buffer("eta_warmup", torch.ones(()))
        biases = [name for name in self.W_init if name.startswith("b")]
        self.no_weight_decay = ("norm_scale", "norm_shift", *(f"W_init.{name}" for name in biases))

    def set_warmup(self, progress: float) -> None:
        """Puts eta_base at ``progress`` (0 to 1) of the way from ``eta_base_start`` to ``eta_base`` (Appendix C)."""
        start = self.config.eta_base_start / self.config.eta_base
        self.eta_warmup.fill_(start + (1 - start) * min(progress, 1.0))

    def flops(self, tokens: int) -> int:
        """FLOPs of the matrix products of a forward pass over one sequence of ``tokens`` tokens, in the dual form."""
        b, heads = self.config.mini_batch_size, self.eta_weight.shape[0]
        inner = heads * dual_flops(self.inner_model, self.head_dim, tokens, b)
        eta = 2 * tokens * self.eta_weight.numel()
        return inner + eta + sum(count_flops(part, tokens) for part in (self.views, self.output))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Runs the inner loop over the sequence, from ``W_init``."""
        q, k, v = self.views(x_BTC)
        eta_base = self.config.eta_base * self.eta_warmup
        eta = inner_learning_rate(x_BTC, self.eta_weight, self.eta_bias, eta_base, self.head_dim)
        z_BHTD = self._inner_loop(q, k, v, eta).to(x_BTC.dtype)
        return self.output(self.post_norm(merge_heads(z_BHTD)), x_BTC)

    def _inner_loop(self, q: Tensor, k: Tensor, v: Tensor, eta: Tensor) -> Tensor:
        """The outputs z [B, H, T, D], in float32 at least: half precision would lose the small steps that W gathers."""
        with torch.autocast(q.device.type, enabled=False):
            q, k, v, eta = (x.float() if x.dtype.itemsize < 4 else x for x in (q, k, v, eta))
            b = self.config.mini_batch_size
            # Positions restart in every mini-batch: earlier tokens are known through W, not through attention.
            positions = torch.arange(q.shape[2], device=q.device) % b
            tables = rope_tables(positions, self.head_dim, self.config.rope_base, q.dtype)
            norm = LayerNormParams(self.norm_scale[:, None], self.norm_shift[:, None])
            z_BHTD, _ = scan(
                self.form,
                self.inner_model,
                tuple(self.W_init[name] for name in self.inner_model.shapes(self.head_dim)),
                norm,
                rotate(q, *tables),
                rotate(k, *tables),
                v,
                eta,
                token_scale(self.token_delta),
                self.kernel.checkpoint_group,
            )
        return z_BHTD


def _initial(name: str, shape: tuple[int, ...], init_std: float) -> Tensor:
    """Weights normal, biases zero."""
    return torch.zeros(shape) if name.startswith("b") else torch.randn(shape) * init_std
