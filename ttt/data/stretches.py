"""Splits of a source with too few documents: long documents are cut into one stretch per split."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.config.system import renamed_at_the_end
from ttt.data.documents import SPLITS, is_admitted, sha256_of, split_of_document
from ttt.data.sources import Document, Source

SHORTEST = 100
"""Characters of the shortest stretch."""

STRETCHES = "stretches.json"

Stretches = dict[str, Any]
"""``missing``: the splits that would be empty, ``documents``: documents that were cut, and the share of each split."""


class StretchedSource(Source[DataConfig]):
    """The documents of another source, the long ones cut into consecutive stretches that do not overlap."""

    def __init__(self, source: Source[DataConfig]) -> None:
        self._source = source

    def versions(self, config: DataConfig) -> dict[str, str]:
        """Return the versions of the other source."""
        return self._source.versions(config)

    def documents(self, config: DataConfig) -> Iterator[Document]:
        """Yield short documents and the stretches of long ones."""
        for document in self._source.documents(config):
            yield from cut(document, config) if is_long(document, config) else [document]

    def text_bytes(self, config: DataConfig) -> int | None:
        """Return the size of the other source."""
        return self._source.text_bytes(config)


def provide_stretches(
    config: DataConfig, source: Source[DataConfig], folder: Path, show_progress: bool
) -> tuple[Source[DataConfig], Stretches | None]:
    """Return the source to prepare and how it is cut: the given one and None if no split would be empty.

    The decision is kept in ``folder`` for a preparation that resumes.

    Raises:
        UserError: there is no document for validation and none that is long enough to be cut.
    """
    path = folder / STRETCHES
    if not path.exists():
        documents = tqdm(source.documents(config), "reading", unit=" documents", disable=not show_progress, leave=False)
        found = find_stretches(documents, config) if len(_fractions(config)) > 1 else None
        with renamed_at_the_end(path) as partial:
            partial.write_text(json.dumps(found), encoding="utf-8")
    stretches: Stretches | None = json.loads(path.read_text(encoding="utf-8"))
    if stretches is None:
        return source, None
    shares = ", ".join(f"{split} {share:.0%}" for split, share in stretches["shares"].items())
    cut_documents = "1 long document is" if stretches["documents"] == 1 else f"{stretches['documents']} long ones are"
    missing = ", ".join(stretches["missing"])
    tqdm.write(f"data={config.name}: too few documents for {missing}; {cut_documents} cut: {shares}", file=sys.stderr)
    return StretchedSource(source), stretches


def find_stretches(documents: Iterable[Document], config: DataConfig) -> Stretches | None:
    """Return how documents are cut; None if every split has one, and if none can be cut and only test is empty.

    Reads only until every split has a document.

    Raises:
        UserError: as ``provide_stretches``.
    """
    missing, admitted, long = list(_fractions(config)), 0, 0
    for document in documents:
        if not is_admitted(document, config):
            continue
        admitted += 1
        long += is_long(document, config)
        split = split_of_document(document, sha256_of(document.text), config)
        missing = [name for name in missing if name != split]
        if not missing:
            return None
    if long:
        return {"missing": missing, "documents": long, "shares": _fractions(config)}
    if "validation" in missing and "train" not in missing:
        needed = f"none has the {_long_chars(config):,} characters to be cut into stretches"
        advice = "add text, or raise data.validation_fraction"
        raise UserError(f"data={config.name}: no validation document among {admitted}, and {needed}; {advice}")
    if missing == ["test"]:
        line = f"data={config.name}: no test document among {admitted}, and none is long enough to be cut"
        tqdm.write(line, file=sys.stderr)
    return None


def is_long(document: Document, config: DataConfig) -> bool:
    """Check that a document is admitted and every stretch of it would be too."""
    return is_admitted(document, config) and len(document.text) >= _long_chars(config)


def cut(document: Document, config: DataConfig) -> Iterator[Document]:
    """Yield the stretches of a long document: training text first, then validation, then test.

    Stretches end at the end of a line, or before a space, if there is one nearby. Names have the range of characters.
    """
    fractions = _fractions(config)
    start, share = 0, 0.0
    for number, (split, fraction) in enumerate(fractions.items(), start=1):
        share += fraction
        last = number == len(fractions)
        end = len(document.text) if last else _break(document.text, round(share * len(document.text)), config)
        yield Document(f"{document.name}[{start}:{end}]", document.text[start:end], split)
        start = end


def _fractions(config: DataConfig) -> dict[str, float]:
    """Return the share of each split that has one."""
    rest = 1 - config.validation_fraction - config.test_fraction
    shares = zip(SPLITS, (rest, config.validation_fraction, config.test_fraction), strict=True)
    return {split: round(share, 9) for split, share in shares if share}


def _shortest(config: DataConfig) -> int:
    return max(SHORTEST, config.min_chars)


def _long_chars(config: DataConfig) -> int:
    # Twice the shortest stretch, because a stretch may begin or end earlier to keep lines whole.
    return int(2 * _shortest(config) / min(_fractions(config).values())) + 1


def _break(text: str, end: int, config: DataConfig) -> int:
    first = end - _shortest(config) + 1
    line_end = text.rfind("\n", first, end)
    if line_end >= 0:
        return line_end + 1
    space = text.rfind(" ", first, end)
    return space if space >= 0 else end
