"""Splits of a source with too few documents: long documents are cut into one stretch per split."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ttt.config.errors import UserError
from ttt.config.progress import progress_bar
from ttt.config.system import renamed_at_the_end
from ttt.data.documents import Selection, sha256_of
from ttt.data.sources import Document

SHORTEST = 100
"""Characters of the shortest stretch."""

STRETCHES = "stretches.json"

Stretches = dict[str, Any]
"""``missing``: the splits that would be empty, ``documents``: documents that were cut, and the share of each split."""


def provide_stretches(
    documents: Callable[[], Iterator[Document]], selection: Selection, folder: Path, show_progress: bool
) -> Stretches | None:
    """Return how the documents of a source are cut; None: no split would be empty.

    The decision is kept in ``folder`` for a preparation that resumes.

    Raises:
        UserError: there is no document for validation and none that is long enough to be cut.
    """
    path = folder / STRETCHES
    if not path.exists():
        read = progress_bar(documents(), desc="reading", unit=" documents", show=show_progress, leave=False)
        found = find_stretches(read, selection) if len(selection.shares) > 1 else None
        with renamed_at_the_end(path) as partial:
            partial.write_text(json.dumps(found), encoding="utf-8")
    stretches: Stretches | None = json.loads(path.read_text(encoding="utf-8"))
    if stretches is None:
        return None
    shares = ", ".join(f"{split} {share:.0%}" for split, share in stretches["shares"].items())
    cut_documents = "1 long document is" if stretches["documents"] == 1 else f"{stretches['documents']} long ones are"
    missing = ", ".join(stretches["missing"])
    line = f"data={selection.data}: too few documents for {missing}; {cut_documents} cut: {shares}"
    tqdm.write(line, file=sys.stderr)
    return stretches


def find_stretches(documents: Iterable[Document], selection: Selection) -> Stretches | None:
    """Return how documents are cut; None if every split has one, and if none can be cut and only test is empty.

    Reads only until every split has a document.

    Raises:
        UserError: as ``provide_stretches``.
    """
    missing, admitted, long = list(selection.shares), 0, 0
    for document in documents:
        if not selection.admits(document):
            continue
        admitted += 1
        long += is_long(document, selection)
        split = document.split or selection.split_by_hash(sha256_of(document.text))
        missing = [name for name in missing if name != split]
        if not missing:
            return None
    if long:
        return {"missing": missing, "documents": long, "shares": selection.shares}
    if "validation" in missing and "train" not in missing:
        needed = f"none has the {_long_chars(selection):,} characters to be cut into stretches"
        advice = "add text, or raise data.validation_fraction"
        raise UserError(f"data={selection.data}: no validation document among {admitted}, and {needed}; {advice}")
    if missing == ["test"]:
        line = f"data={selection.data}: no test document among {admitted}, and none is long enough to be cut"
        tqdm.write(line, file=sys.stderr)
    return None


def with_stretches(documents: Iterable[Document], selection: Selection) -> Iterator[Document]:
    """Yield short documents and the stretches of long ones."""
    for document in documents:
        yield from cut(document, selection) if is_long(document, selection) else [document]


def is_long(document: Document, selection: Selection) -> bool:
    """Check that a document is admitted and every stretch of it would be too."""
    return selection.admits(document) and len(document.text) >= _long_chars(selection)


def cut(document: Document, selection: Selection) -> Iterator[Document]:
    """Yield the stretches of a long document: training text first, then validation, then test.

    Stretches end at the end of a line, or before a space, if there is one nearby. Names have the range of characters.
    """
    fractions = selection.shares
    start, share = 0, 0.0
    for number, (split, fraction) in enumerate(fractions.items(), start=1):
        share += fraction
        last = number == len(fractions)
        end = (
            len(document.text)
            if last
            else _break(document.text, round(share * len(document.text)), _shortest(selection))
        )
        yield Document(f"{document.name}[{start}:{end}]", document.text[start:end], split)
        start = end


def _shortest(selection: Selection) -> int:
    return max(SHORTEST, selection.min_chars)


def _long_chars(selection: Selection) -> int:
    # Twice the shortest stretch, because a stretch may begin or end earlier to keep lines whole.
    return int(2 * _shortest(selection) / min(selection.shares.values())) + 1


def _break(text: str, end: int, shortest: int) -> int:
    first = end - shortest + 1
    line_end = text.rfind("\n", first, end)
    if line_end >= 0:
        return line_end + 1
    space = text.rfind(" ", first, end)
    return space if space >= 0 else end
