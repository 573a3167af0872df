import pytest
import torch
import torch.nn.functional as F

from ttt.models import cross_entropy as module
from ttt.models.cross_entropy import cross_entropy
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_likeliest_tokens_are_those_of_argmax(dtype: torch.dtype) -> None:
    """Of equal logits the first counts; few distinct values make many equal ones."""
    torch.manual_seed(0)
    logits, ids = torch.randint(-4, 5, (3, 50, 20)).to(dtype), torch.randint(20, (3, 50))
    expected = logits.argmax(-1) == ids
    assert 0 < expected.sum() < (logits.gather(-1, ids[..., None])[..., 0] == logits.amax(-1)).sum()
    assert torch.equal(are_likeliest(logits, ids), expected)
