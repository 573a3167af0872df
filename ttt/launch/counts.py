"""Parameters and FLOPs of models, counted once and remembered, so that planning a sweep again needs no torch."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from platformdirs import user_cache_path

import ttt
from ttt.config.errors import UserError
from ttt.config.schema import TrainConfig
from ttt.results.atomic import write_text

COUNTING = ("backbones", "config", "inner", "layers", "models")
"""Packages of ``ttt`` whose source decides what is counted."""

log = logging.getLogger(__name__)


class ModelCount(NamedTuple):
    """The size of a model.

    Attributes:
        parameters: of the model.
        flops: of training on one sequence of the configuration's context, without recomputation.
    """

    parameters: int
    flops: float


def model_counts(configs: Sequence[TrainConfig]) -> list[ModelCount]:
    """Return the parameters and FLOPs of the model of each configuration, in the order of ``configs``.

    Equal models are counted once. Counts are remembered in the user's cache until the source that counts them changes;
    a cache that cannot be read or written is done without.

    Raises:
        UserError: a model that cannot be built.
    """
    path, source = remembered_path(), source_digest()
    counts = _read(path, source)
    keys = [_key(config) for config in configs]
    missing = {key: config for key, config in zip(keys, configs, strict=True) if key not in counts}
    if missing:
        counts |= _counted(missing)
        try:
            write_text(path, json.dumps({"source": source, "counts": counts}) + "\n")
        except UserError as error:
            log.info("counts of models cannot be remembered: %s", error)
    return [ModelCount(*counts[key]) for key in keys]


def remembered_path() -> Path:
    """Return the file of the remembered counts."""
    return user_cache_path("ttt-suite") / "counts.json"


def source_digest() -> str:
    """Return a hash of the source that decides what is counted, files of added layers included."""
    folders = [Path(folder) / package for folder in ttt.__path__ for package in COUNTING]
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _model(config: TrainConfig) -> tuple[Any, ...]:
    return config.model, config.size, config.backbone, config.data.vocab_size


def _key(config: TrainConfig) -> str:
    return repr((*_model(config), config.ctx.length))


def _counted(configs: dict[str, TrainConfig]) -> dict[str, ModelCount]:
    # Importing torch takes more than a second.
    from ttt.models.count import Counted, counted_model

    models: dict[str, Counted] = {}
    counts = {}
    for key, config in configs.items():
        # Built once for all contexts: it takes time even without drawing initial values.
        shape = repr(_model(config))
        if shape not in models:
            models[shape] = counted_model(config)
        length = config.ctx.length
        counts[key] = ModelCount(models[shape].parameters, models[shape].flops(length, length))
    return counts


def _read(path: Path, source: str) -> dict[str, ModelCount]:
    """Return the counts in a file, empty if it is missing, broken or of another source."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        counts = content["counts"] if content["source"] == source else {}
        return {key: ModelCount(*count) for key, count in counts.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
