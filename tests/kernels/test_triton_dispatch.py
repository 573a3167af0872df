"""The Triton kernels as a layer and a model use them: from any place of a mini-batch, refused by name, told once."""

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
from ttt.inner.loop import InnerLoop, InnerState, Tokens
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.models.module import InnerModule
from ttt.inner.scan import Form
from ttt.kernels import dispatch
from ttt.kernels.dispatch import Compiled, choose_form, view_type
from ttt.kernels.triton import op
from ttt.kernels.triton.configurations import INTERPRETED
from ttt.layers.ttt import TTT
from ttt.models.build import build_model

LOOPS = {
    "linear": InnerLoop(InnerMLP()),
    "mlp": InnerLoop(InnerMLP((4,))),
    "mlp without biases": InnerLoop(InnerMLP((4,), bias=False)),
    "not halved": InnerLoop(InnerMLP(), halved_loss=False),
}
V = 50
IDS = torch.randint(V, (2, 41), generator=torch.Generator().manual_seed(0)).to(DEVICE)


def narrowed(form: Form, views: torch.dtype, rest: torch.dtype) -> Form:
    """The form on views and all else rounded to these types, between tensors in float64."""

    def narrow(
        loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
    ) -> tuple[Tensor, InnerState]:
        q, k, v = (x.to(DEVICE, views) for x in tokens[:3])
        narrow_tokens = Tokens(q, k, v, tokens.eta.to(DEVICE, rest))
        narrow_norm = LayerNormParams(*(x.to(DEVICE, rest) for x in norm))
        z, after = form(loop, narrow_norm, moved(state, DEVICE, rest), narrow_tokens, tau.to(DEVICE, rest))
        assert z.dtype == views
        return z.cpu().double(), moved(after, "cpu", torch.float64)

    return narrow


def moved(state: InnerState, device: str, dtype: torch.dtype) -> InnerState:
    W = tuple(w.to(device, dtype) for w in state.W)
    step = None if state.step is None else tuple(s.to(device, dtype) for s in state.step)
    return state._replace(W=W, step=step)


def rounded_definition(views: torch.dtype) -> Form:
    """The primal form on equally rounded views, in float64."""
    primal = choose_form(KernelConfig("primal", 0), LOOPS["linear"])

    def form(
        loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
    ) -> tuple[Tensor, InnerState]:
        q, k, v = (x.to(views).double() for x in tokens[:3])
        return primal(loop, norm, state, tokens._replace(q=q, k=k, v=v), tau)

    return form


CUTS = [(16, [16]), (19, [19]), (15, [15]), (9, [1, 8]), (21, [3, 18]), (24, [8, 1, 15]), (26, [5, 2, 12, 1, 6])]
TYPES = (torch.float16, torch.float32)
IN_PIECES = [(name, *CUTS[-1], dtype) for name in LOOPS for dtype in TYPES]
IN_PIECES += [("linear", *cut, TYPES[i % 2]) for i, cut in enumerate(CUTS[:-1])]
IN_PIECES += [("mlp", *cut, TYPES[1 - i % 2]) for i, cut in enumerate(CUTS[:-1])]
"""The last cut with every loop in both types; the others with each kernel, in one type or the other."""


@pytest.mark.parametrize(("name", "T", "cuts", "dtype"), IN_PIECES, ids=str)
def test_any_length_in_any_pieces_is_the_primal_form(name: str, T: int, cuts: list[int], dtype: torch.dtype) -> None:
    case = Case(LOOPS[name], 8, T=T, D=16)
    expected = case.run(rounded_definition(dtype))
    form = choose_form(KernelConfig("triton", 2), case.loop)
    assert_agree(case.run(narrowed(form, dtype, torch.float32), cuts), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", LOOPS)
def test_token_by_token_is_the_primal_form_and_calls_the_decode_kernel(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, calls = Case(LOOPS[name], 4, T=11, D=16), []
    decode = op.decode_token
    monkeypatch.setattr(op, "decode_token", lambda *given: calls.append(given[-1]) or decode(*given))
    form = narrowed(choose_form(KernelConfig("triton"), case.loop), torch.float32, torch.float32)
    with torch.no_grad():
        found = case.outputs(form, [1] * 11)
    assert_agree(found, case.outputs(rounded_definition(torch.float32)), TOLERANCE[torch.float32])
    assert calls == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]


@pytest.fixture(params=["ttt_linear-transformer", "ttt_mlp-mamba"])
def build(request: pytest.FixtureRequest, configure: Callable[..., TrainConfig]) -> Callable[[str], nn.Module]:
    """A small model with this kernel; equal weights whatever the kernel."""
    name, backbone = request.param.split("-")
    options = f"model={name}", f"backbone={backbone}", "size.blocks=2", "size.init_std=0.2"

    def build(kernel: str) -> nn.Module:
        config = configure(*options, f"kernel={kernel}")
        torch.manual_seed(0)
        return build_model(config.model, config.size, config.backbone, config.kernel, V).to(DEVICE)

    return build


def test_a_model_trains_as_with_the_dual_form(build: Callable[[str], nn.Module]) -> None:
    found = []
    for kernel in ("dual", "triton"):
        model = build(kernel)
        logits = model(IDS)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        loss.backward()
        gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"logits": logits, "loss": loss} | gradients)
    # Twice float32, one layer upon the other.
    assert_agree(found[1], found[0], 10 * TOLERANCE[torch.float32])


@torch.no_grad()
def test_a_model_generates_as_with_the_dual_form(build: Callable[[str], nn.Module]) -> None:
    expected, model = build("dual")(IDS), build("triton")
    logits, state = model(IDS[:, :21], {})
    pieces = [logits]
    for token in IDS[:, 21:].split(1, dim=1):
        logits, state = model(token, state)
        pieces.append(logits)
    assert_agree({"logits": torch.cat(pieces, dim=1)}, {"logits": expected}, 10 * TOLERANCE[torch.float32])


def test_a_layer_keeps_half_precision_for_the_kernels_alone(configure: Callable[..., TrainConfig]) -> None:
    for kernel, expected in (("triton", torch.float16), ("dual", torch.float32)):
        config = configure("model=ttt_linear", f"kernel={kernel}")
        model = build_model(config.model, config.size, config.backbone, config.kernel, V).to(DEVICE)
        (layer,) = [module for module in model.modules() if isinstance(module, TTT)]
        read, form = [], layer.form

        def spy(*given, read=read, form=form):  # type: ignore[no-untyped-def]
            read.append((given[3].q.dtype, given[3].v.dtype, given[3].eta.dtype, given[2].W[0].dtype))
            return form(*given)

        dtype = view_type(form, torch.empty(0, dtype=torch.float16, device=DEVICE))
        assert dtype == expected
        layer.form = spy  # a form of its own kind reads float32
        model(IDS)
        assert read == [(torch.float32,) * 4]
        layer.form = form
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            assert model(IDS).isfinite().all()
    expected = torch.float32 if INTERPRETED else torch.bfloat16
    assert view_type(choose_form(KernelConfig("triton"), LOOPS["linear"]), torch.empty(0).bfloat16()) == expected


@pytest.mark.parametrize(
    ("loop", "reason"),
    [
        (InnerLoop(InnerMLP((4, 4))), "one hidden layer"),
        (InnerLoop(InnerMLP((4,), "silu")), "GELU"),
        (InnerLoop(InnerModule(lambda width: nn.Linear(width, width))), "linear inner models"),
        (InnerLoop(InnerMLP(), norm=False), "LN and residual"),
        (InnerLoop(InnerMLP(), momentum=0.5), "no momentum"),
    ],
)
def test_other_loops_are_refused_by_name(loop: InnerLoop, reason: str) -> None:
    with pytest.raises(UserError, match=f"kernel.name=triton: .*{reason}.*; choose auto"):
        choose_form(KernelConfig("triton"), loop)


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
def test_tokens_that_it_cannot_read_are_refused_by_name(case: Case, views: torch.dtype, reason: str) -> None:
    form = choose_form(KernelConfig("triton"), case.loop)
    with pytest.raises(UserError, match=f"kernel.name=triton: .*{reason}.*; choose auto"):
        case.outputs(form if case.forgets else narrowed(form, views, torch.float32))


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What was found out about this machine and said of it is found out and said again."""
    caches = (dispatch._no_triton, dispatch._say_on_gpu)
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
        choose_form(KernelConfig("triton"), LOOPS["linear"])


def test_without_gpu_and_interpreter_it_is_refused() -> None:
    program = (
        "import os; os.environ.pop('TRITON_INTERPRET', None); os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "from ttt.config.errors import UserError\n"
        "from ttt.config.schema import KernelConfig\n"
        "from ttt.inner.loop import InnerLoop\n"
        "from ttt.inner.models.mlp import InnerMLP\n"
        "from ttt.kernels.dispatch import choose_form\n"
        "try: choose_form(KernelConfig('triton'), InnerLoop(InnerMLP()))\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("kernel.name=triton: no GPU is found, and TRITON_INTERPRET=1")


class OnGPU(Compiled):
    """``kernel=auto`` as it is where the tokens are on a GPU."""

    def _is_triton(self, x: Tensor) -> bool:  # noqa: ARG002
        return True


@pytest.mark.usefixtures("forgotten")
def test_auto_on_a_gpu_says_once_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(LOOPS["linear"], 4, T=8, D=16)
    plain = choose_form(KernelConfig("dual"), case.loop)
    form = OnGPU(KernelConfig("auto", 2), plain)
    expected = case.run(plain)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert_agree(case.run(narrowed(form, torch.float64, torch.float64)), expected)
        for _ in range(2):
            found = case.run(narrowed(form, torch.float32, torch.float32))
    assert_agree(found, expected, TOLERANCE[torch.float32])
    device = IDS.device
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"kernel: plain PyTorch on {device} instead of the Triton kernels: "
            "it reads float32, float16 and bfloat16, not torch.float64",
        ),
        ("INFO", f"kernel: the Triton kernels on {device}"),
    ]


@pytest.mark.parametrize("kernel", [KernelConfig("triton"), KernelConfig("auto"), KernelConfig("auto", 3)], ids=str)
@pytest.mark.parametrize(("name", "own"), [("linear", 16), ("mlp", 64)])
def test_the_group_that_suits_the_layer_is_taken_where_none_is_asked_for(
    name: str, own: int, kernel: KernelConfig
) -> None:
    loop, b, mini_batches = LOOPS[name], 2, 65
    form = OnGPU(kernel, choose_form(KernelConfig("dual"), loop))
    group = own if kernel.checkpoint_group is None else kernel.checkpoint_group
    with FakeTensorMode():
        W = [torch.empty(1, 16, 64 if name == "mlp" else 16), torch.empty(1, 1, 64 if name == "mlp" else 16)]
        W += [torch.empty(1, 64, 16), torch.empty(1, 1, 16)] if name == "mlp" else []
        norm = LayerNormParams(torch.ones(1, 1, 16), torch.zeros(1, 1, 16))
        tokens = Tokens(*torch.empty(3, 1, 1, b * mini_batches, 16), torch.empty(1, 1, b * mini_batches))
        tokens = tokens._replace(q=tokens.q.requires_grad_())
        z, _ = form(loop, norm, loop.start(W, 1), tokens, torch.empty(b))
        W1_kept, *_ = z.grad_fn.saved_tensors
    assert W1_kept.shape == (-(-mini_batches // group), 1, *W[0].shape)


def test_auto_on_a_cpu_leaves_triton_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "inner_loop", partial(pytest.fail, "the interpreter is no fast form"))
    case = Case(LOOPS["linear"], 4, T=8, D=16)
    assert_agree(case.run(choose_form(KernelConfig("auto"), case.loop)), case.run(rounded_definition(torch.float64)))
