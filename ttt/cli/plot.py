"""``ttt-plot``: draw the paper's figures from folders of runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ttt.cli.arguments import Arguments, parse
from ttt.cli.errors import exit_with_one_line
from ttt.config.errors import UserError, bad_value, counted
from ttt.plots.registry import Figure, figures

if TYPE_CHECKING:
    from ttt.analysis.store import Results

REPORT = "report"
"""Name of the HTML page with all figures, given in place of a figure's name."""

HELP = """\
ttt-plot draws figures from runs as PNG, PDF and CSV. Without arguments it lists the figures, and for how many of your
runs each could be drawn.

usage: ttt-plot FIGURE ... [runs=FOLDER] [out=FOLDER] [--strict] [--stopped]
       ttt-plot [runs=FOLDER]
       ttt-plot --all [runs=FOLDER] [out=FOLDER] [--strict] [--stopped]
       ttt-plot report [runs=FOLDER] [out=FILE.html] [--strict] [--stopped]

  --all         draw every figure for which there are runs, and list the others
  runs=runs     folder of runs, at any depth
  out=figures   folder for the files; for report a file (figures/report.html)
  --strict      stop at the first unreadable file (default: report it and skip it)
  --stopped     count runs that trainer.max_steps has stopped early as if their
                schedules had ended there (default: figures of the paper and
                claims leave them out)
"""

LISTING_END = """\
Draw one with `ttt-plot FIGURE`, or every figure for which you have runs with `ttt-plot --all`.
`ttt-plot report out=FILE.html` writes a page with all figures, the claims and the runs."""


def main(argv: list[str] | None = None) -> None:
    """Run ``ttt-plot``; ``argv`` is ``sys.argv[1:]`` by default."""
    words = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(words):
        print(HELP)
        return
    with exit_with_one_line():
        arguments = arguments_of(words)
        everything = "--all" in arguments.flags
        runs, flags = Path(arguments.values.get("runs", "runs")), arguments.flags
        if everything and arguments.names:
            raise UserError(f"{arguments.names[0]}: name figures or write --all, not both")
        if arguments.names == [REPORT]:
            _report(runs, Path(arguments.values.get("out", "figures/report.html")), flags)
        elif everything or arguments.names:
            chosen = _chosen([] if everything else arguments.names)
            _draw(chosen, runs, Path(arguments.values.get("out", "figures")), partly=everything, flags=flags)
        else:
            # The list is there at once; reading many runs takes seconds.
            print(_listing(), flush=True)
            print(f"\n{_drawable(runs, flags)}")


def arguments_of(words: list[str]) -> Arguments:
    """Parse the command line.

    Raises:
        UserError: an unknown key or flag, or a former spelling.
    """
    return parse(words, {"runs": "FOLDER", "out": "FOLDER"}, ("--all", "--strict", "--stopped"))


def _listing() -> str:
    entries = [
        f"{figure.id}: {figure.title}\n  paper: {figure.paper}\n  needs: {figure.needs}\n  from:  {figure.give}\n"
        for figure in figures().values()
    ]
    return "\n".join([*entries, LISTING_END])


def _drawable(folder: Path, flags: set[str]) -> str:
    """Return one line per figure that the runs in ``folder`` give, with an example, and a line with the others."""
    if not any(next(folder.rglob(name), None) for name in ("record.json", "benchmark.json")):
        return f"There are no runs in {folder}."
    results, lines, lacking = _load(folder, [], flags), {}, []
    for figure in figures().values():
        table = figure.table(results)
        if table.empty:
            lacking.append(figure.id)
        elif "run_id" in table:
            runs = table["run_id"].unique()
            lines[figure.id] = f"{counted(len(runs), 'run')}, such as {runs[0]}"
        else:
            lines[figure.id] = f"{counted(table['benchmark_id'].nunique(), 'benchmark')} of ttt-bench"
    width = max(map(len, lines), default=0)
    rows = [f"  {name:<{width}}  {text}" for name, text in lines.items()]
    without = [f"No run is suitable for {', '.join(lacking)}."] if lacking else []
    return "\n".join([f"The {counted(len(results.runs), 'run')} in {folder} can be drawn in:", *rows, *without])


def _chosen(names: list[str]) -> list[Figure]:
    """Return the named figures, or all figures if ``names`` is empty."""
    known = figures()
    for name in names:
        if name not in known:
            raise UserError(f"{name}: no such figure; choose from {', '.join(known)}")
    return [known[name] for name in names or known]


def _draw(chosen: list[Figure], folder: Path, out: Path, partly: bool, flags: set[str]) -> None:
    """Write the chosen figures; with ``partly``, skip figures without runs, unless that leaves none."""
    results = _load(folder, chosen, flags)
    # Imported here: the imports take seconds, and the list and usage errors do not need them.
    from ttt.plots.files import save, stopped_note

    tables = {figure: figure.table(results) for figure in chosen}
    lacking = [figure for figure in chosen if tables[figure].empty]
    if lacking and (not partly or lacking == chosen):
        found = f"none of its {len(results.runs)} runs is suitable" if len(results.runs) else "no runs in it"
        raise UserError(f"runs={folder}: {found}; {_how_to_get(lacking)}")
    for figure in chosen:
        if figure not in lacking:
            print(
                "\n".join(
                    str(path) for path in save(figure, tables[figure], out, stopped_note(results, tables[figure]))
                )
            )
    for figure in lacking:
        print(f"not drawn: {_how_to_get([figure])}")


def _report(folder: Path, out: Path, flags: set[str]) -> None:
    if out.suffix != ".html":
        raise bad_value("out", out, "must end in .html for the report")
    chosen = list(figures().values())
    results = _load(folder, chosen, flags)
    if results.runs.empty and results.benchmarks.empty:
        raise UserError(f"runs={folder}: no runs in it; {_how_to_get(chosen[:1])}")
    from ttt.plots.report import report
    from ttt.results.atomic import write_text

    write_text(out, report(results, chosen))
    print(out)


def _load(folder: Path, chosen: list[Figure], flags: set[str]) -> "Results":
    if not folder.is_dir():
        raise UserError(f"runs={folder}: no such folder; {_how_to_get(chosen)}")
    from ttt.cli.results import read_results

    return read_results(folder, "--strict" in flags, "--stopped" in flags)


def _how_to_get(lacking: list[Figure]) -> str:
    return "; ".join(f"{figure.id} needs {figure.needs}: {figure.give}" for figure in lacking)


if __name__ == "__main__":
    main()
