"""``from=FOLDER``: the settings that a run inherits from the run whose weights it starts from."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

from ttt.cli.added import source_schemas
from ttt.cli.compose import compose, quote_option
from ttt.config.schema import Resolved
from ttt.results.origin import data_from_here
from ttt.results.record import RunFolder, read_record

INHERITED = ("model", "size", "backbone", "data", "ctx")
"""Groups that a run inherits unless the command line chooses an option."""


def like_its_parent(composed: DictConfig, overrides: list[str]) -> DictConfig:
    """Return the configuration, composed again on top of that of its parent, if any.

    Raises:
        UserError: the parent's folder contains no run.
    """
    if composed.parent.run is None:
        return composed
    record = read_record(RunFolder(Path(composed.parent.run)).record)
    parent = record["config"] | {"data": data_from_here(record)}
    chosen = {override.lstrip("+").partition("=")[0] for override in overrides}
    return compose("train", [*inherited(parent, chosen), *overrides])


def inherited(parent: Resolved, chosen: Collection[str]) -> list[str]:
    """Return overrides with the parent's values of every group of ``INHERITED`` that is not ``chosen``."""
    rates = parent["size"]["learning_rate"]
    if isinstance(rates, dict):  # a run of an earlier version has a rate for each backbone
        parent = parent | {"size": parent["size"] | {"learning_rate": rates[parent["backbone"]["name"]]}}
    groups = [group for group in INHERITED if group not in chosen]
    # The schema of ``model`` depends on its name and that of ``data`` on its source; other groups have only one.
    options = [quote_option(f"model={parent['model']['name']}")] if "model" in groups else []
    if "data" in groups and parent["data"]["source"] in source_schemas():
        options.append(quote_option(f"data={parent['data']['source']}"))
    return [*options, *(override for group in groups for override in _leaves(parent[group], group))]


def _leaves(node: Resolved, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}.{key}")
        else:
            yield f"++{prefix}.{key}={_text(value)}"


def _text(value: Any) -> str:
    """Return a value in Hydra's syntax."""
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value)
