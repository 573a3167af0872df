"""What a benchmark prints: a line for each time, under headings with units."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from ttt.bench import columns
from ttt.bench.columns import Column
from ttt.bench.timing import LEAST_SECONDS, MATMUL_SIZE
from ttt.config.bench import BenchConfig
from ttt.results.benchmarks import Row
from ttt.results.machine import Machine

LINES = {
    "forward": "forward",
    "forward_backward": "forward + backward",
    "W": "forward, for W",
    "z": "forward, for z",
    "decode": "one more token",
}
"""Measures that have a line of their own, in this order, and its name."""

NOTES = f"""\
ms, x plain: medians over rounds, and quartiles; in every round all forms take turns,
  and what takes less than {LEAST_SECONDS} s is repeated, of which the least counts
x plain: how many times as fast as the plain form, taken within each round
of mm %: the dual form's matrix products, at the speed of torch.mm ({MATMUL_SIZE} x {MATMUL_SIZE}), as a share of ms
peak: the most memory of a forward and backward pass beyond its inputs and parameters
one more token: read alone, after as many as stand under tokens"""


class Line(NamedTuple):
    """One time, and all that is known of its form: rows by measure."""

    measure: str
    rows: dict[str, Row]

    @property
    def time(self) -> Row:
        """The time's own row."""
        return self.rows[self.measure]

    def derived(self, suffix: str) -> Row | None:
        """The row of what follows from the time."""
        return self.rows.get(self.measure + suffix)


def print_machine(machine: Machine, config: BenchConfig) -> None:
    """What the table was measured on."""
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    print(f"{machine['cpu']}, {machine['cores']} cores, {threads}, torch {torch.__version__}, {config.dtype}\n")


def print_headings() -> None:
    """The first line of the table."""
    columns.print_headings(COLUMNS)


def print_lines(rows: list[Row]) -> None:
    """The lines of every form that has rows here."""
    forms: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        if row["form"] is not None:
            identity = (row["model"], row["tokens"], row["mini_batch_size"], row["form"], row["checkpoint_group"])
            forms.setdefault(identity, {})[row["measure"]] = row
    for measures in forms.values():
        for measure in LINES:
            if measure in measures:
                columns.print_line(COLUMNS, Line(measure, measures))


def print_matmul(rates: list[float]) -> None:
    """The machine's speed in matrix products, FLOP/s, as it was in each setting."""
    low, high = (f"{rate / 1e9:.0f}" for rate in (min(rates), max(rates)))
    span = low if low == high else f"{low} to {high}"
    print(f"\ntorch.mm: {span} GFLOP/s\n{NOTES}")


def _setting(key: str) -> Callable[[Line], str]:
    def cell(line: Line) -> str:
        value = line.time[key]  # type: ignore[literal-required]
        return "" if value is None else str(value)

    return cell


def _derived(suffix: str, text: Callable[[Row], str]) -> Callable[[Line], str]:
    def cell(line: Line) -> str:
        row = line.derived(suffix)
        return text(row) if row else ""

    return cell


def _quartiles(row: Row, scale: float) -> str:
    return f"{scale * row['low']:.2f}-{scale * row['high']:.2f}"


def _per_thousand(line: Line) -> str:
    read = 1 if line.measure == "decode" else line.time["tokens"]
    return f"{1e6 * line.time['value'] / (line.time['batch'] * read):,.1f}"


def _peak(line: Line) -> str:
    row = line.rows.get("peak_memory") if line.measure == "forward_backward" else None
    return f"{row['value'] / 2**20:,.0f}" if row else ""


COLUMNS: tuple[Column[Line], ...] = (
    Column("model", 12, _setting("model"), left=True),
    Column("tokens", 6, _setting("tokens")),
    Column("b", 4, _setting("mini_batch_size")),
    Column("form", 6, _setting("form"), left=True),
    Column("group", 5, _setting("checkpoint_group")),
    Column("what", 18, lambda line: LINES[line.measure], left=True),
    Column("ms", 9, lambda line: f"{1e3 * line.time['value']:.2f}"),
    Column("quartiles", 17, lambda line: _quartiles(line.time, 1e3)),
    Column("ms/1k tokens", 12, _per_thousand),
    Column("tokens/s", 9, _derived("_tokens_per_second", lambda row: f"{row['value']:,.0f}")),
    Column("x plain", 7, _derived("_speedup", lambda row: f"{row['value']:.2f}")),
    Column("quartiles", 11, _derived("_speedup", lambda row: _quartiles(row, 1))),
    Column("of mm %", 7, _derived("_share", lambda row: f"{100 * row['value']:.1f}")),
    Column("peak MiB", 8, _peak),
)
