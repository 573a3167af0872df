"""The columns that identify a method, and the names of methods in figures and claims."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

COMPARED_AT = ["data", "size", "ctx"]
"""Columns of ``Results.runs`` that are equal for runs that a figure compares."""

METHOD = ["model", "backbone", "start"]
"""Columns of ``Results.runs`` that identify a method."""

METHOD_KEY = "method"
"""Key by which users name ``METHOD``."""

FINETUNED = "finetuned"
"""``start`` of a run that starts from another run's weights; otherwise ``start`` is empty."""

EVERYWHERE = "*"
"""Mark behind the name of a changed method whose changes all drawn runs share, so that the caption names them."""

LAYERS = {
    "ttt_linear": "TTT-Linear",
    "ttt_mlp": "TTT-MLP",
    "linear_attention": "Linear attention",
    "transformer": "Transformer",
    "mamba": "Mamba",
    "deltanet": "DeltaNet",
    "gated_deltanet": "Gated DeltaNet",
    "gla": "GLA",
    "mamba2": "Mamba-2",
}
OWN_BACKBONES = {
    "transformer": "transformer",
    "mamba": "own",
    "deltanet": "transformer",
    "gated_deltanet": "transformer",
    "gla": "transformer",
    "mamba2": "own",
}
"""Layer -> the backbone that its name does not mention."""

LETTERS = {"mamba": " (M)", "transformer": " (T)"}
"""Backbone -> the paper's letter for it."""


def method_label(model: str, backbone: str) -> str:
    """Return the paper's name of a method: ``TTT-Linear (M)``."""
    letter = "" if OWN_BACKBONES.get(model) == backbone else LETTERS.get(backbone, f" ({backbone})")
    return f"{LAYERS.get(model, model)}{letter}"


def describe_scope(rows: DataFrame) -> str:
    """Describe the data, sizes and contexts of rows: ``pycode w64 at 512, 2048; w128 at 512``, small sizes first."""
    cases = rows[COMPARED_AT].drop_duplicates().sort_values(COMPARED_AT)
    texts = []
    for data, of_data in cases.groupby("data"):
        sizes = of_data.groupby("size")["ctx"].agg(lambda contexts: ", ".join(map(str, contexts)))
        texts.append(f"{data} " + "; ".join(f"{size} at {sizes[size]}" for size in sorted(sizes.index, key=_by_number)))
    return ", ".join(texts)


def _by_number(size: str) -> tuple[str, float, str]:
    """Return a sort key of a size: w64 before w128, 760m before 1.3b."""
    found = re.fullmatch(r"([a-z_]*)(\d+(?:\.\d+)?)([mb]?)", size)
    if found is None:
        return size, 0.0, ""
    start, number, unit = found.groups()
    return start, float(number) * {"b": 1000}.get(unit, 1), size
