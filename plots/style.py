"""Labels, colours, line styles and markers of methods, and matplotlib's settings.

Colours are Okabe and Ito's and a grey, which colour-blind readers can distinguish. Line styles and markers distinguish
the lines of a picture without colour. The backbone is in parentheses as in the paper: (M) Mamba, (T) Transformer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ttt.analysis.labels import EVERYWHERE, FINETUNED, method_label

Dashes = tuple[float, ...]
"""Lengths of strokes and gaps, in line widths; () is a solid line."""


@dataclass(frozen=True)
class LineStyle:
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


PAPER_STYLES: dict[tuple[str, str], tuple[str, Dashes, str, bool]] = {
    ("ttt_linear", "mamba"): ("#0072B2", (), "o", True),
    ("ttt_mlp", "mamba"): ("#D55E00", (6, 1.5), "s", True),
    ("ttt_linear", "transformer"): ("#56B4E9", (), "o", False),
    ("ttt_mlp", "transformer"): ("#E69F00", (6, 1.5), "s", False),
    ("linear_attention", "mamba"): ("#999999", (3, 1, 1, 1, 1, 1), "v", True),
    ("linear_attention", "transformer"): ("#CC79A7", (3, 1, 1, 1, 1, 1), "v", False),
    ("transformer", "transformer"): ("#000000", (5, 1.5, 1, 1.5), "^", True),
    ("mamba", "own"): ("#009E73", (1, 1), "D", True),
}
"""(model, backbone) -> colour, dashes, marker, filled."""

PAPER = {method: LineStyle(method_label(*method), *style) for method, style in PAPER_STYLES.items()}
"""(model, backbone) -> style of the paper's methods, in the order of the legend."""

LATER_STYLES: dict[tuple[str, str], tuple[str, Dashes, str, bool]] = {
    ("deltanet", "transformer"): ("#332288", (8, 2), "<", True),
    ("gated_deltanet", "transformer"): ("#AA4499", (8, 2), ">", False),
    ("gla", "transformer"): ("#999933", (4, 1.5), "P", True),
    ("mamba2", "own"): ("#661100", (1, 1), "X", True),
}
"""The same for shipped methods that the paper does not compare; the colours are Tol's."""

LATER = {method: LineStyle(method_label(*method), *style) for method, style in LATER_STYLES.items()}

FINETUNED_STYLES: dict[tuple[str, str], LineStyle] = {
    ("transformer", "transformer"): LineStyle("TF finetune", "#882255", (2.5, 1), "^", filled=False),
}
"""Styles of the paper's methods that start from another run's weights."""

LABELS = [style.label for style in (*PAPER.values(), *FINETUNED_STYLES.values(), *LATER.values())]
"""Names of methods in the order of the legend, the paper's first."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
"""Okabe and Ito's colours, and Tol's wine, for lines that are no method of the paper."""

MORE_COLOURS = ("#7F4F24", "#5B4B8A", "#8A8D0F", "#4A6572")
"""Colours that follow ``COLOURS`` where a picture has more lines."""

OTHER_DASHES: tuple[Dashes, ...] = ((), (4, 1.5), (1, 1), (4, 1.5, 1, 1.5), (8, 2))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h")
"""Dashes and markers of lines that are no method of the paper. Stars are numbers that the paper states."""

LIGHTEST = 0.85
"""Place of the lightest colour of graded lines in their map; beyond it yellow is hard to see on white."""

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


Method = tuple[str, str, str, str]
"""The columns model, backbone, start and changed of ``Results.runs``."""


def method_name(model: str, backbone: str, start: str = "", changed: str = "") -> str:
    """Return the name of a method in the legend: the paper's, with the texts of ``start`` and ``changed``.

    ``changed`` may begin with ``EVERYWHERE``, for settings that the caption names.
    """
    styles = FINETUNED_STYLES if start == FINETUNED else PAPER | LATER
    mark = EVERYWHERE if changed.startswith(EVERYWHERE) else ""
    changed = changed.removeprefix(mark).removeprefix(", ")
    if (model, backbone) in styles and not changed:
        return styles[model, backbone].label + mark
    return ", ".join(filter(None, [method_label(model, backbone) + mark, start, changed]))


def method_styles(methods: Iterable[Method]) -> dict[Method, LineStyle]:
    """Return the style of each method of a picture, no two alike, in the order of the legend."""
    ordered = sorted(set(methods), key=lambda method: legend_order(*method))
    names = [method_name(*method) for method in ordered]
    styles = styles_apart(names)
    return {method: styles[name] for method, name in zip(ordered, names, strict=True)}


def styles_apart(names: Sequence[str], graded: bool = False) -> dict[str, LineStyle]:
    """Return a style for each name, no two alike: the paper's for a method of the paper, otherwise the next free one.

    The methods of ``LATER`` keep their style too. No two lines have the same dashes and marker either, so that they can
    be told apart in grey. With ``graded``, the names are steps of a number, and their colours go from dark to light,
    also in grey.
    """
    import matplotlib
    import matplotlib.colors

    known = {style.label: style for style in (*PAPER.values(), *LATER.values(), *FINETUNED_STYLES.values())}
    paper = {name: replace(known[of], label=name) for name in names if (of := name.removesuffix(EVERYWHERE)) in known}
    taken = {look for style in paper.values() for look in (style.colour, style.marker)}
    colours = [colour for colour in (*COLOURS, *MORE_COLOURS) if colour not in taken]
    markers = [marker for marker in MARKERS if marker not in taken]
    if len(markers) % len(OTHER_DASHES) == 0:
        # Otherwise marker and dashes would come round together.
        markers.pop()
    shades = matplotlib.colormaps["viridis"]
    styles: dict[str, LineStyle] = {}
    for name in names:
        number = len(styles.keys() - paper.keys())
        dashes, marker = OTHER_DASHES[number % len(OTHER_DASHES)], markers[number % len(markers)]
        colour = colours[number % len(colours)]
        if graded:
            dashes, colour = (), matplotlib.colors.to_hex(shades(LIGHTEST * number / max(1, len(names) - 1)))
        styles[name] = paper[name] if name in paper else LineStyle(name, colour, dashes, marker)
    return styles


def legend_order(model: str, backbone: str, start: str, changed: str) -> tuple[Any, ...]:
    """Return a sort key: methods in the order of ``PAPER`` and ``LATER``, then others; changed settings by numbers."""
    keys = [*PAPER, *LATER]
    rank = keys.index((model, backbone)) if (model, backbone) in keys else len(keys)
    numbers = [float(number) for number in re.findall(r"\d+\.?\d*(?:e-?\d+)?", changed)]
    return rank, model, backbone, start, numbers, changed


@contextmanager
def paper_style() -> Iterator[None]:
    """Use matplotlib's defaults with ``RC`` inside the block, ignoring the user's settings."""
    import matplotlib.style

    with matplotlib.style.context(RC, after_reset=True):
        yield
