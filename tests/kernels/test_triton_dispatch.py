"""The Triton kernels in a layer and a model: sequences that start anywhere in a mini-batch, refusals, log messages."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from inner_cases import Case, assert_agree
from kernel_cases import DEVICE, TOLERANCE
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from ttt.config.errors import UserError
from ttt.config.schema import KernelConfig, TrainConfig
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec, InnerState
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.models.module import InnerModule
from ttt.inner.scan import InnerKernel
from ttt.kernels import dispatch
from ttt.kernels.dispatch import CompiledKernel, choose_kernel, view_type
from ttt.kernels.triton import decoding, op
from ttt.kernels.triton.configurations import INTERPRETED, Layer
from ttt.layers.ttt import TTT
from ttt.models.build import build_model

LOOPS = {
    "linear": InnerSpec(InnerMLP()),
    "mlp": InnerSpec(InnerMLP((4,))),
    "mlp without biases": InnerSpec(InnerMLP((4,), bias=False)),
    "not halved": InnerSpec(InnerMLP(), halved_loss=False),
}
V = 50
IDS = torch.randint(V, (2, 41), generator=torch.Generator().manual_seed(0)).to(DEVICE)


def narrowed(kernel: InnerKernel, views: torch.dtype, rest: torch.dtype) -> InnerKernel:
    """Return the kernel applied to float64 tensors that are rounded: views to ``views``, all others to ``rest``."""

    def narrow(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
        q, k, v = (x.to(DEVICE, views) for x in inputs[:3])
        narrow_inputs = InnerInputs(q, k, v, inputs.eta.to(DEVICE, rest))
        narrow_norm = LayerNormParams(*(x.to(DEVICE, rest) for x in loop.norm))
        narrow_loop = InnerLoop(loop.spec, narrow_norm, loop.tau.to(DEVICE, rest))
        z, after = kernel(narrow_loop, moved(state, DEVICE, rest), narrow_inputs)
        assert z.dtype == views
        return z.cpu().double(), moved(after, "cpu", torch.float64)

    return narrow


def moved(state: InnerState, device: str, dtype: torch.dtype) -> InnerState:
    W = tuple(w.to(device, dtype) for w in state.W)
    grad_sum = None if state.grad_sum is None else tuple(s.to(device, dtype) for s in state.grad_sum)
    return state._replace(W=W, grad_sum=grad_sum)


def rounded_definition(views: torch.dtype) -> InnerKernel:
    """Return the primal form in float64, on views rounded to ``views``."""
    primal = choose_kernel(KernelConfig("primal", 0), LOOPS["linear"])

    def kernel(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
        q, k, v = (x.to(views).double() for x in inputs[:3])
        return primal(loop, state, inputs._replace(q=q, k=k, v=v))

    return kernel


CUTS = [(16, [16]), (19, [19]), (15, [15]), (9, [1, 8]), (21, [3, 18]), (24, [8, 1, 15]), (26, [5, 2, 12, 1, 6])]
TYPES = (torch.float16, torch.float32)
IN_CHUNKS = [(name, *CUTS[-1], dtype) for name in LOOPS for dtype in TYPES]
IN_CHUNKS += [("linear", *cut, TYPES[i % 2]) for i, cut in enumerate(CUTS[:-1])]
IN_CHUNKS += [("mlp", *cut, TYPES[1 - i % 2]) for i, cut in enumerate(CUTS[:-1])]
"""The last cut is tested with every loop in both types, every other cut with both inner models in one type each."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "T", "cuts", "dtype"), IN_CHUNKS, ids=str)
def test_any_length_in_any_chunks_is_the_primal_form(name: str, T: int, cuts: list[int], dtype: torch.dtype) -> None:
    case = Case(LOOPS[name], 8, T=T, D=16, B=1 if len(cuts) < len(CUTS[-1][1]) else 2)
    expected = case.run(rounded_definition(dtype))
    kernel = choose_kernel(KernelConfig("triton", 2), case.spec)
    assert_agree(case.run(narrowed(kernel, dtype, torch.float32), cuts), expected, TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_token_by_token_is_the_primal_form_and_calls_the_decode_kernel(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, calls = Case(LOOPS[name], 4, T=11, D=16, B=1), []
    decode = decoding.decode_token
    monkeypatch.setattr(decoding, "decode_token", lambda *given: calls.append(given[-2]) or decode(*given))
    kernel = narrowed(choose_kernel(KernelConfig("triton"), case.spec), torch.float32, torch.float32)
    with torch.no_grad():
        found = case.outputs(kernel, [1] * 11)
    assert_agree(found, case.outputs(rounded_definition(torch.float32)), TOLERANCE[torch.float32])
    assert calls == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]


@pytest.fixture(params=["ttt_linear-transformer", "ttt_mlp-mamba"])
def build(request: pytest.FixtureRequest, configure: Callable[..., TrainConfig]) -> Callable[[str], nn.Module]:
    """Return a function that builds a small model with a given kernel; weights do not depend on the kernel."""
    name, backbone = request.param.split("-")
    options = f"model={name}", f"backbone={backbone}", "size.blocks=2", "size.init_std=0.2"

    def build(kernel: str) -> nn.Module:
        config = configure(*options, f"kernel={kernel}")
        torch.manual_seed(0)
        return build_model(config.model, config.size, config.backbone, config.kernel, V).to(DEVICE)

    return build


@pytest.mark.slow
def test_a_model_trains_as_with_the_dual_form(build: Callable[[str], nn.Module]) -> None:
    found = []
    for kernel in ("dual", "triton"):
        model = build(kernel)
        logits = model(IDS)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        loss.backward()
        gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"logits": logits, "loss": loss} | gradients)
    # The errors of two float32 layers add up.
    assert_agree(found[1], found[0], 10 * TOLERANCE[torch.float32])


@pytest.mark.slow
@torch.no_grad()
def test_a_model_generates_as_with_the_dual_form(build: Callable[[str], nn.Module]) -> None:
    expected, model = build("dual")(IDS), build("triton")
    logits, state = model(IDS[:, :21], {})
    chunks = [logits]
    for token in IDS[:, 21:].split(1, dim=1):
        logits, state = model(token, state)
        chunks.append(logits)
    assert_agree({"logits": torch.cat(chunks, dim=1)}, {"logits": expected}, 10 * TOLERANCE[torch.float32])


@pytest.mark.slow
@torch.no_grad()
def test_the_kernels_rotate_as_pytorch_does(
    configure: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any place in a mini-batch, and with RoPE's positions restarting within it."""
    tables, inner_loop, decode = [], op.inner_loop, decoding.decode_token
    monkeypatch.setattr(op, "inner_loop", lambda *given: tables.append(given[-1]) or inner_loop(*given))
    monkeypatch.setattr(decoding, "decode_token", lambda *given: tables.append(given[-1]) or decode(*given))
    found = {}
    for kernel in ("dual", "triton", "triton kernel.rotates=false"):
        config = configure("model=ttt_linear", "model.rope_period=4", *f"kernel={kernel}".split())
        torch.manual_seed(0)
        model = build_model(config.model, config.size, config.backbone, config.kernel, V).to(DEVICE)
        chunks, state = [], {}
        for ids in IDS.split([9, 1, 31], dim=1):
            logits, state = model(ids, state)
            chunks.append(logits)
        found[kernel] = {"logits": torch.cat(chunks, dim=1)}
        rotated, tables[:] = [table is not None for table in tables], []
        assert rotated == {"dual": [], "triton": [True, True]}.get(kernel, [False, False])
        assert_agree(found[kernel], found["dual"], 10 * TOLERANCE[torch.float32])


def test_a_layer_keeps_half_precision_only_for_the_triton_kernels(configure: Callable[..., TrainConfig]) -> None:
    for name, expected in (("triton", torch.float16), ("dual", torch.float32)):
        config = configure("model=ttt_linear", f"kernel={name}")
        model = build_model(config.model, config.size, config.backbone, config.kernel, V).to(DEVICE)
        (layer,) = [module for module in model.modules() if isinstance(module, TTT)]
        read, kernel = [], layer.kernel

        def spy(*given, read=read, kernel=kernel):  # type: ignore[no-untyped-def]
            read.append((given[2].q.dtype, given[2].v.dtype, given[2].eta.dtype, given[1].W[0].dtype))
            return kernel(*given)

        dtype = view_type(kernel, torch.empty(0, dtype=torch.float16, device=DEVICE))
        assert dtype == expected
        layer.kernel = spy  # a kernel that is not a CompiledKernel gets float32
        model(IDS)
        assert read == [(torch.float32,) * 4]
        layer.kernel = kernel
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            assert model(IDS).isfinite().all()
    expected = torch.float32 if INTERPRETED else torch.bfloat16
    assert view_type(choose_kernel(KernelConfig("triton"), LOOPS["linear"]), torch.empty(0).bfloat16()) == expected


@pytest.mark.parametrize(
    ("loop", "reason"),
    [
        (InnerSpec(InnerMLP((4, 4))), "one hidden layer"),
        (InnerSpec(InnerMLP((4,), "silu")), "GELU"),
        (InnerSpec(InnerModule(lambda width: nn.Linear(width, width))), "linear inner models"),
        (InnerSpec(InnerMLP(), layer_norm=False), "LN and residual"),
        (InnerSpec(InnerMLP(), momentum=0.5), "no momentum"),
    ],
)
def test_other_loops_are_refused_by_name(loop: InnerSpec, reason: str) -> None:
    with pytest.raises(UserError, match=f"kernel.name=triton: .*{reason}.*; choose auto"):
        choose_kernel(KernelConfig("triton"), loop)


@pytest.mark.parametrize(
    ("case", "views", "reason"),
    [
        (Case(LOOPS["linear"], 4, T=8, D=16, forgets=True), torch.float64, "no forget gate"),
        (Case(LOOPS["linear"], 4, T=4, D=130), torch.float32, "head widths up to 128, not 130"),
        (Case(LOOPS["mlp"], 4, T=4, D=18), torch.float32, "multiple of 16"),
        (Case(LOOPS["linear"], 100, T=100, D=16), torch.float32, "b = 100"),
        (Case(LOOPS["linear"], 4, T=8, D=16), torch.float64, "not torch.float64"),
        pytest.param(
            Case(LOOPS["linear"], 4, T=8, D=16),
            torch.bfloat16,
            "computes bfloat16 wrongly",
            marks=pytest.mark.skipif(not INTERPRETED, reason="compiled kernels compute bfloat16"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsupported_tokens_are_refused_by_name(case: Case, views: torch.dtype, reason: str) -> None:
    kernel = choose_kernel(KernelConfig("triton"), case.spec)
    with pytest.raises(UserError, match=f"kernel.name=triton: .*{reason}.*; choose auto"):
        case.outputs(kernel if case.forgets else narrowed(kernel, views, torch.float32))


def test_a_device_without_room_for_the_other_kernels_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layer, "shared_memory", 300 * 1024)
    monkeypatch.setattr(op, "_shared_memory", lambda device: device and 99 * 1024)
    case = Case(LOOPS["linear"], 4, T=4, D=16)
    kernel = narrowed(choose_kernel(KernelConfig("triton"), case.spec), torch.float32, torch.float32)
    with torch.no_grad():
        expected = case.outputs(rounded_definition(torch.float32))
        assert_agree(case.outputs(kernel, [1] * 4), expected, TOLERANCE[torch.float32])
        with pytest.raises(UserError, match=r"kernel.name=triton: .* need 300 KB of shared memory"):
            case.outputs(kernel)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Clear the cached properties of this machine, so that they are found and logged again."""
    caches = (dispatch._why_no_triton, dispatch._log_gpu_kernel)
    for found in caches:
        found.cache_clear()
    yield
    for found in caches:
        found.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_without_triton_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(dispatch, "_triton_op", missing)
    with pytest.raises(UserError, match=r"kernel.name=triton: Triton cannot be imported: No module.*; choose auto"):
        choose_kernel(KernelConfig("triton"), LOOPS["linear"])


@pytest.mark.slow
def test_without_gpu_and_interpreter_it_is_refused() -> None:
    program = (
        "import os; os.environ.pop('TRITON_INTERPRET', None); os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "from ttt.config.errors import UserError\n"
        "from ttt.config.schema import KernelConfig\n"
        "from ttt.inner.loop import InnerSpec\n"
        "from ttt.inner.models.mlp import InnerMLP\n"
        "from ttt.kernels.dispatch import choose_kernel\n"
        "try: choose_kernel(KernelConfig('triton'), InnerSpec(InnerMLP()))\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("kernel.name=triton: no GPU is found, and TRITON_INTERPRET=1")


class OnGPU(CompiledKernel):
    """``kernel=auto`` that treats all tokens as on a GPU."""

    def _is_triton(self, x: Tensor) -> bool:  # noqa: ARG002
        return True


@pytest.mark.usefixtures("forgotten")
def test_auto_on_a_gpu_logs_once_which_kernel_runs(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(LOOPS["linear"], 4, T=8, D=16)
    plain = choose_kernel(KernelConfig("dual"), case.spec)
    kernel = OnGPU(KernelConfig("auto", 2), plain)
    expected = case.run(plain)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert_agree(case.run(narrowed(kernel, torch.float64, torch.float64)), expected)
        for _ in range(2):
            found = case.run(narrowed(kernel, torch.float32, torch.float32))
    assert_agree(found, expected, TOLERANCE[torch.float32])
    device = IDS.device
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"kernel: plain PyTorch on {device} instead of the Triton kernels: "
            "it supports float32, float16 and bfloat16, not torch.float64",
        ),
        ("INFO", f"kernel: the Triton kernels on {device}"),
    ]


@pytest.mark.parametrize("config", [KernelConfig("triton"), KernelConfig("auto"), KernelConfig("auto", 3)], ids=str)
@pytest.mark.parametrize(("name", "default"), [("linear", 128), ("mlp", 64)])
def test_the_default_group_depends_on_the_layer(name: str, default: int, config: KernelConfig) -> None:
    spec, b, mini_batches = LOOPS[name], 2, 129
    kernel = OnGPU(config, choose_kernel(KernelConfig("dual"), spec))
    group = default if config.checkpoint_group is None else config.checkpoint_group
    with FakeTensorMode():
        W = [torch.empty(1, 16, 64 if name == "mlp" else 16), torch.empty(1, 1, 64 if name == "mlp" else 16)]
        W += [torch.empty(1, 64, 16), torch.empty(1, 1, 16)] if name == "mlp" else []
        norm = LayerNormParams(torch.ones(1, 1, 16), torch.zeros(1, 1, 16))
        inputs = InnerInputs(*torch.empty(3, 1, 1, b * mini_batches, 16), torch.empty(1, 1, b * mini_batches))
        inputs = inputs._replace(q=inputs.q.requires_grad_())
        z, _ = kernel(InnerLoop(spec, norm, torch.empty(b)), spec.start(W, 1), inputs)
        W1_kept, *_ = z.grad_fn.saved_tensors
    assert W1_kept.shape == (-(-mini_batches // group), 1, *W[0].shape)


def test_auto_on_a_cpu_does_not_use_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "inner_loop", partial(pytest.fail, "the interpreter is slow"))
    case = Case(LOOPS["linear"], 4, T=8, D=16)
    assert_agree(case.run(choose_kernel(KernelConfig("auto"), case.spec)), case.run(rounded_definition(torch.float64)))
