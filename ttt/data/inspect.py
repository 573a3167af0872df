"""Description of a prepared corpus."""

import numpy as np

from ttt.config.errors import bad_value
from ttt.config.identity import context_name
from ttt.config.little_data import little_data
from ttt.config.text_table import text_table, wrapped
from ttt.data.corpus import Corpus, Documents
from ttt.data.manifest import LATER_FIELDS
from ttt.data.usage import usage
from ttt.data.vocabulary import decode, open_vocabulary

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
LONG = tuple(2**power for power in range(10, 16))
"""Lengths in tokens, 1k to 32k; the table counts the documents of at least each length."""

CONTEXTS = (512, 2048, 8192, 32768)
"""Contexts for which the table has the share of the tokens that is read: shorter documents may be left out."""


def describe_corpus(corpus: Corpus) -> str:
    """Return folder, tokenizer and digest, and a table with a column per split."""
    manifest = corpus.manifest
    versions = ", ".join(map(" ".join, manifest["versions"].items()))
    head = [
        f"{corpus.folder}",
        f"digest {corpus.digest}",
        wrapped(f"source {manifest['settings']['source']}: {versions}", below="  "),
        *(f"data.{key}={manifest['settings'][key]}" for key in LATER_FIELDS if key in manifest["settings"]),
        wrapped(
            f"tokenizer {manifest['tokenizer']}, {corpus.vocab_size} tokens, SHA-256 {manifest['tokenizer_sha256']}",
            below="  ",
        ),
    ]
    columns = [_column(documents, manifest["splits"][split]) for split, documents in corpus.splits.items()]
    rows = [[name, *(f"{column[name]:,}" for column in columns)] for name in columns[0]]
    rows += [[f"tokens used at {context_name(ctx)}", *_shares(corpus, ctx)] for ctx in CONTEXTS]
    validation = manifest["splits"]["validation"]
    small = little_data("validation", validation["documents"], validation["tokens"])
    return "\n".join([*head, text_table([["", *corpus.splits], *rows], left=[0]), *([wrapped(small)] if small else [])])


def _shares(corpus: Corpus, ctx: int) -> list[str]:
    used = [usage(documents, ctx) for documents in corpus.splits.values()]
    return [f"{part.tokens / max(1, part.of_tokens):.1%}" for part in used]


def sample_text(corpus: Corpus, split: str, document: int, tokens: int) -> str:
    """Return the beginning of a document, decoded.

    Raises:
        UserError: there is no such split or document.
    """
    if split not in corpus.splits:
        raise bad_value("split", split, f"choose one of {', '.join(corpus.splits)}")
    documents = corpus.splits[split]
    if not 0 <= document < len(documents):
        raise bad_value("document", document, f"{split} has {len(documents)}, the first is 0")
    start, end = map(int, documents.offsets[document : document + 2])
    # The last token is the end-of-document token.
    return decode(open_vocabulary(corpus.folder), documents.tokens[start : min(start + tokens, end - 1)])


def _column(documents: Documents, sizes: dict[str, int]) -> dict[str, int]:
    lengths = documents.lengths
    counted = {"documents": len(lengths), "tokens": sizes["tokens"], "bytes of text": sizes["bytes"]}
    quantiles = np.quantile(lengths, QUANTILES) if len(lengths) else np.zeros(len(QUANTILES))
    counted |= {f"length at {share:.0%}": round(value) for share, value in zip(QUANTILES, quantiles, strict=True)}
    return counted | {f"at least {length // 1024}k": int((lengths >= length).sum()) for length in LONG}
