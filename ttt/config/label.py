"""The label of a run: its method, size and context, and its departures from the configurations in ``conf/``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from ttt.config.schema import Resolved

TRIED = {"model.rope_base"}
"""Settings of a layer for which the paper reports the best of several values."""


TRIED_IN_TEXT = {"model.eta_base", "model.eta_base_start"}
"""More such settings for rows of Table 1 in the form of the paper's text, which does not state their inner rate."""


class TableForm(StrEnum):
    """The forms of a row of Table 1.

    ``RELEASED``: as in ``conf/ablation/``, with the terms of the authors' code. ``PAPER``: the literal text of the
    paper, without these terms. ``SHORT_ROPE``: a control, with the period of RoPE that rows from 6 on have.
    """

    RELEASED = "released"
    PAPER = "paper"
    SHORT_ROPE = "short RoPE"


@dataclass(frozen=True)
class Label:
    """Names and departures that figures group runs by.

    Attributes:
        model: the layer.
        backbone: the backbone around it.
        size: name of the size.
        ctx: context length in tokens.
        departures: dotted key of ``model`` or ``size`` -> the run's value, where it differs from ``conf/``.
        row: number of the row of Table 1, if the run is one.
        form: the form of this row.
    """

    model: str
    backbone: str
    size: str
    ctx: int
    departures: dict[str, Any] = field(default_factory=dict)
    row: int | None = None
    form: TableForm | None = None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Label":
        """Return the label in a record; unknown keys are ignored."""
        known = {key: value for key, value in plain.items() if key in {entry.name for entry in fields(cls)}}
        form, departures = known.get("form"), dict(known.get("departures", {}))
        return cls(**known | {"departures": departures, "form": TableForm(form) if form else None})

    def to_plain(self) -> dict[str, Any]:
        """Return the label as a JSON object."""
        return asdict(self)

    def departures_of(self, group: str) -> set[str]:
        """Return the dotted keys of ``model`` or ``size`` that differ from ``conf/``."""
        return {key for key in self.departures if key.startswith(f"{group}.")}


def names_only(config: Resolved) -> Label:
    """Return a label with the names in a configuration and no departures."""
    return Label(
        config["model"]["name"], config["backbone"]["name"], config["size"]["name"], int(config["ctx"]["length"])
    )
