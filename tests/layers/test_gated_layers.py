"""DeltaNet, Gated DeltaNet and gated linear attention are flash-linear-attention's layers; their kernels and errors.

``tests/golden/fla/generate.py`` makes the golden numbers from the public sources, version 0.6.0.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ttt.config.errors import UserError
from ttt.config.schema import KernelConfig
from ttt.layers import deltanet, fla_kernels, gla
from ttt.layers.decayed_sum import decayed_sum_by_token
from ttt.layers.delta_rule import delta_rule_by_token, unit_length
from ttt.layers.recurrence import RecurrenceKernels
from ttt.layers.registry import LayerSpec, build_layer, layer_types

GOLDEN = Path(__file__).parents[1] / "golden" / "fla"
NAMES = ["deltanet", "gated_deltanet", "gla"]

PUBLIC = {f"{view}_proj.weight": f"views.projections.{view}.weight" for view in "qkv"}
PUBLIC |= {f"{view}_conv1d.weight": f"views.convolutions.{view}.weight" for view in "qkv"}
PUBLIC |= {"b_proj.weight": "beta.weight", "a_proj.weight": "decay.weight", "dt_bias": "delta_bias", "A_log": "A_log"}
PUBLIC |= {"gk_proj.0.weight": "decay_down.weight", "gk_proj.1.weight": "decay_up.weight"}
PUBLIC |= {"gk_proj.1.bias": "decay_bias", "g_proj.weight": "output.g.weight", "o_proj.weight": "output.o.weight"}
PUBLIC |= {"o_norm.weight": "output.norm.weight", "g_norm_swish_gate.weight": "output.norm.weight"}
"""Name of a parameter in flash-linear-attention -> here."""


def make_layer(name: str, kernel: str = "auto", width: int = 16, **values: object) -> nn.Module:
    torch.manual_seed(0)
    config = layer_types()[name].schema(name=name, **values)  # type: ignore[arg-type]
    return build_layer(config, LayerSpec(width, heads=2, init_std=0.2, kernel=KernelConfig(kernel)))


@pytest.mark.parametrize("kernel", ["auto", "primal"])
@pytest.mark.parametrize("name", NAMES)
def test_layers_are_the_public_ones(name: str, kernel: str) -> None:
    golden = load_file(GOLDEN / f"{name}.safetensors")
    parts = {
        part: {PUBLIC[key.removeprefix(part)]: value for key, value in golden.items() if key.startswith(part)}
        for part in ("weight.", "gradient.")
    }
    layer = make_layer(name, kernel).double()
    layer.load_state_dict(parts["weight."])
    x = golden["x"].requires_grad_()
    y, state = layer(x)
    y.backward(golden["dy"])
    actual = {"y": y, "S": state["S"], "dx": x.grad}
    actual |= {key: parameter.grad for key, parameter in layer.named_parameters()}
    expected = {key: golden[key] for key in ("y", "S", "dx")} | parts["gradient."]
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_negative_eigenvalues_double_beta() -> None:
    doubled, plain = (make_layer("deltanet", negative_eigenvalues=negative).double() for negative in (True, False))
    x = torch.randn(1, 1, 16, dtype=torch.float64)
    torch.testing.assert_close(doubled(x)[1]["S"], 2 * plain(x)[1]["S"])


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", NAMES)
def test_projections_have_as_many_weights_as_attention(name: str, width: int) -> None:
    matrices = (p.numel() for key, p in make_layer(name, width=width).named_parameters() if "conv" not in key)
    assert sum(matrices) == pytest.approx(4 * width**2, rel=0.11)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("gla", {"expand_k": 0.3}, r"^model.expand_k=0.3: leaves 2.4 channels for each of 2 heads at width 16, not a "),
        ("deltanet", {"heads": 3}, r"^model.expand_k=1.0: leaves 5.33333 channels for each of 3 heads at width 16, "),
        ("gated_deltanet", {"expand_v": 0.01}, r"^model.expand_v=0.01: leaves 0.08 channels for each of 2 heads"),
        ("gla", {"decay_rank": 0}, r"^model.decay_rank=0: must be at least 1"),
        ("gla", {"kernel": "fla"}, r"^kernel.name=fla: needs the package flash-linear-attention, which is not instal"),
        (
            "deltanet",
            {"kernel": "mamba_ssm"},
            r"^kernel.name=mamba_ssm: has no kernel for this layer; choose auto or f",
        ),
        ("mamba2", {"kernel": "mamba_ssm"}, r"^kernel.name=mamba_ssm: needs the package mamba-ssm, which is not insta"),
        ("mamba", {"kernel": "mamba_ssm"}, r"^kernel.name=mamba_ssm: needs the package mamba-ssm, which is not instal"),
        ("mamba", {"kernel": "fla"}, r"^kernel.name=fla: has no kernel for this layer; choose auto or mamba_ssm$"),
        ("mamba2", {"head_dim": 5}, r"^model.head_dim=5: must divide the inner width 32, expand x size.width$"),
        ("mamba2", {"groups": 3}, r"^model.groups=3: must divide the 4 heads, the inner width / head_dim$"),
    ],
)
def test_impossible_layers_are_refused_in_a_line(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_layer(name, **values)


# The package's kernels are replaced by the recurrences that it documents: tokens before heads, queries scaled.


def in_its_layout(recurrence: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    def kernel(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        initial_state: Tensor,
        output_final_state: bool,
        g: Tensor | None = None,
        beta: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        assert output_final_state
        assert initial_state.dtype == torch.float32
        assert all(x.is_contiguous() for x in (q, k, v))
        rates = [] if beta is None else [beta, g]
        of_tokens = (x if x is None else x.transpose(1, 2) for x in (q * scale, k, v, *(rates or [g])))
        z, S = recurrence(*of_tokens, initial_state)
        return z.transpose(1, 2), S

    return kernel


@pytest.fixture
def _fla(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package whose kernels are the recurrences, token by token."""
    rule, sums = in_its_layout(delta_rule_by_token), in_its_layout(decayed_sum_by_token)
    kernels = {"delta_rule.chunk_delta_rule": rule, "gated_delta_rule.chunk_gated_delta_rule": rule}
    for name, kernel in (kernels | {"gla.chunk_gla": sums}).items():
        module = ModuleType(f"fla.ops.{name.partition('.')[0]}")
        setattr(module, name.partition(".")[2], kernel)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    caches = (fla_kernels.delta_rule, fla_kernels.decayed_sum)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


class OnGPU:
    """A tensor's device and dtype, for the choice of a kernel."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.device, self.dtype = torch.device("cuda"), dtype


@pytest.mark.usefixtures("_fla")
@pytest.mark.parametrize("kernels", [deltanet.KERNELS, gla.KERNELS], ids=["delta_rule", "decayed_sum"])
@pytest.mark.parametrize("decay", [False, True])
def test_the_packages_kernels_get_their_layout(kernels: RecurrenceKernels, decay: bool) -> None:
    torch.manual_seed(0)
    q, k, v = unit_length(torch.randn(3, 2, 3, 20, 8))
    beta, g, S = torch.rand(2, 3, 20), -torch.rand(2, 3, 20), torch.randn(2, 3, 8, 8)
    rates = [beta, g if decay else None] if kernels is deltanet.KERNELS else [g[..., None].expand(-1, -1, -1, 8)]
    half = (x.bfloat16() for x in (q, k, v))
    package = kernels.choose(KernelConfig("fla"), OnGPU(torch.bfloat16), 20)  # type: ignore[arg-type]
    assert package is kernels.load()
    (z, last), expected = package(*half, *rates, S), kernels.by_token(q, k, v, *rates, S)
    torch.testing.assert_close((z.float(), last), expected, rtol=0.05, atol=0.05)


@pytest.mark.usefixtures("_fla")
def test_the_packages_kernels_are_for_their_case_only(caplog: pytest.LogCaptureFixture) -> None:
    kernels, x = gla.KERNELS, torch.zeros(1)
    half, single = OnGPU(torch.bfloat16), OnGPU(torch.float32)
    assert kernels.choose(KernelConfig("auto"), half, 9) is kernels.load()  # type: ignore[arg-type]
    assert kernels.choose(KernelConfig("auto"), half, 1) is kernels.by_token  # type: ignore[arg-type]
    assert kernels.choose(KernelConfig("dual"), half, 9) is kernels.in_chunks  # type: ignore[arg-type]
    assert kernels.choose(KernelConfig("primal"), half, 9) is kernels.by_token  # type: ignore[arg-type]
    assert kernels.choose(KernelConfig("auto"), x, 9) is kernels.in_chunks
    assert not caplog.records
    assert kernels.choose(KernelConfig("auto"), single, 9) is kernels.in_chunks  # type: ignore[arg-type]
    assert "flash-linear-attention: it takes bfloat16 or float16, not float32" in caplog.text
    with pytest.raises(UserError, match=r"^kernel.name=fla: it runs on GPUs, not on cpu; choose auto$"):
        kernels.choose(KernelConfig("fla"), x, 9)
    with pytest.raises(UserError, match=r"^kernel.name=fla: it takes bfloat16 or float16, not float32; choose auto$"):
        kernels.choose(KernelConfig("fla"), single, 9)  # type: ignore[arg-type]
