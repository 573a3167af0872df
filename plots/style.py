"""Labels, colours, line styles and markers of methods, and matplotlib's settings.

Colours are Okabe and Ito's with a grey, which colour-blind readers can distinguish; line styles and markers distinguish
the methods without colour. The backbone is in parentheses as in the paper: (M) Mamba, (T) Transformer.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

FINETUNED = "finetuned"
"""The variant of a method that starts from another run's weights, as ``ttt.results.comparison`` names it."""

Dashes = tuple[float, ...]
"""Lengths of strokes and gaps, in line widths; () is a solid line."""


@dataclass(frozen=True)
class Look:
    """A method's label in the legend and the style of its line."""

    label: str
    colour: str
    dashes: Dashes
    marker: str
    filled: bool = True

    @property
    def line(self) -> dict[str, Any]:
        """The style as arguments of ``Axes.plot``."""
        face = self.colour if self.filled else "white"
        linestyle = (0, self.dashes) if self.dashes else "-"
        return {"color": self.colour, "linestyle": linestyle, "marker": self.marker, "markerfacecolor": face}


PAPER: dict[tuple[str, str], Look] = {
    ("ttt_linear", "mamba"): Look("TTT-Linear (M)", "#0072B2", (), "o"),
    ("ttt_mlp", "mamba"): Look("TTT-MLP (M)", "#D55E00", (6, 1.5), "s"),
    ("ttt_linear", "transformer"): Look("TTT-Linear (T)", "#56B4E9", (), "o", filled=False),
    ("ttt_mlp", "transformer"): Look("TTT-MLP (T)", "#E69F00", (6, 1.5), "s", filled=False),
    ("linear_attention", "mamba"): Look("Linear attention (M)", "#999999", (3, 1, 1, 1, 1, 1), "v"),
    ("linear_attention", "transformer"): Look("Linear attention (T)", "#CC79A7", (3, 1, 1, 1, 1, 1), "v", filled=False),
    ("transformer", "transformer"): Look("Transformer", "#000000", (5, 1.5, 1, 1.5), "^"),
    ("mamba", "own"): Look("Mamba", "#009E73", (1, 1), "D"),
}
"""(model, backbone) -> style, in the order of the legend."""

FINETUNED_LOOKS: dict[tuple[str, str], Look] = {
    ("transformer", "transformer"): Look("TF finetune", "#882255", (2.5, 1), "^", filled=False),
}
"""Styles of the paper's methods that start from another run's weights."""

LABELS = [look.label for look in (*PAPER.values(), *FINETUNED_LOOKS.values())]
"""The paper's names of methods, in the legend's order."""

LETTERS = {"mamba": " (M)", "transformer": " (T)"}
"""Suffix for the backbone of a method that is not in the paper."""

OTHER_COLOURS = ("#7F4F24", "#5B4B8A", "#8A8D0F", "#A01A58", "#4A6572")
OTHER_DASHES: tuple[Dashes, ...] = ((), (4, 1.5), (1, 1), (4, 1.5, 1, 1.5), (8, 2))
OTHER_MARKERS = ("P", "X", "*", "p", "<", ">", "h")

RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.4,
    "lines.markeredgewidth": 0.9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,
}
"""matplotlib's settings on top of its own defaults. Conferences require font type 42."""


def look(model: str, backbone: str, variant: str = "") -> Look:
    """Return the style of a method: the paper's, or for another method or variant one derived from its name.

    ``variant`` is the text of ``Results.runs``: the settings in which runs of the same method differ.
    """
    if (model, backbone) in PAPER and not variant:
        return PAPER[model, backbone]
    if (model, backbone) in FINETUNED_LOOKS and variant == FINETUNED:
        return FINETUNED_LOOKS[model, backbone]
    label = PAPER[model, backbone].label if (model, backbone) in PAPER else model + LETTERS.get(backbone, "")
    label = f"{label}, {variant}" if variant else label
    number = zlib.crc32(label.encode())
    return Look(
        label,
        OTHER_COLOURS[number % len(OTHER_COLOURS)],
        OTHER_DASHES[(number >> 8) % len(OTHER_DASHES)],
        OTHER_MARKERS[(number >> 16) % len(OTHER_MARKERS)],
    )


def legend_order(model: str, backbone: str, variant: str) -> tuple[Any, ...]:
    """Return a sort key: the paper's methods first, in the order of ``PAPER``; variants by their numbers."""
    keys = list(PAPER)
    place = keys.index((model, backbone)) if (model, backbone) in PAPER else len(keys)
    numbers = [float(number) for number in re.findall(r"\d+\.?\d*(?:e-?\d+)?", variant)]
    return place, model, backbone, numbers, variant


@contextmanager
def paper_style() -> Iterator[None]:
    """Give matplotlib its defaults and ``RC`` inside the block, whatever the user's own settings."""
    import matplotlib.style

    with matplotlib.style.context(RC, after_reset=True):
        yield
