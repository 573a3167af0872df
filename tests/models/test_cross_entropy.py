import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ttt.config.schema import KernelConfig
from ttt.kernels.cpu.loss import cross_entropy_
from ttt.layers.by_kernel import set_kernel
from ttt.models import cross_entropy as module
from ttt.models.cross_entropy import cross_entropy, head_losses
from ttt.models.language_model import LanguageModel, mean_loss
from ttt.models.likeliest import are_likeliest


@pytest.mark.parametrize("cached_entries", [1, 70, 10**6], ids=["a row", "some rows", "all rows"])
def test_it_is_torchs_with_its_gradient(cached_entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_ENTRIES", cached_entries)
    torch.manual_seed(0)
    x = 5 * torch.randn(11, 30, dtype=torch.float64)
    x[3, 4] = 1e4
    x.requires_grad_()
    targets, upstream = torch.randint(30, (11,)), torch.randn(11, dtype=torch.float64)
    results = []
    for losses in (cross_entropy(2 * x, targets), F.cross_entropy(2 * x, targets, reduction="none")):
        results.append((losses, *torch.autograd.grad((upstream * losses).sum(), x)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_a_second_backward_pass_is_refused() -> None:
    losses = cross_entropy(torch.randn(4, 5, requires_grad=True) * 1, torch.zeros(4, dtype=torch.long))
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()


def test_infinite_logits_give_a_loss_that_is_not_finite() -> None:
    logits = torch.tensor([[float("inf"), 0.0], [float("nan"), 0.0]])
    assert not cross_entropy(logits, torch.tensor([1, 1])).isfinite().any()


@pytest.mark.parametrize("weights", ["equal", "different", "one token"])
@pytest.mark.parametrize(("rows", "kernel"), [(1, "auto"), (4, "auto"), (100, "auto"), (4, "dual")])
def test_losses_of_the_head_are_torchs_with_their_gradients(
    weights: str, rows: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_ROWS", rows)
    monkeypatch.setattr(module, "CACHED_ENTRIES", 1)
    generator = torch.Generator().manual_seed(rows)
    tokens = 1 if weights == "one token" else 11
    h, weight = (torch.randn(n, 6, generator=generator, dtype=torch.float64).requires_grad_() for n in (tokens, 30))
    targets, upstream = torch.randint(30, (tokens,), generator=generator), torch.rand(tokens, generator=generator)
    results = []
    for losses in (
        head_losses(2 * h, weight, targets, KernelConfig(kernel)),
        F.cross_entropy(2 * h @ weight.T, targets, reduction="none"),
    ):
        loss = losses.sum() / 7 if weights == "equal" else (losses * upstream).sum()
        results.append((losses, *torch.autograd.grad(loss, (h, weight), retain_graph=True)))
        again = torch.autograd.grad(loss, (h, weight))
        assert all(torch.equal(x, y) for x, y in zip(again, results[-1][1:], strict=True))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(head_losses(2 * h, weight, targets, KernelConfig(kernel)), results[0][0])


@pytest.mark.parametrize(("V", "dtype"), [(1, torch.float64), (30, torch.float64), (4100, torch.float32)], ids=str)
def test_the_compiled_loss_is_torchs_with_its_gradient_for_any_number_of_threads(V: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, targets = 5 * torch.randn(40, V, dtype=torch.float64), torch.randint(V, (40,))
    x[3, V // 2] = 200
    exact = x.to(dtype).double().clone().requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction="none")
    (dx,) = torch.autograd.grad(expected.sum(), exact)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            logits = x.to(dtype, copy=True)
            found.append((cross_entropy_(logits, targets), logits))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close([y.double() for y in found[0]], [expected.detach(), dx], rtol=tolerance, atol=tolerance)


def test_the_compiled_loss_of_infinite_logits_is_not_finite_and_wrong_targets_are_refused() -> None:
    logits = torch.tensor([[float("inf"), 0.0], [float("nan"), 0.0], [0.0, float("nan")]])
    assert not cross_entropy_(logits, torch.tensor([1, 1, 0])).isfinite().any()
    for wrong in (-1, 2):
        with pytest.raises(RuntimeError, match=f"target {wrong} of 2"):
            cross_entropy_(torch.zeros(1, 2), torch.tensor([wrong]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_model_keeps_no_logits_unless_its_kernel_is_plain(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mixed precision, here bfloat16, the weights and the losses are float32."""
    monkeypatch.setattr(module, "LEAST_ROWS", 4)
    monkeypatch.setattr(module, "CACHED_ENTRIES", 1)
    torch.manual_seed(0)
    model, ids_BS = LanguageModel(30, 6, [], init_std=0.5), torch.randint(30, (2, 12))
    model = model.double() if dtype == torch.float64 else model
    results = []
    for name, keeps in (("auto", False), ("dual", True)):
        set_kernel(model, KernelConfig(name))
        kept: list[Tensor] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x) or x, lambda x: x)
        with hooks, torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            loss = mean_loss(model, ids_BS)
        assert (max(x.numel() for x in kept) >= 22 * 30) == keeps
        results.append((loss, *torch.autograd.grad(loss, tuple(model.parameters()))))
        assert all(x.dtype == results[0][0].dtype for x in results[-1])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-2
    torch.testing.assert_close(results[0], results[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_likeliest_tokens_are_those_of_argmax(dtype: torch.dtype) -> None:
    """Of equal logits the first counts; few distinct values make many equal ones."""
    torch.manual_seed(0)
    logits, ids = torch.randint(-4, 5, (3, 50, 20)).to(dtype), torch.randint(20, (3, 50))
    expected = logits.argmax(-1) == ids
    assert 0 < expected.sum() < (logits.gather(-1, ids[..., None])[..., 0] == logits.amax(-1)).sum()
    assert torch.equal(are_likeliest(logits, ids), expected)
