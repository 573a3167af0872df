"""The Triton kernels compiled and run on a CUDA device, compared with the definition.

Without a device these tests are deselected. They have not been run on a device yet. Compilation takes most of an hour
of one core, so ``make gpu`` compares fewer sizes, on all cores.
"""

import math
from collections.abc import Iterator

import pytest
import torch
from kernel_cases import TOLERANCE, Arguments, Case, arguments, assert_close, exact, primal, results, rounded
from torch import Tensor

from ttt.bench.gpu import compare
from ttt.bench.latency_kernels import kernel_measurements
from ttt.bench.turns import take_turns
from ttt.config.bench import LatencyBenchConfig
from ttt.config.layers import TTTConfig
from ttt.config.schema import BackboneConfig, KernelConfig, SizeConfig
from ttt.kernels.triton import op
from ttt.kernels.triton.decoding import decode_token
from ttt.models.build import build_model
from ttt.models.language_model import LanguageModel, token_losses

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [(D, b) for D in (32, 64, 96, 128) for b in (8, 16, 32, 64)]
CASES = [Case(D, F, b, 3 * b if b <= 16 else 2 * b) for D, b in SIZES for F in (0, 4 * D)]
CASES += [Case(24, 0, 5, 15), Case(24, 48, 5, 15)]
B, H = 2, 2

STEPS, BATCH, TOKENS, VOCAB = 20, 4, 100, 64
"""Sizes of the training test; 100 tokens end within a mini-batch of 16."""


def on_device(given: Arguments) -> Arguments:
    return given.map(lambda x: x.detach().to(DEVICE).requires_grad_())


def triton(given: Arguments) -> tuple[Tensor, tuple[Tensor, ...]]:
    return op.inner_loop(*given, recompute_group=2)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill new tensors with NaN, so that an element that a kernel does not write is NaN."""
    with monkeypatch.context() as patch:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            allocate = getattr(owner, name)
            patch.setattr(
                owner, name, lambda *given, allocate=allocate, **named: allocate(*given, **named).fill_(math.nan)
            )
        yield


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_state_and_gradients_on_the_device(case: Case, dtype: torch.dtype) -> None:
    given = rounded(arguments(case, torch.float64, B, H), dtype)
    there = on_device(given)
    if reason := op.unsupported(case.head_dim, (case.hidden,) * bool(case.hidden), case.mini_batch_size, dtype, DEVICE):
        with pytest.raises(RuntimeError, match="shared memory"):
            triton(there)
        pytest.skip(reason)
    before = [x.detach().clone() for x in there.tensors()]
    found = {name: x.cpu() for name, x in results(triton, there).items()}
    assert_close(found, results(primal, exact(given)), TOLERANCE[dtype])
    assert all(map(torch.equal, before, there.tensors())), "inputs are not changed"


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_token_by_token_on_the_device(case: Case, dtype: torch.dtype) -> None:
    case = case._replace(tokens=2 * case.mini_batch_size)
    given = rounded(arguments(case, torch.float64, B, H), dtype).map(Tensor.detach)
    there, b = given.map(lambda x: x.to(DEVICE)), case.mini_batch_size
    W, step, outputs = there.W, (), []
    for t in range(case.tokens):
        q, k, v, eta = (x[:, :, t : t + 1] for x in (there.q, there.k, there.v, there.eta))
        z, after = decode_token(W, step, there.scale, there.shift, q, k, v, eta, there.tau, t % b)
        outputs.append(z.cpu())
        W, step = (after, ()) if t % b == b - 1 else (W, after)
    expected, W_last = primal(exact(given))
    named = {str(number): w for number, w in enumerate(W_last)}
    found = {"z": torch.cat(outputs, dim=2)} | {str(number): w.cpu() for number, w in enumerate(W)}
    assert_close(found, {"z": expected} | named, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("layer", ["linear", "mlp"])
def test_equal_inputs_give_equal_bytes(layer: str, dtype: str) -> None:
    """A race shows only now and then, so 20 times, while another stream is busy."""
    found = compare.repeated(compare.Case(compare.REPEAT, layer, dtype, 64, 16), DEVICE)
    assert found.text == "equal bytes in 20 runs"


LAYERS = {
    "linear": TTTConfig("ttt_linear", inner_model="linear"),
    "mlp": TTTConfig("ttt_mlp", inner_model="mlp", hidden=[4], eta_base=0.1, eta_base_start=0.1),
}


def model_on_device(name: str, kernel: str) -> LanguageModel:
    torch.manual_seed(0)
    size = SizeConfig("tiny", 128, 2, 2, 256)
    return build_model(LAYERS[name], size, BackboneConfig("transformer"), KernelConfig(kernel, 4), VOCAB).to(DEVICE)


def trained(name: str, kernel: str, dtype: torch.dtype) -> list[float]:
    """Return the loss of each step of training on one batch."""
    model = model_on_device(name, kernel)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    windows = torch.randint(VOCAB, (BATCH, TOKENS + 1), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    losses = []
    for _ in range(STEPS):
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            loss = token_losses(model, windows).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("name", list(LAYERS))
def test_training_goes_as_with_the_dual_form(name: str, dtype: torch.dtype, tolerance: float) -> None:
    fast, plain = trained(name, "triton", dtype), trained(name, "dual", dtype)
    assert plain[-1] < plain[0] - 0.1, "the model learned"
    assert fast == pytest.approx(plain, rel=tolerance)


@pytest.mark.parametrize("name", list(LAYERS))
def test_prefill_and_decoding_go_as_with_the_dual_form(name: str) -> None:
    ids = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    outputs = []
    with torch.no_grad():
        for kernel in ("triton", "dual"):
            model, chunks, state = model_on_device(name, kernel), [], {}
            for chunk in ids.split([21, *[1] * 19], dim=1):
                logits, state = model(chunk, state=state)
                chunks.append(logits)
            outputs.append(torch.cat(chunks, dim=1))
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_the_kernels_are_timed(name: str) -> None:
    config = LatencyBenchConfig(width=128, heads=2, inner_batch=2, checkpoint_group=[4], dtype="bfloat16")
    samples = take_turns(list(kernel_measurements(config, name, 128)), 1, DEVICE, lambda _: None)
    assert [measurement.measure for measurement in samples] == ["inner_train", "inner_forward", "inner_decode"]
    assert all(found.seconds[measurement.measure][0] > 0 for measurement, found in samples.items())
