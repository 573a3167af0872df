"""Data sets of the Hugging Face hub, streamed or from a local copy."""

import logging
import re
from collections.abc import Iterator
from typing import Any

from ttt.config.errors import RunError, bad_value, first_line
from ttt.config.schema import DataConfig
from ttt.data.local import Local, RowTexts, report_rows_without_text
from ttt.data.sources import Document, Source, UnreachableError, register_source

SECONDS_TO_ANSWER = 10

CHOICES = {
    "subset": r"(?:available configs: |BuilderConfig .* not found\. Available: )(\[.*?\])",
    "split": r"(?:Available splits: |Should be one of )(\[.*?\])",
}
"""Key -> the list of its choices in an error of ``datasets``."""


@register_source("hub")
class Hub(Source[DataConfig]):
    """``data.subset`` and ``data.split`` of ``data.hub`` at ``data.revision``; with ``data.path``, a local copy."""

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        self._local = Local(config)
        self._reported = False

    def versions(self) -> dict[str, str]:
        """Return the configured revision, or a hash of the files at ``data.path``.

        Raises:
            UserError: ``data.hub`` or the files are missing.
        """
        config = self.config
        if config.path:
            return self._local.versions()
        if not config.hub:
            raise bad_value("data.hub", config.hub, "give OWNER/NAME of a data set on the hub")
        return {config.hub: config.revision or "main"}

    def documents(self) -> Iterator[Document]:
        """Yield the rows of the data set as documents.

        Raises:
            UserError: the hub cannot be reached, has no such data set, subset or split, or no such column.
            RunError: the connection was lost after some rows.
        """
        config = self.config
        if config.path:
            yield from self._local.documents()
            return
        texts = RowTexts(config.column)
        first: dict[str, Any] = {}
        for number, row in enumerate(_rows(config), start=1):
            first = first or row
            # The rows of a data set have the same columns.
            if config.column not in row:
                break
            text = texts.text_of(row, f"{config.hub} row {number}")
            if text is not None:
                yield Document(f"{config.hub}:{number}", text)
        texts.require_some(first, str(config.hub))
        if not self._reported:
            report_rows_without_text(config, texts.rows, texts.without)
            self._reported = True

    def text_bytes(self) -> int | None:
        """Return the size of a plain local copy; None otherwise."""
        return self._local.text_bytes() if self.config.path else None


def _rows(config: DataConfig) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset
    from huggingface_hub import HfApi

    # The client logs every attempt to standard error, where the user should see one line.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    number = 0
    try:
        # Called first because it fails at once; datasets retries for half a minute.
        HfApi().dataset_info(str(config.hub), revision=config.revision, timeout=SECONDS_TO_ANSWER)
        rows = load_dataset(config.hub, config.subset, revision=config.revision, split=config.split, streaming=True)
        for row in rows:
            number += 1
            yield row
    except GeneratorExit:
        raise
    except Exception as error:
        # The clients of the hub also raise exceptions of the libraries that they use.
        refuse_choice(config, error)
        why = f"{type(error).__name__}: {first_line(error)}"
        if number:
            line = f"data.hub={config.hub}: broke off after row {number} ({why}); the same command resumes"
            raise RunError(line) from error
        offline = "a local copy with data.path=FOLDER, your own texts with data=local data.path=FOLDER, or data=pycode"
        line = f"data.hub={config.hub}: cannot be read ({why}); without network use {offline}"
        raise UnreachableError(line) from error


def refuse_choice(config: DataConfig, error: Exception) -> None:
    """Check that an error of the library is not about ``data.subset`` or ``data.split``.

    Raises:
        UserError: it is; the message has the library's list of choices.
    """
    for key, pattern in CHOICES.items():
        if found := re.search(pattern, str(error), re.DOTALL):
            choices = ", ".join(re.findall(r"'([^']*)'", found[1])) or found[1]
            raise bad_value(f"data.{key}", getattr(config, key), f"{config.hub} has {choices}; choose one") from error
