"""The selective state space layer of Mamba (arXiv 2312.00752, Section 3.4).

Shapes: B batch, T tokens, C model width, E = expand C inner width, N state size, R rank of delta.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.config.errors import bad_value
from ttt.config.layers import MambaConfig
from ttt.config.schema import KernelConfig
from ttt.kernels.cpu import selective_scan as compiled_op
from ttt.kernels.cpu.decode import TokenSteps
from ttt.kernels.dispatch import is_compiled
from ttt.layers import mamba_kernels
from ttt.layers.convolution import CausalConv
from ttt.layers.flops import count_flops
from ttt.layers.mamba_kernels import GatedScan
from ttt.layers.recurrence import check_package
from ttt.layers.registry import LayerSpec, register_layer
from ttt.layers.selective_scan import selective_scan
from ttt.layers.state import State, named, part
from ttt.layers.views import linear

DELTA_MIN, DELTA_MAX, DELTA_FLOOR = 1e-3, 1e-1, 1e-4


@register_layer("mamba", MambaConfig, backbones=("own", "transformer"))
class Mamba(nn.Module):
    """Mamba's mixer, with the parameter names and shapes of the authors' ``mamba_simple.py``. [B, T, C] -> [B, T, C].

    Any floating dtype; ``A_log``, ``D`` and the state stay in float32 under autocast. Initial values are the
    authors', except that ``in_proj``, ``x_proj`` and ``out_proj`` are normal with ``spec.init_std`` if
    ``projection_init`` is ``normal``. ``out_proj`` is then divided by the square root of ``spec.depth``, as the
    authors do. ``norm_eps`` is the epsilon of all norms of the model.

    The state holds ``h`` [B, E, N], in at least float32, and the convolution's state.
    """

    no_weight_decay = ("A_log",)
    compiled_kernels = ("cpu",)

    def __init__(self, config: MambaConfig, spec: LayerSpec) -> None:
        super().__init__()
        check_package(spec.kernel, "mamba_ssm", mamba_kernels.scan)
        self.kernel = spec.kernel
        inner, N = config.expand * spec.width, config.state_size
        rank = math.ceil(spec.width / 16) if config.dt_rank is None else config.dt_rank
        init_std = None if config.projection_init == "uniform" else spec.init_std
        self.norm_eps = config.norm_eps
        self.in_proj = linear(spec.width, 2 * inner, init_std)
        self.conv1d = CausalConv(inner, config.conv_kernel)
        self.x_proj = linear(inner, rank + 2 * N, init_std)
        self.dt_proj = _delta_projection(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = linear(inner, spec.width, init_std and init_std / math.sqrt(spec.depth))
        if init_std is None:
            self.out_proj.weight.data /= math.sqrt(spec.depth)

    def flops(self, tokens: int) -> int:
        """Return the FLOPs of the matrix products and the scan of a forward pass over one sequence."""
        read_state = 2 * tokens * self.A_log.numel()
        products = read_state + sum(count_flops(module, tokens) for module in self.children())
        return products + self.elementwise_flops(tokens)

    def elementwise_flops(self, tokens: int) -> int:
        """Count the scan's recurrence: per entry of the state delta A, its exponential, delta B u and a h + x."""
        return 6 * tokens * self.A_log.numel()

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Convolve, scan with input-dependent parameters, and gate."""
        x_BTE, z_BTE = self.in_proj(x_BTC).chunk(2, dim=-1)
        x_BTE, conv_state = self.conv1d(x_BTE, part(state, "conv1d"))
        u_BTE = F.silu(x_BTE)
        rank, N = self.dt_proj.in_features, self.A_log.shape[1]
        dt_BTR, B_BTN, C_BTN = self.x_proj(u_BTE).split((rank, N, N), dim=-1)
        # The scan adds the bias, so that it stays in float32 under autocast.
        dt_BTE = F.linear(dt_BTR, self.dt_proj.weight)
        h_BEN = state["h"] if state else None
        scan = choose_scan(self.kernel, x_BTC.device, h_BEN, x_BTC.shape[1])
        # In at least float32 with weights of 16 bits too, as in the authors' code.
        A_EN = -self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)).exp()
        y_BTE, h_BEN = scan(u_BTE, dt_BTE, A_EN, B_BTN, C_BTN, self.D, z_BTE, self.dt_proj.bias, h_BEN)
        return self.out_proj(y_BTE), named("conv1d", conv_state) | {"h": h_BEN}

    def token_steps(self, steps: TokenSteps, x_C: Tensor, state: State) -> Tensor:
        """Add the convolution, the recurrence and the gate of one token."""
        x_E, gate_E = steps.linear(x_C, self.in_proj.weight).chunk(2)
        u_E = self.conv1d.token_steps(steps, x_E, part(state, "conv1d"))
        steps.silu(u_E)
        rank, N = self.dt_proj.in_features, self.A_log.shape[1]
        dt_R, B_N, C_N = steps.linear(u_E, self.x_proj.weight).split((rank, N, N))
        dt_E = steps.linear(dt_R, self.dt_proj.weight)
        A_EN = -self.A_log.detach().exp()
        y_E = steps.scan(u_E, dt_E, self.dt_proj.bias, A_EN, B_N, C_N, self.D, gate_E, state["h"])
        return steps.linear(y_E, self.out_proj.weight)


def _delta_projection(rank: int, inner: int) -> nn.Linear:
    """Return a linear map R -> E; softplus of its initial bias is log-uniform in [DELTA_MIN, DELTA_MAX]."""
    layer = nn.Linear(rank, inner)
    nn.init.uniform_(layer.weight, -(rank**-0.5), rank**-0.5)
    with torch.no_grad():
        layer.bias.copy_(initial_delta(inner))
    return layer


def initial_delta(channels: int) -> Tensor:
    """Return biases [channels] whose softplus is log-uniform in [DELTA_MIN, DELTA_MAX]."""
    log_delta = torch.empty(channels).uniform_(math.log(DELTA_MIN), math.log(DELTA_MAX))
    delta = log_delta.exp().clamp(min=DELTA_FLOOR)
    return delta + torch.log(-torch.expm1(-delta))  # the inverse of softplus


def choose_scan(kernel: KernelConfig, device: torch.device, h_BEN: Tensor | None, tokens: int) -> GatedScan:
    """Return the scan for this call: compiled on CPUs; on GPUs the authors' kernels where they are installed; or plain.

    The authors' scan starts from h = 0 and cannot continue from a state; their kernel for one token of decoding can,
    but has no gradient.

    Raises:
        UserError: ``kernel=cpu`` or ``kernel=mamba_ssm`` cannot run here.
    """
    if is_compiled(kernel, device):
        return compiled_scan
    if device.type != "cuda":
        if kernel.name == "mamba_ssm":
            raise bad_value("kernel.name", kernel.name, f"it runs on GPUs, not on {device.type}; choose auto")
        return plain_scan
    if h_BEN is None:
        return mamba_kernels.scan() or plain_scan
    decoding = tokens == 1 and not torch.is_grad_enabled()
    return (mamba_kernels.step() if decoding else None) or plain_scan


def plain_scan(
    u_BTE: Tensor,
    dt_BTE: Tensor,
    A_EN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_E: Tensor,
    z_BTE: Tensor,
    dt_bias_E: Tensor,
    h_BEN: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Scan in PyTorch, on any device; see ``GatedScan``."""
    delta_BTE = F.softplus(dt_BTE + dt_bias_E)
    y_BTE, h_BEN = selective_scan(u_BTE, delta_BTE, A_EN, B_BTN, C_BTN, D_E, h_BEN)
    return y_BTE * F.silu(z_BTE), h_BEN


def compiled_scan(
    u_BTE: Tensor,
    dt_BTE: Tensor,
    A_EN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_E: Tensor,
    z_BTE: Tensor,
    dt_bias_E: Tensor,
    h_BEN: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Scan with the compiled kernel, on CPUs, in at least float32; see ``GatedScan``."""
    dtype = torch.promote_types(u_BTE.dtype, torch.float32)
    h_BEN = A_EN.new_zeros(u_BTE.shape[0], *A_EN.shape) if h_BEN is None else h_BEN
    inputs = (u_BTE, dt_BTE, A_EN, B_BTN, C_BTN, D_E, z_BTE, dt_bias_E, h_BEN)
    with torch.autocast("cpu", enabled=False):
        y_BTE, h_BEN = compiled_op.gated_scan(*(x.to(dtype) for x in inputs))
    return y_BTE.to(u_BTE.dtype), h_BEN
