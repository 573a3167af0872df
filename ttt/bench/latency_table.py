"""What ``ttt-bench latency`` prints: a line for each time."""

from collections.abc import Callable

from ttt.bench.columns import Column
from ttt.bench.table import Line
from ttt.results.benchmarks import Row

LINES = {
    "train": "forward + backward",
    "prefill": "prefill",
    "decode": "one more token",
    "inner_train": "kernels, both passes",
    "inner_forward": "kernel, forward",
    "inner_decode": "kernel, one token",
}
"""Measures of times, and the name that each has in the table."""

NOTES = """\
backbone: mamba is (M), transformer is (T), own is Mamba's; B: sequences at once
ms: median over rounds after one that does not count, and quartiles; in every round all models and forms take turns
one more token: read alone, after as many as stand under tokens; its ms are of one token of each sequence
ms/token: ms over the tokens of all sequences that are read in them
peak: the most memory beyond inputs and parameters; on a CPU resident memory, in a process of its own
GB/s: counted bytes of device memory over the time; of bound %: the time that the device's datasheet allows for what
  was counted, over the measured time. `ttt-bench kernels` shows the counts."""


def _text(suffix: str, text: Callable[[float], str]) -> Callable[[Line], str]:
    def cell(line: Line) -> str:
        row = line.derived(suffix)
        return text(row["value"]) if row else ""

    return cell


def _group(row: Row) -> str:
    return "" if row["checkpoint_group"] is None else str(row["checkpoint_group"])


COLUMNS: tuple[Column[Line], ...] = (
    Column("model", 12, lambda line: line.time["model"], left=True),
    Column("backbone", 11, lambda line: line.time["backbone"] or "", left=True),
    Column("tokens", 6, lambda line: str(line.time["tokens"])),
    Column("B", 4, lambda line: str(line.time["batch"])),
    Column("b", 4, lambda line: str(line.time["mini_batch_size"] or "")),
    Column("form", 6, lambda line: line.time["form"] or "", left=True),
    Column("group", 5, lambda line: _group(line.time)),
    Column("what", 20, lambda line: LINES[line.measure], left=True),
    Column("ms", 11, lambda line: f"{1e3 * line.time['value']:.3f}"),
    Column("quartiles", 21, lambda line: f"{1e3 * line.time['low']:.3f}-{1e3 * line.time['high']:.3f}"),
    Column("ms/token", 8, _text("_tokens_per_second", lambda value: f"{1e3 / value:.4f}")),
    Column("tokens/s", 11, _text("_tokens_per_second", lambda value: f"{value:,.0f}")),
    Column("peak MiB", 8, _text("_memory", lambda value: f"{value / 2**20:,.0f}")),
    Column("GB/s", 6, _text("_bandwidth", lambda value: f"{value / 1e9:,.0f}")),
    Column("of bound %", 10, _text("_of_bound", lambda value: f"{100 * value:.1f}")),
)
