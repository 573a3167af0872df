"""The sentence about a text that is too small to compare runs on."""

FEW_DOCUMENTS, FEW_TOKENS = 30, 30_000
"""With fewer documents or tokens, a few documents decide which of two runs is better."""


def is_little(documents: int, tokens: int) -> bool:
    """Return whether a text of this many documents and tokens is too small to compare runs on."""
    return documents < FEW_DOCUMENTS or tokens < FEW_TOKENS


def little_data(split: str, documents: int, tokens: int) -> str:
    """Return a sentence if the judged text of a split is too small to compare runs on, otherwise an empty text."""
    if not is_little(documents, tokens):
        return ""
    noun = f"{split} " * (split != "all") + ("document" if documents == 1 else "documents")
    return (
        f"little data: {documents:,} {noun} with {tokens:,} tokens (fewer than {FEW_DOCUMENTS} or "
        f"{FEW_TOKENS:,}), so that few documents decide a comparison; judge more text "
        f"({'' if split == 'all' else f'data.{split}_fraction, '}data.eval_tokens)"
    )
