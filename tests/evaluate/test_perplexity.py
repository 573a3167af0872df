"""Evaluation compared with sums by hand, for a model with known losses."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ttt.data.corpus import Documents
from ttt.evaluate.perplexity import SplitEvaluation, evaluate_split
from ttt.evaluate.text_bytes import count_text_bytes

V, CTX = 8, 5


class Counting(nn.Module):
    """Gives the next token the logit t at token index t = 1, 2, ..., and every other token 0."""

    def forward(self, ids: Tensor) -> Tensor:
        index = torch.arange(1, ids.shape[1] + 1, dtype=torch.float64)
        return nn.functional.one_hot((ids + 1) % V, V) * index[None, :, None]


def documents(*lengths: int) -> Documents:
    """Every document counts 0, 1, 2, ... modulo V."""
    tokens = np.concatenate([np.arange(length) % V for length in lengths]).astype(np.uint16)
    return Documents("test", "validation", tokens, np.cumsum([0, *lengths]).astype(np.int64))


@pytest.fixture
def evaluate() -> Callable[..., SplitEvaluation]:
    def run(*lengths: int, eval_tokens: int = 1000, device_tokens: int = 10) -> SplitEvaluation:
        device = torch.device("cpu")
        return evaluate_split(Counting(), documents(*lengths), CTX, eval_tokens, device, device_tokens, False)

    return run


def expected_losses() -> list[float]:
    return [math.log(math.exp(t) + V - 1) - t for t in range(1, CTX + 1)]


def test_loss_by_index_and_perplexity(evaluate: Callable[..., SplitEvaluation]) -> None:
    result = evaluate(6, 3, 17)
    assert result.loss_by_index.tolist() == pytest.approx(expected_losses(), rel=1e-6)
    assert (result.sequences, result.tokens) == (4, 20)  # 1 + 0 + 3 windows of 5 tokens
    assert result.judged == 2  # the document of 3 tokens is shorter than the context
    assert result.loss == pytest.approx(sum(expected_losses()) / CTX, rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_losses_by_document_are_sums_over_its_windows(evaluate: Callable[..., SplitEvaluation]) -> None:
    result = evaluate(6, 3, 17)
    assert result.document.tolist() == [0, 2]
    assert result.document_tokens.tolist() == [5, 15]
    assert result.document_loss.tolist() == pytest.approx([sum(expected_losses()), 3 * sum(expected_losses())])


def test_tokens_of_joined_documents_belong_to_the_document_they_stand_in() -> None:
    """Of 26 tokens the first is not predicted, and all 5 windows are read."""
    joined = replace(documents(6, 3, 17), joined=True)
    result = evaluate_split(Counting(), joined, CTX, 1000, torch.device("cpu"), 10, False)
    assert result.document_tokens.tolist() == [5, 3, 17]
    assert result.document_loss.sum() == pytest.approx(result.loss * result.tokens)


@pytest.mark.parametrize("joined", [False, True])
def test_loss_by_index_is_not_of_the_start_of_documents(joined: bool) -> None:
    """The first of three windows does not count, so that the model is wrong there and right in the others."""
    counting = documents(3 * CTX + 1)
    counting.tokens[: CTX + 1] = 0  # type: ignore[index]
    result = evaluate_split(Counting(), replace(counting, joined=joined), CTX, 1000, torch.device("cpu"), 10, False)
    wrong = [math.log(math.exp(t) + V - 1) for t in range(1, CTX + 1)]
    expected = [(first + 2 * other) / 3 for first, other in zip(wrong, expected_losses(), strict=True)]
    # The second window begins with the last token of the first.
    assert result.loss_by_index.tolist()[1:] == pytest.approx(expected[1:], rel=1e-6)
    assert result.loss == pytest.approx(result.loss_by_index.mean().item(), rel=1e-6)


def test_the_number_of_tokens_is_limited(evaluate: Callable[..., SplitEvaluation]) -> None:
    result = evaluate(100, 100, eval_tokens=12)
    assert (result.sequences, result.judged) == (2, 2)
    assert evaluate(100, eval_tokens=1).sequences == 1


@pytest.mark.parametrize("device_tokens", [1, 5, 11, 1000])
def test_the_size_of_batches_does_not_matter(evaluate: Callable[..., SplitEvaluation], device_tokens: int) -> None:
    result = evaluate(40, 33, 6, device_tokens=device_tokens)
    assert result.loss_by_index.tolist() == pytest.approx(expected_losses(), rel=1e-6)


def test_accuracy_is_the_share_of_tokens_that_were_the_most_likely_ones(
    evaluate: Callable[..., SplitEvaluation],
) -> None:
    assert evaluate(6, 17).accuracy == 1.0
    # The first of two windows is wrong, and the first token of the second.
    counting = documents(2 * CTX + 1)
    counting.tokens[: CTX + 1] = 0  # type: ignore[index]
    assert evaluate_split(Counting(), counting, CTX, 1000, torch.device("cpu"), 10, False).accuracy == 0.4


class Letters:
    """The tokens 1, 2, ... stand for 1, 2, ... bytes; 0 ends a document."""

    size, end = V, 0

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        raise NotImplementedError

    def bytes_of(self, token: int) -> bytes:
        return b"x" * (token or 13)


def test_the_bytes_are_those_of_the_predicted_tokens_without_the_ends_of_documents() -> None:
    tokens = np.array([7, 1, 2, 3, 0, 5, 6, 1], np.uint16)
    assert count_text_bytes(tokens, np.array([0, 4]), 3, Letters()) == (1 + 2 + 3) + (5 + 6 + 1)
    assert count_text_bytes(tokens, np.array([1]), 3, Letters()) == 2 + 3


def test_bits_per_byte_do_not_depend_on_the_tokens(evaluate: Callable[..., SplitEvaluation]) -> None:
    result = replace(evaluate(6, 17), text_bytes=200)
    assert result.bits_per_byte == pytest.approx(result.document_loss.sum() / math.log(2) / 200)
    assert evaluate(6, 17).bits_per_byte is None
