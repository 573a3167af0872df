"""What fits: the counted memory of a training step at several sizes and contexts, and the smallest GPU that has it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ttt.bench.markers import Markers, around, write_between
from ttt.config.bench import MemoryBenchConfig
from ttt.config.gpus import GIGA, USABLE
from ttt.config.schema import TrainConfig
from ttt.config.text_table import Column, markdown_lines, print_headings, print_line, wrapped
from ttt.models.step_memory import step_memory

MARKERS = Markers("<!-- ttt-bench memory: begin -->", "<!-- ttt-bench memory: end -->")
"""The lines of a Markdown file between which the tables are written."""

WITH_BLOCKS = "trainer.activation_checkpointing=blocks"

Place = tuple[str, str, str]
"""Size, model and context, by the names of their options."""

Needed = tuple[float, float]
"""Bytes of a step, without and with recomputed blocks."""


@dataclass(frozen=True)
class Line:
    """A model at a size: the bytes of a step by context."""

    size: str
    model: str
    needed: Mapping[str, Needed]


def bench_memory(config: MemoryBenchConfig, configs: Mapping[Place, TrainConfig]) -> None:
    """Print the memory of a step of one sequence, and the smallest GPU on which it fits.

    Args:
        config: the tables.
        configs: the run of every size, model and context.

    Raises:
        UserError: a model cannot be built, or the file of ``config.markdown`` cannot be written.
    """
    if config.markdown:
        around(Path(config.markdown), MARKERS)
    cards = sorted(config.gigabytes)
    tables = {
        _memory_title(config): _columns(config, lambda needed: f"{_gigabytes(needed[0])}/{_gigabytes(needed[1])}"),
        _card_title(cards): _columns(config, lambda needed: f"{_card(needed[0], cards)}/{_card(needed[1], cards)}"),
    }
    lines: list[Line] = []
    written: list[str] = []
    for number, (title, columns) in enumerate(tables.items()):
        print(wrapped(title), end="\n\n")
        print_headings(columns)
        for line in _counted(config, configs) if number == 0 else list(lines):
            print_line(columns, line)
            lines += [line] if number == 0 else []
        print()
        written += [title, "", *markdown_lines(columns, lines), ""]
    if config.markdown:
        write_between(Path(config.markdown), MARKERS, ["", *written])


def _memory_title(config: MemoryBenchConfig) -> str:
    return (
        f"GB of a training step of one sequence on a GPU, {config.precision}, vocabulary {config.vocab:,}, by count: "
        f"without / with {WITH_BLOCKS}"
    )


def _card_title(cards: list[int]) -> str:
    listed = ", ".join(map(str, cards))
    return (
        f"The smallest of {listed} GB in which it fits, a tenth left free: without / with {WITH_BLOCKS}; -: in none of "
        "them"
    )


def _counted(config: MemoryBenchConfig, configs: Mapping[Place, TrainConfig]) -> Iterator[Line]:
    for size in config.sizes:
        for model in config.models:
            yield Line(size, model, {ctx: _needed(configs[size, model, ctx], config) for ctx in config.contexts})


def _needed(config: TrainConfig, bench: MemoryBenchConfig) -> Needed:
    plain, blocks = (step_memory(config, 1, "cuda", bench.precision, recomputed).total for recomputed in (False, True))
    return plain, blocks


def _columns(config: MemoryBenchConfig, cell: Callable[[Needed], str]) -> tuple[Column[Line], ...]:
    def of_context(ctx: str) -> Column[Line]:
        return Column(ctx, 8, lambda line: cell(line.needed[ctx]))

    return (
        Column("size", 5, lambda line: line.size, left=True),
        Column("model", 16, lambda line: line.model, left=True),
        *map(of_context, config.contexts),
    )


def _gigabytes(size: float) -> str:
    return f"{size / GIGA:.0f}" if size >= 9.95 * GIGA else f"{size / GIGA:.1f}"


def _card(size: float, cards: list[int]) -> str:
    return next((str(card) for card in cards if size <= USABLE * card * GIGA), "-")
