"""The tables that ``ttt-bench`` prints: one line per time, under headings with units."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ttt.bench.timing import LEAST_SECONDS, MATMUL_SIZE
from ttt.config.text_table import Column, print_line, shortened
from ttt.results.benchmarks import Row

LINES = {
    "forward": "forward",
    "forward_backward": "forward + backward",
    "total": "dual form, W and z",
    "W": "dual form, W",
    "z": "dual form, z",
    "train": "forward + backward",
    "prefill": "prefill",
    "decode": "one more token",
    "inner_train": "kernels, both passes",
    "inner_forward": "kernel, forward",
    "inner_decode": "kernel, one token",
}
"""Measures of times, and their names in the table."""


class Line(NamedTuple):
    """One time, and all rows of its measurement by measure."""

    measure: str
    rows: dict[str, Row]

    @property
    def time(self) -> Row:
        """The row of the time."""
        return self.rows[self.measure]


Columns = tuple[Column[Line], ...]


class Table(NamedTuple):
    """Columns of a table within 80 characters, all columns, and the notes below it."""

    narrow: Columns
    wide: Columns
    notes: str

    def columns(self, wide: bool) -> Columns:
        """Return the columns that are printed."""
        return self.wide if wide else self.narrow


def print_rows(columns: Columns, rows: Iterable[Row]) -> None:
    """Print a line for each time among the rows of a measurement."""
    by_measure = {row["measure"]: row for row in rows}
    for measure in by_measure:
        if measure in LINES:
            print_line(columns, Line(measure, by_measure))


def _shared(key: str) -> Callable[[Line], str]:
    def cell(line: Line) -> str:
        value = line.time[key]  # type: ignore[literal-required]
        return "" if value is None else str(value)

    return cell


def _derived(suffix: str, text: Callable[[Row], str]) -> Callable[[Line], str]:
    def cell(line: Line) -> str:
        row = line.rows.get(line.measure + suffix)
        return text(row) if row else ""

    return cell


def _quartiles(row: Row, scale: float, digits: int) -> str:
    return f"{scale * row['low']:.{digits}f}-{scale * row['high']:.{digits}f}"


def _per_thousand(line: Line) -> str:
    read = 1 if line.measure == "decode" else line.time["tokens"]
    return f"{1e6 * line.time['value'] / (line.time['batch'] * read):,.1f}"


def _peak(line: Line) -> str:
    row = line.rows.get("peak_memory") or line.rows.get(f"{line.measure}_memory")
    return f"{row['value'] / 2**20:,.0f}" if row else ""


def _identity(backbone: bool, width: int) -> Columns:
    """Return the columns that identify a line: model, sizes, kernel, and the name of the time."""
    return (
        Column("model", 16, _shared("model"), left=True),
        *((Column("backbone", 11, _shared("backbone"), left=True),) if backbone else ()),
        Column("tokens", 6, _shared("tokens")),
        *((Column("B", 4, _shared("batch")),) if backbone else ()),
        Column("b", 4, _shared("mini_batch_size")),
        Column("kernel", 6, _shared("form"), left=True),
        Column("group", 5, _shared("checkpoint_group")),
        Column("what", width, lambda line: LINES[line.measure], left=True),
    )


def _cut(column: Column[Line], width: int) -> Column[Line]:
    """Return a column of another width, whose longer cells lose their middles."""
    return column._replace(width=width, cell=lambda line: shortened(column.cell(line), width))


def _kernel(line: Line) -> str:
    form, group = line.time["form"] or "", line.time["checkpoint_group"]
    return form if group is None else f"{form}/{group}"


def _narrow(backbone: bool) -> Columns:
    """Return the first columns of a table of 80 characters: the same as ``_identity``, closer together."""
    columns = {column.heading: column for column in _identity(backbone, 16)}
    model, tokens, what = columns["model"], columns["tokens"], _cut(columns["what"], 16)
    kernel = Column[Line]("kernel", 9, lambda line: shortened(_kernel(line), 9), left=True)
    if backbone:
        return (_cut(model, 11), _cut(columns["backbone"], 11), tokens, columns["B"]._replace(width=3), kernel, what)
    return (_cut(model, 11), tokens, columns["b"], kernel, what)


KERNELS = Table(
    (
        *_narrow(backbone=False),
        Column("ms", 9, lambda line: f"{1e3 * line.time['value']:.2f}"),
        Column("x plain", 7, _derived("_speedup", lambda row: f"{row['value']:.2f}")),
        Column("peak MiB", 8, _peak),
    ),
    (
        *_identity(backbone=False, width=18),
        Column("ms", 9, lambda line: f"{1e3 * line.time['value']:.2f}"),
        Column("quartiles", 17, lambda line: _quartiles(line.time, 1e3, 2)),
        Column("ms/1k tokens", 12, _per_thousand),
        Column("tokens/s", 9, _derived("_tokens_per_second", lambda row: f"{row['value']:,.0f}")),
        Column("x plain", 7, _derived("_speedup", lambda row: f"{row['value']:.2f}")),
        Column("quartiles", 11, _derived("_speedup", lambda row: _quartiles(row, 1, 2))),
        Column("of mm %", 7, _derived("_share", lambda row: f"{100 * row['value']:.1f}")),
        Column("peak MiB", 8, _peak),
    ),
    f"""\
kernel: with its checkpoint_group, if it has one; --wide shows all columns
ms, x plain: medians over rounds, and quartiles; in every round all kernels
  take turns, and a run shorter than {LEAST_SECONDS} s is repeated and its least time used
x plain: speedup over the plain kernel, taken within each round
of mm %: the dual form's matrix products at the speed of torch.mm
  ({MATMUL_SIZE} x {MATMUL_SIZE}), as a share of ms
peak: the most memory of a forward and backward pass beyond its inputs and
  parameters
one more token: decoded after a prompt of as many tokens as the column tokens
  shows""",
)

LATENCY = Table(
    (
        *_narrow(backbone=True),
        Column("ms", 9, lambda line: f"{1e3 * line.time['value']:.3f}"),
        Column("ms/token", 8, _derived("_tokens_per_second", lambda row: f"{1e3 / row['value']:.4f}")),
    ),
    (
        *_identity(backbone=True, width=20),
        Column("ms", 11, lambda line: f"{1e3 * line.time['value']:.3f}"),
        Column("quartiles", 21, lambda line: _quartiles(line.time, 1e3, 3)),
        Column("ms/token", 8, _derived("_tokens_per_second", lambda row: f"{1e3 / row['value']:.4f}")),
        Column("tokens/s", 11, _derived("_tokens_per_second", lambda row: f"{row['value']:,.0f}")),
        Column("peak MiB", 8, _peak),
        Column("GB/s", 6, _derived("_bandwidth", lambda row: f"{row['value'] / 1e9:,.0f}")),
        Column("of bound %", 10, _derived("_of_bound", lambda row: f"{100 * row['value']:.1f}")),
    ),
    """\
backbone: mamba is (M), transformer is (T), own is Mamba's; B: sequences in a
  batch
kernel: with its checkpoint_group, if it has one; --wide shows all columns
ms: median over rounds after a warm-up, and quartiles; in every round all models
  and kernels take turns; times that stand out (quartiles far apart, or longer
  than at the neighbouring contexts) are measured again at the end, and the
  shorter median counts
one more token: decoded after a prompt of as many tokens as the column tokens
  shows; ms per token of each sequence
ms/token: ms divided by the tokens of all sequences that are read
peak: the most memory beyond inputs and parameters; on a CPU resident memory, in
  a separate process
GB/s: counted bytes of device memory divided by the time; of bound %: the least
  time by the GPU's data sheet divided by the measured time. `ttt-bench kernels`
  shows the counts.""",
)
