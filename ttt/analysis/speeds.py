"""The speed of earlier runs, to predict the time of a new one of the same shape on the same device."""

from pathlib import Path
from statistics import median
from typing import NamedTuple

from ttt.analysis.listing import run_folders
from ttt.config.errors import UserError
from ttt.config.plain import to_plain
from ttt.config.schema import Resolved, TrainConfig
from ttt.results.record import Record, RunFolder, read_record

LEAST_STEPS = 10
"""Steps below which the start-up counts too much in a run's speed."""

OF_THE_SHAPE = {
    "size": ("width", "blocks", "heads", "mlp_hidden"),
    "ctx": ("length",),
    "backbone": ("name",),
    "kernel": ("name",),
    "data": ("vocab_size",),
    "trainer": ("devices", "nodes", "precision", "threads"),
}
"""Group -> the keys, besides all of ``model``, on which the time of a token depends."""


class EarlierSpeed(NamedTuple):
    """Tokens per second of training: the median of a number of runs."""

    tokens_per_second: float
    runs: int


def earlier_speed(config: TrainConfig, records: list[Record], device: str) -> EarlierSpeed | None:
    """Return the speed of the runs that have the configuration's shape and were trained on ``device``, if any.

    Args:
        config: the configuration to predict.
        records: the earlier runs' records.
        device: as in a record, such as ``cpu: x86_64``.
    """
    shape = _shape(to_plain(config))
    speeds = [
        speed
        for record in records
        if record["steps"] >= LEAST_STEPS and record["device"].get("name") == device
        if (speed := record["timing"].get("tokens_per_second")) and _shape(record["config"]) == shape
    ]
    return EarlierSpeed(median(speeds), len(speeds)) if speeds else None


def readable_records(folder: Path) -> list[Record]:
    """Return the records of the runs below a folder; those that cannot be read are left out."""
    records = []
    for path in run_folders(folder) if folder.is_dir() else ():
        try:
            records.append(read_record(RunFolder(path).record))
        except UserError:
            continue
    return records


def _shape(plain: Resolved) -> Resolved:
    shape = {group: {key: plain.get(group, {}).get(key) for key in keys} for group, keys in OF_THE_SHAPE.items()}
    return {"model": plain.get("model"), **shape}
