"""``ttt-plot``: draw the paper's figures from the folders of runs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ttt.cli.errors import exit_with_one_line
from ttt.config.errors import UserError, bad_value
from ttt.plots.registry import Figure, figures

if TYPE_CHECKING:
    from ttt.results.store import Results


REPORT = "report"
"""Name of the HTML page with everything, used like the name of a figure."""


LISTING_END = """\
Draw one with `ttt-plot FIGURE`, or every figure that your runs allow with `ttt-plot --all`.
`ttt-plot report --out FILE.html` writes a page with all figures, the claims and the runs."""


def main(argv: list[str] | None = None) -> None:
    """Entry point of ``ttt-plot``; ``argv`` is the process's own by default."""
    arguments = parser().parse_args(argv)
    with exit_with_one_line():
        if arguments.figures == [REPORT]:
            _report(arguments.results, arguments.out or Path("figures/report.html"))
        elif arguments.all or arguments.figures:
            _draw(_chosen(arguments), arguments.results, arguments.out or Path("figures"), partly=arguments.all)
        else:
            print(_listing())


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments of ``ttt-plot``."""
    takes = argparse.ArgumentParser(
        prog="ttt-plot", description="Draw figures from runs as PNG, PDF and CSV. Without arguments: list the figures."
    )
    takes.add_argument(
        "figures", nargs="*", metavar="FIGURE", help="figures to draw, by the names of the list, or report alone"
    )
    takes.add_argument("--all", action="store_true", help="draw every figure that the runs allow, name the others")
    takes.add_argument("--results", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (%(default)s)")
    takes.add_argument("--out", type=Path, metavar="DIR", help="where to write (figures); for report FILE.html")
    return takes


def _listing() -> str:
    entries = [
        f"{figure.id}: {figure.title}\n  paper: {figure.paper}\n  needs: {figure.needs}\n  from:  {figure.give}\n"
        for figure in figures().values()
    ]
    return "\n".join([*entries, LISTING_END])


def _chosen(arguments: argparse.Namespace) -> list[Figure]:
    known = figures()
    for name in arguments.figures:
        if name not in known:
            raise UserError(f"{name}: no such figure; choose from {', '.join(known)}")
    return [known[name] for name in (known if arguments.all else arguments.figures)]


def _draw(chosen: list[Figure], folder: Path, out: Path, partly: bool) -> None:
    """Write the chosen figures; with ``partly``, only those for which ``folder`` has runs, at least one."""
    results = _load(folder, chosen)
    # Imported here: the imports take seconds, and the list and usage errors do not need them.
    from ttt.plots.files import save

    tables = {figure: figure.table(results) for figure in chosen}
    lacking = [figure for figure in chosen if tables[figure].empty]
    if lacking and (not partly or lacking == chosen):
        found = f"none of its {len(results.runs)} runs is suitable" if len(results.runs) else "no runs in it"
        raise UserError(f"--results {folder}: {found}; {_how_to_get(lacking)}")
    for figure in chosen:
        if figure not in lacking:
            print("\n".join(str(path) for path in save(figure, tables[figure], out)))
    for figure in lacking:
        print(f"not drawn: {_how_to_get([figure])}")


def _report(folder: Path, out: Path) -> None:
    if out.suffix != ".html":
        raise bad_value("--out", out, "must end in .html for the report")
    chosen = list(figures().values())
    results = _load(folder, chosen)
    if results.runs.empty and results.benchmarks.empty:
        raise UserError(f"--results {folder}: no runs in it; {_how_to_get(chosen[:1])}")
    from ttt.plots.report import report
    from ttt.results.atomic import write_text

    write_text(out, report(results, chosen))
    print(out)


def _load(folder: Path, chosen: list[Figure]) -> "Results":
    if not folder.is_dir():
        raise UserError(f"--results {folder}: no such folder; {_how_to_get(chosen)}")
    from ttt.results.store import load_results

    results = load_results(folder)
    for left_out, counted in results.left_out.items():
        print(f"left out: {left_out} is the same run as {counted}, which has at least as many steps", file=sys.stderr)
    return results


def _how_to_get(lacking: list[Figure]) -> str:
    return "; ".join(f"{figure.id} needs {figure.needs}: {figure.give}" for figure in lacking)


if __name__ == "__main__":
    main()
