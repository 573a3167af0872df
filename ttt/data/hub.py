"""Data sets of the Hugging Face hub as streams, or a local copy of one."""

import logging
from collections.abc import Iterator
from typing import Any

from ttt.config.errors import RunError, bad_value
from ttt.config.schema import DataConfig
from ttt.data.local import Local, check_text
from ttt.data.sources import Document, Source, UnreachableError, first_line, register_source

SECONDS_TO_ANSWER = 10


@register_source("hub")
class Hub(Source):
    """The training split of ``data.hub`` at ``data.revision``; with ``data.path`` the files of a copy of it."""

    def versions(self, config: DataConfig) -> dict[str, str]:
        """The revision as configured, or what lies at ``data.path``.

        Raises:
            UserError: ``data.hub`` or the files are missing.
        """
        if config.path:
            return Local().versions(config)
        if not config.hub:
            raise bad_value("data.hub", config.hub, "give OWNER/NAME of a data set of the hub")
        return {config.hub: config.revision or "main"}

    def documents(self, config: DataConfig) -> Iterator[Document]:
        """Its rows, one by one.

        Raises:
            UserError: the hub cannot be reached, has no such data set, or its rows have no such column.
            RunError: the connection was lost on the way.
        """
        if config.path:
            yield from Local().documents(config)
            return
        for number, row in enumerate(_rows(config), start=1):
            yield Document(f"{config.hub}:{number}", check_text(row, config.column, f"{config.hub} row {number}"))

    def text_bytes(self, config: DataConfig) -> int | None:
        """Known of a plain local copy."""
        return Local().text_bytes(config) if config.path else None


def _rows(config: DataConfig) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset
    from huggingface_hub import HfApi

    # It would tell of every attempt on the error output, where one line is to say what to do.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    number = 0
    try:
        # Asked first because it answers at once; datasets tries for half a minute.
        HfApi().dataset_info(str(config.hub), revision=config.revision, timeout=SECONDS_TO_ANSWER)
        rows = load_dataset(config.hub, revision=config.revision, split="train", streaming=True)
        for row in rows:
            number += 1
            yield row
    except GeneratorExit:
        raise
    except Exception as error:
        # The hub's clients raise what the libraries below them raise.
        why = f"{type(error).__name__}: {first_line(error)}"
        if number:
            line = f"data.hub={config.hub}: broke off after row {number} ({why}); the same command goes on"
            raise RunError(line) from error
        offline = "a copy by data.path=FOLDER, data=local data.path=FOLDER for texts of your own, or data=pycode"
        line = f"data.hub={config.hub}: cannot be read ({why}); without network take {offline}"
        raise UnreachableError(line) from error
