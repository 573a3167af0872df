"""The files of a figure: PNG and PDF of the drawing, CSV of its numbers."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ttt.analysis.comparison import RunRole
from ttt.analysis.labels import EVERYWHERE
from ttt.analysis.left_out import left_out_in_short
from ttt.analysis.names import everywhere, everywhere_sentence
from ttt.results.atomic import write_bytes

from .panels import caption, fit_texts
from .registry import Figure
from .style import paper_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

NO_METADATA = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}
"""Removes the dates and versions that matplotlib would write, so that equal numbers give equal bytes."""


def save(figure: Figure, table: DataFrame, folder: Path, note: str = "") -> list[Path]:
    """Draw ``figure`` from ``table`` and write ``folder``/id.png, .pdf and .csv, once all three are ready.

    Equal tables and notes give equal bytes. ``note`` is a further sentence of the caption.

    Raises:
        UserError: a file cannot be written.
    """
    contents = drawn(figure, table, note=note)
    paths = [folder / f"{figure.id}.{kind}" for kind in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_bytes(path, content)
    return paths


def stopped_note(results: Results, table: DataFrame) -> str:
    """Return the sentences of a caption about runs of a figure's table that were trained less than planned, if any."""
    rows = table[table["role"] == RunRole.DRAWN] if RunRole.DRAWN in set(table.get("role", ())) else table
    return results.describe_stopped(rows.get("run_id", ()))


def runs_note(results: Results, table: DataFrame) -> str:
    """Return the sentences of a caption about shared changes, and runs that are left out or were trained less."""
    changed = table["changed"].astype("string").fillna("") if "changed" in table else None
    shared = changed is not None and changed.str.startswith(EVERYWHERE).any()
    note = everywhere_sentence(everywhere(results, set(table["run_id"]))) if shared else ""
    return " ".join(filter(None, [note, left_out_in_short(results, table), stopped_note(results, table)]))


def drawn(figure: Figure, table: DataFrame, kinds: Iterable[str] = NO_METADATA, note: str = "") -> dict[str, bytes]:
    """Return the contents of a figure's files: kind -> bytes, for each of ``kinds`` and ``csv``."""
    contents = {}
    with paper_style():
        canvas = figure.draw(table)
        fit_texts(canvas)
        if note:
            caption(canvas, *canvas.get_supxlabel().split("\n"), note)
        for kind in kinds:
            contents[kind] = rendered(canvas, kind)
            # The first drawing has computed the layout, which takes as long as drawing.
            canvas.set_layout_engine("none")
    contents["csv"] = table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()
    return contents


def rendered(canvas: Canvas, kind: str) -> bytes:
    """Return the bytes of a ``png`` or ``pdf``; equal drawings give equal bytes."""
    buffer = BytesIO()
    canvas.savefig(buffer, format=kind, metadata=NO_METADATA[kind])
    return buffer.getvalue()
