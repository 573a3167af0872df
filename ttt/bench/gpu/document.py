"""The measured part of a document, written from saved tables."""

from collections.abc import Iterator
from pathlib import Path

from ttt.bench.gpu.tables import Line, columns_of, read_table
from ttt.bench.markers import Markers, write_between
from ttt.config.bench import STAGES
from ttt.config.errors import UserError, counted
from ttt.config.text_table import markdown_lines

MARKERS = Markers("<!-- ttt.bench.gpu: begin -->", "<!-- ttt.bench.gpu: end -->")
"""The lines between which the tables are written."""

TITLES = {
    "compare": "Against the definition in float64",
    "kernels": "Kernels by themselves, 2048 tokens, bf16, D = 64, b = 16",
    "mixers": "Whole mixers, 65,536 tokens of width 4096, bf16",
    "profile": "Nsight Compute",
    "sanitize": "compute-sanitizer",
    "train": "125M, bf16, 16 sequences of 2048 tokens a step",
    "latency": "1.3B",
}

NAMED = ("device", "driver_version", "torch", "triton", "CUDA of torch", "clocks.max.sm", "copy, GB/s")
"""Lines of the stage ``machine`` that the first paragraph names."""


def write_document(path: Path, folder: Path) -> None:
    """Write the tables of ``folder`` into a document.

    Raises:
        UserError: the folder has no table of a card, or the document cannot be read or lacks the markers.
    """
    facts = {line["what"]: line["value"] for line in read_table(folder, "machine")}
    if "device" not in facts:
        raise UserError(f"{folder}: has no table of a card; run python -m ttt.bench.gpu out={folder} on one first")
    named = ", ".join(f"{name} {facts[name]}" for name in NAMED[1:] if name in facts)
    lines = [f"Measured on one {facts['device']} ({named}).", *_tables(folder)]
    write_between(path, MARKERS, lines)
    tables = sum(1 for stage in TITLES if read_table(folder, stage))
    print(f"{path}: {counted(tables, 'table')} of {facts['device']}")


def _tables(folder: Path) -> Iterator[str]:
    outcomes = {line["stage"]: line["outcome"] for line in _outcomes(folder)}
    for stage in STAGES:
        lines = read_table(folder, stage)
        if stage not in TITLES or not lines:
            continue
        ended = outcomes.get(stage, "finished")
        note = "" if ended == "finished" else f" The stage {ended}, so lines are missing or marked."
        yield from ("", f"**{TITLES[stage]}.**{note}", "", *markdown_lines(columns_of(stage), lines))


def _outcomes(folder: Path) -> list[Line]:
    return read_table(folder, "stages")
