import pytest
import torch

from ttt.inner.eta import token_scale


def test_token_scale_is_clamped() -> None:
    delta = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)
    assert token_scale(delta).tolist() == pytest.approx([1.5, 0.0, 1 / 3])
