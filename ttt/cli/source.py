"""The runs that a command line chooses: a folder of runs, named run folders, or those with some values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ttt.cli.arguments import Arguments
from ttt.config.system import with_home

if TYPE_CHECKING:
    from ttt.analysis.store import Results


@dataclass(frozen=True)
class Source:
    """The runs below ``folders`` with the values of ``select`` (``ttt.analysis.selection``), if there are any.

    ``stopped``: runs that ``trainer.max_steps`` has stopped early count as if their schedules had ended there.
    ``chosen``: the user has named run folders or values, so that a figure draws all of these runs where it can.
    """

    folders: list[Path]
    select: str
    strict: bool
    stopped: bool
    chosen: bool

    @classmethod
    def of(cls, arguments: Arguments, named: Sequence[str]) -> Source:
        """Return the runs of a command line; folders that it names stand in place of ``runs=``."""
        folders = [Path(with_home(name)) for name in named] or [Path(arguments.values.get("runs", "runs"))]
        select = arguments.values.get("select", "")
        strict, stopped = "--strict" in arguments.flags, "--stopped" in arguments.flags
        return cls(folders, select, strict, stopped, chosen=bool(named or select))

    @property
    def places(self) -> str:
        """The folders, for a message."""
        return ", ".join(map(str, self.folders))

    def read(self) -> Results:
        """Read the runs, and report on standard error which files and runs were left out.

        Raises:
            UserError: no such folder; a key or a value of ``select`` that no run has; if ``strict``, a file that cannot
                be read.
        """
        # Imported here: the imports take seconds, and help and usage errors do not need them.
        from ttt.analysis.selection import selected
        from ttt.cli.results import read_results

        results = read_results(self.folders, self.strict, self.stopped)
        return replace(selected(results, self.select) if self.select else results, chosen=self.chosen)
