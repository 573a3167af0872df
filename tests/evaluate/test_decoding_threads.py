"""The number of threads that ``ttt-generate`` uses."""

import pytest
import torch
from torch import nn

from ttt.evaluate import threads
from ttt.evaluate.threads import SMALL, decoding_threads


def number_of(monkeypatch: pytest.MonkeyPatch, parameters: int, trained_with: int, asked: int) -> int:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(threads, "available_cores", lambda: 4)
    with torch.device("meta"):
        model = nn.Linear(parameters, 1, bias=False)
    # Every run has a value; it counts if the command had it.
    overrides = [f"trainer.threads={trained_with}"] if trained_with else []
    record = {"config": {"trainer": {"threads": trained_with or 2}}, "overrides": overrides}
    return decoding_threads(model, record, asked)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameters", "trained_with", "asked", "expected"),
    [
        (SMALL - 1, 0, 0, 1),
        (SMALL, 0, 0, 5),
        (SMALL - 1, 3, 0, 3),
        (SMALL - 1, 64, 0, 4),
        (SMALL - 1, 3, 8, 8),
        (SMALL, 0, 2, 2),
    ],
    ids=["small", "large", "as trained", "fewer cores here", "the key first", "the key for a large model"],
)
def test_threads(
    parameters: int, trained_with: int, asked: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert number_of(monkeypatch, parameters, trained_with, asked) == expected
