"""Histogram of the document lengths of a corpus, the picture of ``ttt-data inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ttt.results.atomic import write_bytes

from .files import rendered
from .style import paper_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"train": "#0072B2", "validation": "#D55E00", "test": "#009E73"}
DASHES = {"train": "-", "validation": "--", "test": ":"}


def save_lengths(name: str, lengths: dict[str, np.ndarray], path: Path) -> None:
    """Write a PNG: the number of documents by length, and the share of tokens in documents of at least a length.

    Args:
        name: the name of the data.
        lengths: tokens of each document, int64 [documents], of each split; at least one has documents.
        path: the file to write.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure as Canvas

    present = {split: values for split, values in lengths.items() if len(values)}
    every = np.concatenate([*present.values()])
    powers = np.arange(int(np.log2(every.min())), int(np.log2(every.max())) + 2)
    with paper_style():
        canvas = Canvas(figsize=(6.6, 2.6), layout="constrained")
        by_length, by_share = canvas.subplots(1, 2)
        for split, values in present.items():
            label = f"{split} ({len(values):,} documents)"
            style = {"color": COLOURS[split], "linestyle": DASHES[split], "label": label}
            by_length.stairs(np.histogram(values, 2.0**powers)[0], 2.0**powers, **style)
            by_share.plot(2.0**powers, [values[values >= 2**power].sum() / values.sum() for power in powers], **style)
        by_length.set_yscale("log")
        _label(by_length, "Length of the document (tokens)", "Documents")
        _label(by_share, "Length (tokens)", "Share of tokens in documents\nof at least this length")
        by_length.set_ylim(bottom=0.7)
        canvas.legend(*by_share.get_legend_handles_labels(), loc="outside lower center", ncols=len(present))
        canvas.suptitle(name, fontsize=8)
        picture = rendered(canvas, "png")
    write_bytes(path, picture)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
