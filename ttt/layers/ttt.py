"""TTT-Linear and TTT-MLP: sequence layers whose hidden state is a model, trained at test time on the sequence.

Shapes: B batch, H heads, T tokens, C model width, D = C / H head width, b mini-batch size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.config.layers import TTTConfig
from ttt.inner.eta import inner_learning_rate, token_scale
from ttt.inner.flops import inner_flops
from ttt.inner.layer_norm import EPS, LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec, InnerState
from ttt.inner.models.base import Params
from ttt.inner.models.registry import make_inner_model
from ttt.inner.rotation import rotated
from ttt.kernels.cpu.decode import NoTokenStepsError, TokenSteps
from ttt.kernels.dispatch import COMPILED, choose_kernel, decode_in_place, view_type, why_not_compiled_steps
from ttt.layers.flops import count_flops
from ttt.layers.inner_state import pack, parameters_in_place, unpack
from ttt.layers.registry import LayerSpec, register_layer
from ttt.layers.rope import mini_batch_rotations
from ttt.layers.state import State, named, part
from ttt.layers.views import Output, Views, merge_heads

INITIAL_DECAY = 0.999
"""Share of W that an untrained forget gate keeps per token."""


@register_layer("ttt_linear", TTTConfig, backbones=("mamba", "transformer"))
@register_layer("ttt_mlp", TTTConfig, backbones=("mamba", "transformer"))
class TTT(nn.Module):
    """The TTT layer of Section 2 with the switches of ``TTTConfig``. [B, T, C] -> [B, T, C].

    Attributes:
        inner: the inner model, its loss and its update rule.
        kernel: the implementation that computes the inner loop.
        rotates: whether the kernel rotates q and k by RoPE; if not, they are rotated before.
        W_init: theta_init, the inner model's parameters before the first token (W1 [H, D, D], b1 [H, 1, D], ...);
            empty if they are zero.
        norm_scale: scale [H, D] of the inner model's LN, or None; ``norm_shift`` is its shift.
        eta_weight: theta_lr [H, C] of a learnable eta, or None; ``eta_bias`` is beta_lr [H].
        token_delta: learnable part delta [b] of the token scale, or None.
        gate_weight: projection [H, C] of the forget gate, or None; ``gate_bias`` is its bias [H].
        eta_warmup: share of ``eta_base`` in effect, set by ``set_warmup`` and saved in checkpoints.
        conv_kernel: width of the convolutions of the Mamba backbone.
        no_weight_decay: names of the parameters that the optimizer must not decay.

    Raises:
        UserError: an unknown inner model or activation, or a kernel that cannot compute this layer.
    """

    compiled_kernels = COMPILED
    eta_warmup: Tensor

    def __init__(self, config: TTTConfig, spec: LayerSpec) -> None:
        super().__init__()
        self.config, self.heads, self.head_dim = config, spec.heads, spec.head_dim
        model = make_inner_model(
            config.inner_model, spec.head_dim, tuple(config.hidden), config.activation, config.inner_bias
        )
        self.inner = InnerSpec(model, config.norm, config.residual, config.halved_loss, config.momentum)
        self.kernel, self.rotates = choose_kernel(spec.kernel, self.inner), spec.kernel.rotates
        self.conv_kernel = config.conv_kernel
        self.views, self.output = Views(spec, self.conv_kernel), Output(spec)
        initial = model.initial(spec.heads, spec.head_dim, spec.init_std) if config.W_init == "learnable" else {}
        self.W_init = nn.ParameterDict({name: nn.Parameter(value) for name, value in initial.items()})
        self.norm_scale = _parameter(torch.ones(spec.heads, spec.head_dim), config.learnable_norm)
        self.norm_shift = _parameter(torch.zeros(spec.heads, spec.head_dim), config.learnable_norm)
        # Only learned values are drawn, so that equal seeds start the rows of Table 1 from equal projections.
        self.eta_weight = (
            nn.Parameter(torch.randn(spec.heads, spec.width) * spec.init_std) if config.learnable_eta else None
        )
        self.eta_bias = _parameter(torch.zeros(spec.heads), config.learnable_eta)
        self.token_delta = _parameter(torch.zeros(config.mini_batch_size), config.token_scale == "learned")
        self.gate_weight = _parameter(torch.zeros(spec.heads, spec.width), config.forget_gate)
        self.gate_bias = _parameter(torch.logit(torch.full((spec.heads,), INITIAL_DECAY)), config.forget_gate)
        self.post_norm = nn.LayerNorm(spec.width, eps=EPS)
        self.register_buffer("eta_warmup", torch.ones(()))
        biases = [name for name, shape in model.shapes(spec.head_dim).items() if len(shape) == 1 or shape[0] == 1]
        self.no_weight_decay = ("norm_scale", "norm_shift", *(f"W_init.{name}" for name in biases))

    def set_warmup(self, progress: float) -> None:
        """Set eta_base to ``progress`` (0 to 1) of the way from ``eta_base_start`` to ``eta_base`` (Appendix C)."""
        start = self.config.eta_base_start / self.config.eta_base
        self.eta_warmup.fill_(start + (1 - start) * min(progress, 1.0))

    def flops(self, tokens: int) -> int:
        """Return the FLOPs of the matrix products of a forward pass over one sequence, in the dual form."""
        inner = self.heads * inner_flops(self.inner.model, self.head_dim, tokens, self.config.mini_batch_size)
        projections = [weight.numel() for weight in (self.eta_weight, self.gate_weight) if weight is not None]
        return inner + 2 * tokens * sum(projections) + sum(count_flops(x, tokens) for x in (self.views, self.output))

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the inner loop over the tokens, from ``W_init`` or from ``state``.

        A state of ``ttt.layers.inner_state.in_place`` takes one token, is overwritten, and is returned.
        """
        (q, k, v, *gate), views_state = self.views(x_BTC, part(state, "views"), self.output.g)
        # In at least float32: half precision would lose the small steps that W accumulates. The views may stay in half
        # precision if the kernel keeps the steps in float32.
        with torch.autocast(q.device.type, enabled=False):
            views_dtype = view_type(self.kernel, q)
            dtype = torch.promote_types(q.dtype, torch.float32)
            inner = part(state, "inner")
            start = None if "place" in inner else self._inner_state(inner, q.shape[0], dtype)
            offset: int | Tensor = inner["place"] if start is None else start.offset
            q, k, v = (view.to(views_dtype) for view in (q, k, v))
            inputs = InnerInputs(q, k, v, *self._rates(x_BTC.to(dtype)))
            loop = InnerLoop(self.inner, self._norm(dtype), self._tau(dtype), self._rotation(dtype))
            if not self.rotates:
                loop, inputs = rotated(loop, offset, inputs)
            if start:
                z_BHTD, end = self.kernel(loop, start, inputs)
                inner = pack(self._names, end)
            else:
                z_BHTD = decode_in_place(loop, *parameters_in_place(self._names, inner), inputs)
        y_BTC = self.output(merge_heads(z_BHTD.to(x_BTC.dtype)), *gate, norm=self.post_norm)
        return y_BTC, named("views", views_state) | named("inner", inner)

    def token_steps(self, steps: TokenSteps, x_C: Tensor, state: State) -> Tensor:
        """Add the views, the inner loop and the output of one token.

        Raises:
            NoTokenStepsError: the compiled steps do not support this layer.
        """
        dtype, inner = x_C.dtype, part(state, "inner")
        reason = why_not_compiled_steps(self.kernel, self.inner, self.head_dim, dtype)
        if reason or self.gate_weight is not None:
            raise NoTokenStepsError(reason or "it has a forget gate")
        W, sums, place = parameters_in_place(self._names, inner)
        q_HD, k_HD, v_HD = self.views.token_steps(steps, x_C, part(state, "views"))
        turns = self._rotation(dtype)
        for view_HD in (q_HD, k_HD):
            steps.rotate(view_HD, turns, place)
        scale, shift = self._norm(dtype)
        eta_H = self._eta_steps(steps, x_C)
        z_HD = steps.inner(W, sums, scale, shift, (q_HD, k_HD, v_HD), eta_H, self._tau(dtype), place)
        return self.output.token_steps(steps, steps.layer_norm(z_HD.flatten(), self.post_norm), x_C)

    def initial_weights(self, dtype: torch.dtype) -> Params:
        """Return W_0, the inner model's parameters before the first token, each [H, ...]."""
        if self.W_init:
            return tuple(self.W_init[name].to(dtype) for name in self._names)
        shapes = self.inner.model.shapes(self.head_dim).values()
        device = self.eta_warmup.device
        return tuple(torch.zeros(self.heads, *shape, device=device, dtype=dtype) for shape in shapes)

    @property
    def _names(self) -> list[str]:
        return list(self.inner.model.shapes(self.head_dim))

    def _inner_state(self, state: State, batch: int, dtype: torch.dtype) -> InnerState:
        if state:
            return unpack(self._names, state, self.inner.momentum > 0)
        return self.inner.start(self.initial_weights(dtype), batch)

    def _rotation(self, dtype: torch.dtype) -> Tensor:
        # Positions restart in every mini-batch: earlier tokens act through W, not through attention.
        b, device = self.config.mini_batch_size, self.eta_warmup.device
        return mini_batch_rotations(
            b, self.config.rope_period or b, self.head_dim, self.config.rope_base, dtype, device
        )

    def _rates(self, x_BTC: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return eta [B, H, T], and the logarithm of the share of W that the forget gate keeps [B, H, T]."""
        eta_base = self._eta_base(x_BTC.dtype)
        if self.eta_weight is None or self.eta_bias is None:
            eta = (eta_base / 2).expand(x_BTC.shape[0], self.heads, x_BTC.shape[1])
        else:
            eta = inner_learning_rate(x_BTC, self.eta_weight, self.eta_bias, eta_base)
        if self.gate_weight is None or self.gate_bias is None:
            return eta, None
        gate = x_BTC @ self.gate_weight.to(x_BTC.dtype).mT + self.gate_bias.to(x_BTC.dtype)
        return eta, F.logsigmoid(gate).transpose(1, 2)

    def _eta_base(self, dtype: torch.dtype) -> Tensor:
        eta_base = self.config.eta_base * self.eta_warmup.to(dtype)
        return eta_base / self.head_dim if self.config.eta_over_dim else eta_base

    def _eta_steps(self, steps: TokenSteps, x_C: Tensor) -> Tensor:
        """Return eta [H] with the halved loss."""
        eta_base = 2 * self.inner.loss_factor * float(self._eta_base(x_C.dtype))
        if self.eta_weight is None or self.eta_bias is None:
            return x_C.new_full((self.heads,), eta_base / 2)
        eta_H = steps.linear(x_C, self.eta_weight)
        steps.rate(eta_H, self.eta_bias, eta_base)
        return eta_H

    def _norm(self, dtype: torch.dtype) -> LayerNormParams:
        if self.norm_scale is None or self.norm_shift is None:
            one = torch.ones(self.heads, 1, self.head_dim, device=self.eta_warmup.device, dtype=dtype)
            return LayerNormParams(one, torch.zeros_like(one))
        return LayerNormParams(self.norm_scale[:, None].to(dtype), self.norm_shift[:, None].to(dtype))

    def _tau(self, dtype: torch.dtype) -> Tensor:
        if self.token_delta is not None:
            return token_scale(self.token_delta.to(dtype))
        none_b = torch.ones(self.config.mini_batch_size, device=self.eta_warmup.device, dtype=dtype)
        return none_b if self.config.token_scale == "none" else token_scale(torch.zeros_like(none_b))


def _parameter(value: Tensor, learned: bool) -> nn.Parameter | None:
    return nn.Parameter(value) if learned else None
