"""Make the golden numbers of this folder from the sources of flash-linear-attention 0.6.0 (PyPI), on a CPU.

    pip install --no-deps --target FOLDER flash-linear-attention==0.6.0 fla-core==0.6.0 einops
    python tests/golden/fla/generate.py FOLDER

The package's kernels need a GPU, but its layers and its naive recurrences are ordinary PyTorch. The layers are run as
they are, with the naive recurrences in place of the kernels, and norms and convolutions by torch. float32 in the naive
recurrences is replaced by float64. Queries and keys get length 1 in the kernel, as the package's ``l2norm`` does it.
"""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

WIDTH, HEADS, TOKENS = 16, 2, 70
LAYERS = {
    "deltanet": ("delta_net", "DeltaNet", {}),
    "gated_deltanet": ("gated_deltanet", "GatedDeltaNet", {"head_dim": 4}),
    "gla": ("gla", "GatedLinearAttention", {}),
}


class RMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(hidden_size)), eps

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        normed = F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return normed if gate is None else normed * F.silu(gate)


class ShortConvolution(nn.Conv1d):
    backend = activation = "torch"

    def __init__(self, hidden_size: int, kernel_size: int, bias: bool, activation: str) -> None:
        assert activation == "silu"
        super().__init__(hidden_size, hidden_size, kernel_size, groups=hidden_size, bias=bias, padding=kernel_size - 1)

    def forward(self, x: Tensor, **_: Any) -> tuple[Tensor, None]:
        return F.silu(super().forward(x.mT)[..., : x.shape[1]]).mT, None


def unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def stub(name: str, **members: Any) -> None:
    module = ModuleType(name)
    module.__path__ = []  # type: ignore[attr-defined]
    vars(module).update(members)
    sys.modules[name] = module


def naive(folder: Path, ops: str) -> dict[str, Any]:
    source = (folder / "fla" / "ops" / ops / "naive.py").read_text()
    source = re.sub(r"\.float\(\)", ".double()", source).replace("torch.float32", "torch.float64")
    members: dict[str, Any] = {}
    exec(source, members)
    return members


def prepare(folder: Path) -> None:
    """Put the package's layers into ``sys.modules`` with what runs on a CPU."""
    sys.path.insert(0, str(folder))
    delta = naive(folder, "delta_rule")["delta_rule_recurrence"]
    gated = naive(folder, "gated_delta_rule")["naive_recurrent_gated_delta_rule"]
    gla = naive(folder, "gla")["naive_recurrent_gla"]

    def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, **_: Any) -> Any:
        heads_first = (x.transpose(1, 2) for x in (unit(q), unit(k), v, beta))
        z, S = delta(*heads_first)
        return z.transpose(1, 2), S

    def gated_delta_rule(
        q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, A_log: Tensor, dt_bias: Tensor, **_: Any
    ) -> Any:
        decay = -A_log.exp() * F.softplus(g + dt_bias)
        return gated(unit(q), unit(k), v, beta.sigmoid(), decay, output_final_state=True)

    def chunk_gla(q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None, gk: Tensor | None = None, **_: Any) -> Any:
        return gla(q, k, v, gk if g is None else g, output_final_state=True)

    passed_on = {"unpad_hidden_states": lambda hidden_states, *_, **__: (hidden_states, None, None)}
    passed_on |= {"repad_hidden_states": lambda hidden_states, *_, **__: hidden_states}
    stub("fla")
    stub("fla.layers.utils", get_layer_cache=lambda *_, **__: None, update_layer_cache=keep_state, **passed_on)
    stub("fla.modules", FusedRMSNormGated=RMSNorm, RMSNorm=RMSNorm, ShortConvolution=ShortConvolution)
    stub("fla.modules.activations", elu_p1=None, ACT2FN={"swish": F.silu})
    stub("fla.modules.convolution", causal_conv1d=None)
    stub("fla.ops.delta_rule", chunk_delta_rule=delta_rule, fused_recurrent_delta_rule=None)
    stub("fla.ops.gated_delta_rule", chunk_gated_delta_rule=gated_delta_rule, fused_recurrent_gated_delta_rule=None)
    stub("fla.ops.gla", chunk_gla=chunk_gla, fused_chunk_gla=None, fused_recurrent_gla=None)


states: list[Tensor] = []


def keep_state(*_: Any, recurrent_state: Tensor, **__: Any) -> None:
    states.append(recurrent_state)


def layer_class(folder: Path, module: str, name: str) -> type[nn.Module]:
    spec = importlib.util.spec_from_file_location(f"fla.layers.{module}", folder / "fla" / "layers" / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)


def main(folder: Path) -> None:
    prepare(folder)
    for name, (module, kind, values) in LAYERS.items():
        torch.manual_seed(0)
        layer = layer_class(folder, module, kind)(hidden_size=WIDTH, num_heads=HEADS, norm_eps=1e-6, **values).double()
        # The caches that fused convolutions need are absent, so that each view has its own.
        layer._use_fused_qkv_conv = lambda **_: False
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        x, dy = torch.randn(2, 2, TOKENS, WIDTH, dtype=torch.float64)
        x.requires_grad_()
        y, *_ = layer(x)
        y.backward(dy)
        tensors = {"x": x, "dy": dy, "y": y, "S": states.pop(), "dx": x.grad}
        for key, parameter in layer.named_parameters():
            tensors |= {f"weight.{key}": parameter, f"gradient.{key}": parameter.grad}
        metadata = {"source": "flash-linear-attention 0.6.0, fla-core 0.6.0"}
        tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
        save_file(tensors, Path(__file__).with_name(f"{name}.safetensors"), metadata)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
