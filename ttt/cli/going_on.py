"""``ttt-train run=FOLDER`` of a folder that holds a run: go on with that run's own configuration."""

from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from ttt.cli.added import added_layers, source_schemas
from ttt.config.errors import UserError, bad_value
from ttt.config.identity import identity
from ttt.config.layers import MODELS
from ttt.config.plain import from_plain
from ttt.config.schema import DataConfig, LayerConfig, TrainConfig
from ttt.results.checkpoints import checkpoints
from ttt.results.origin import data_from_here
from ttt.results.record import Record, RunFolder, read_record

OF_THE_COMMAND = ("run", "runs", "ckpt", "overwrite", "plan", "hydra")
"""Keys and groups of a command line that are not part of a run's configuration."""

MAY_CHANGE = ("trainer", "kernel", "data.cache_dir", "data.workers")
"""Keys, and groups, that may differ from the run's: they decide where and how it is computed."""


def going_on(config: TrainConfig, overrides: list[str]) -> tuple[TrainConfig, list[str]]:
    """Return the configuration of the run in ``run=`` and its overrides, for the record, if it is to go on.

    Both are returned as they are if the folder has no run, or if the command line has the whole configuration.

    Args:
        config: as composed from the command line.
        overrides: of the command line.

    Raises:
        UserError: an override that would change what the run learns, a run whose weights were removed, or one whose
            relative paths start elsewhere.
    """
    if config.run is None or config.parent.run is not None or not RunFolder(Path(config.run)).record.is_file():
        return config, overrides
    folder = RunFolder(Path(config.run))
    record = read_record(folder.record)
    own = _own(record)
    typed = [override for override in overrides if not _among(override, (*OF_THE_COMMAND, *MAY_CHANGE))]
    if typed and (config.overwrite or _learned(config) == _learned(own)):
        return config, overrides
    for override in typed:
        _check_agrees(override, config, own)
    _check_can_go_on(folder, record, config)
    changes = [override for override in overrides if _among(override, MAY_CHANGE)]
    own = replace(own, run=config.run, runs=config.runs, overwrite=config.overwrite)
    own.ckpt = None if config.overwrite else "last"
    # trainer.max_steps of an earlier command has ended there; the run goes on to its planned end.
    own.trainer = replace(own.trainer, max_steps=None)
    for change in changes:
        _take(_key(change), config, own)
    return own, [*dict.fromkeys([*record["overrides"], *changes])]


def _own(record: Record) -> TrainConfig:
    """Return the configuration in a record."""
    model, source = record["config"]["model"]["name"], record["config"]["data"].get("source", "")
    layer = MODELS.get(model) or (added_layers()[model].schema if model in added_layers() else LayerConfig)
    return from_plain(record["config"], layer, source_schemas().get(source, DataConfig))


def _learned(config: TrainConfig) -> dict[str, Any]:
    return {key: value for key, value in identity(config).items() if key != "kernel"}


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _among(override: str, keys: tuple[str, ...]) -> bool:
    key = _key(override)
    return any(key == one or key.startswith(f"{one}.") for one in keys)


def _value(config: TrainConfig, key: str) -> Any:
    """Return the value of a dotted key; of a group, the name of its option."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return getattr(value, "name", value)


def _check_agrees(override: str, config: TrainConfig, own: TrainConfig) -> None:
    key = _key(override)
    mine = _value(own, key)
    if mine is None or mine != _value(config, key):
        has = f" ({key}={mine})" if mine is not None else ""
        keeps = f"run={config.run} goes on with its own configuration{has}, and only trainer.* and kernel may change"
        raise UserError(f"{override}: {keeps}; leave it out, or choose another folder")


def _check_can_go_on(folder: RunFolder, record: Record, config: TrainConfig) -> None:
    whole = record["status"] == "finished" and record["steps"] >= record["steps_planned"]
    if not (whole or config.overwrite or record["steps"] == 0 or checkpoints(folder.checkpoints)):
        done = f"has done {record['steps']} steps and has no checkpoint to go on from"
        raise bad_value("run", config.run, f"{done}; overwrite=true trains it again")
    if data_from_here(record) != record["config"]["data"] and not whole:
        start = record.get("started_in")
        raise bad_value("run", config.run, f"its relative paths start from {start}; start the command there")


def _take(key: str, source: TrainConfig, target: TrainConfig) -> None:
    """Set a dotted key, or a whole group, of ``target`` to its value in ``source``."""
    *groups, name = key.split(".")
    here, there = (reduce(getattr, groups, config) for config in (source, target))
    setattr(there, name, getattr(here, name))
