"""The sentence about a text that is too small to compare runs on."""

import pytest

from ttt.config.little_data import little_data


@pytest.mark.parametrize(("documents", "tokens"), [(29, 1_000_000), (5_000, 29_999), (1, 512)])
def test_few_documents_or_tokens_are_said(documents: int, tokens: int) -> None:
    said = little_data("validation", documents, tokens)
    assert said.startswith(f"little data: {documents:,} validation document")
    assert f"{tokens:,} tokens" in said
    assert "data.validation_fraction" in said
    assert "\n" not in said


def test_enough_text_is_not_mentioned() -> None:
    assert little_data("test", 30, 30_000) == ""


def test_a_text_without_splits_names_no_fraction() -> None:
    assert "_fraction" not in little_data("all", 4, 12_000)
