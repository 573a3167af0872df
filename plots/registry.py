"""The type of a figure, and the search for all figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttt.config.discover import modules_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results


@dataclass(frozen=True)
class Figure:
    """A figure: its number in the paper, the runs it needs, and the functions that draw it.

    Attributes:
        id: the name on the command line and of the files.
        title: its content, one line.
        paper: its number in the paper, or "not in the paper".
        needs: the runs or benchmarks it needs, one line.
        give: the command that produces them.
        table: returns the numbers of the figure with their run ids; no rows if no run has what it needs.
        draw: draws a table with at least one row. It runs inside ``style.paper_style``.
        asks: it draws runs on questions with answers (``data=mqar``), not on text.
    """

    id: str
    title: str
    paper: str
    needs: str
    give: str
    table: Callable[[Results], DataFrame]
    draw: Callable[[DataFrame], Canvas]
    asks: bool = False

    def of(self, results: Results) -> Results:
        """Return the results without the runs that this figure is not about."""
        from ttt.analysis.recall import on_text

        return results if self.asks else on_text(results)


def figures() -> dict[str, Figure]:
    """Return all figures by id: every ``Figure`` that a module of this folder defines."""
    values = [value for module in modules_of(__package__) for value in vars(module).values()]
    by_id = {value.id: value for value in values if isinstance(value, Figure)}
    return dict(sorted(by_id.items()))
