"""``ttt-plot``: draw the paper's figures from folders of runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ttt.cli.answer import answer
from ttt.cli.arguments import Arguments, parse
from ttt.cli.compare import COMPARE, KEYS, TABLE, compare
from ttt.cli.source import Source
from ttt.cli.terminal import FIGURES, show
from ttt.config.errors import UserError, bad_value, counted
from ttt.config.text_table import WIDTH, shortened, wrapped, wrapped_command
from ttt.plots.registry import Figure, figures

if TYPE_CHECKING:
    from ttt.analysis.store import Results

REPORT = "report"
"""Name of the HTML page with all figures, given in place of a figure's name."""

TRAINING = "training"
"""The figure that takes ``smooth=``."""

HELP = """\
ttt-plot draws figures from runs as PNG, PDF and CSV. Without arguments it lists
the figures, and for how many of your runs each could be drawn.

usage: ttt-plot FIGURE ... [RUN ...] [runs=FOLDER] [select=KEY=VALUE]
                [out=FOLDER] [--strict] [--stopped]
       ttt-plot training [RUN ...] [smooth=SHARE]
       ttt-plot compare [RUN ...] [x=KEY] [y=VALUE] [lines=KEY,KEY] [z=KEY]
                [runs=FOLDER] [select=KEY=VALUE] [--table]
       ttt-plot [runs=FOLDER]
       ttt-plot --all [runs=FOLDER] [out=FOLDER] [--strict] [--stopped]
       ttt-plot report [runs=FOLDER] [out=FILE.html] [--strict] [--stopped]

compare draws any measured value of any runs. Without x= and lines= it chooses
the axes from what varies, and curves over two numbers have a heat map beside
them (compare_map).

  --all         draw every figure for which there are runs, and list the others
  RUN           folders of the runs to draw (default: all runs in runs=)
  runs=runs     folder of runs, at any depth
  select=       draw only runs with these values, such as
                select=data=pycode,size=w64,w128
                (any key of the configuration, sweep, data, model, seed, status)
  x=            key of the configuration, or a measured value such as flops,
                parameters or seconds; words become bars
  y=perplexity  measured value: loss, perplexity, bits_per_byte, accuracy,
                inner_loss, flops, parameters, memory, tokens_per_second,
                seconds, or any number that records hold
  lines=        keys whose values have lines of their own; method: the method
  z=            second key of a heat map
  smooth=0.05   of training: average over this share of the steps; 0: none
  --table       also print the numbers and write them as CSV, Markdown and LaTeX
  out=figures   folder for the files; for report a file (figures/report.html)
  --strict      stop at the first unreadable file (default: report and skip it)
  --stopped     count runs that trainer.max_steps has stopped early as if their
                schedules had ended there (default: figures of the paper and
                claims leave them out)
"""

LISTING_END = """\
Draw one with `ttt-plot FIGURE`, or every figure for which you have runs with
`ttt-plot --all`. `ttt-plot compare` draws any measured value of your runs over
any keys in which they differ. `ttt-plot report out=FILE.html` writes a page
with all figures, the claims and the runs."""


def main(argv: list[str] | None = None) -> None:
    """Run ``ttt-plot``; ``argv`` is ``sys.argv[1:]`` by default."""
    answer(sys.argv[1:] if argv is None else argv, lambda: HELP, _run)


def _run(words: list[str]) -> None:
    arguments = arguments_of(words)
    everything = "--all" in arguments.flags
    words = [name for name in arguments.names if not _is_folder(name)]
    source = Source.of(arguments, [name for name in arguments.names if _is_folder(name)])
    out = Path(arguments.values.get("out", "figures/report.html" if words == [REPORT] else "figures"))
    if everything and words:
        raise UserError(f"{words[0]}: name figures or write --all, not both")
    if len(words) > 1 and {COMPARE, REPORT} & {*words}:
        raise UserError(f"{COMPARE if COMPARE in words else REPORT}: draw it by itself, in a command of its own")
    if words == [REPORT]:
        _report(source, out)
    elif words == [COMPARE]:
        compare(_load(source, "train some: ttt-train"), arguments, out)
    elif everything or words:
        chosen = _smoothed(_chosen([] if everything else words), arguments.values.get("smooth"))
        _draw(chosen, source, out, partly=everything)
    else:
        # The list is there at once; reading many runs takes seconds.
        show(_listing(), FIGURES)
        print(f"\n{_drawable(source)}")


def arguments_of(words: list[str]) -> Arguments:
    """Parse the command line.

    Raises:
        UserError: an unknown key or flag, or a former spelling.
    """
    keys = {"runs": "FOLDER", "out": "FOLDER", "select": "KEY=VALUE"}
    flags = ["--all", "--strict", "--stopped"]
    if COMPARE in words:
        keys, flags = keys | KEYS, [*flags, TABLE]
    if {TRAINING, "--all"} & {*words}:
        keys = keys | {"smooth": "SHARE"}
    return parse(words, keys, flags)


def _is_folder(name: str) -> bool:
    """Return whether a word names folders of runs instead of a figure."""
    return name not in (REPORT, COMPARE, *figures()) and ("/" in name or Path(name).is_dir())


def _listing() -> str:
    return "\n".join([*map(_entry, figures().values()), LISTING_END])


def _entry(figure: Figure) -> str:
    """Return a figure's lines in the list."""
    lines = [
        wrapped(f"{figure.id}: {figure.title}", below="  "),
        wrapped(figure.paper, "  paper: ", " " * 9),
        wrapped(figure.needs, "  needs: ", " " * 9),
    ]
    commands = "\n".join(wrapped_command(command, " " * 9) for command in figure.give.split("; "))
    return "\n".join([*lines, f"  from:  {commands.lstrip()}\n"])


def _drawable(source: Source) -> str:
    """Return one line per figure that the runs of ``source`` give, with an example, and a line with the others."""
    files = ("record.json", "benchmark.json")
    if not any(next(folder.rglob(name), None) for folder in source.folders for name in files):
        return f"There are no runs in {source.places}."
    results, lines, lacking = source.read(), {}, []
    for figure in figures().values():
        table = figure.table(figure.of(results))
        if table.empty:
            lacking.append(figure.id)
            continue
        # A figure of runs and benchmarks has rows without a run.
        runs = table["run_id"].dropna().unique() if "run_id" in table else []
        if len(runs):
            lines[figure.id] = f"{counted(len(runs), 'run')}, such as {runs[0]}"
        else:
            lines[figure.id] = f"{counted(table['benchmark_id'].nunique(), 'benchmark')} of ttt-bench"
    width = max(map(len, lines), default=0)
    rows = [f"  {name:<{width}}  {shortened(text, WIDTH - width - 4)}" for name, text in lines.items()]
    without = [wrapped(f"No run is suitable for {', '.join(lacking)}.")] if lacking else []
    head = wrapped(f"The {counted(len(results.runs), 'run')} in {source.places} can be drawn in:")
    return "\n".join([head, *rows, *without])


def _chosen(names: list[str]) -> list[Figure]:
    """Return the named figures, or all figures if ``names`` is empty."""
    known = figures()
    for name in names:
        if name not in known:
            raise UserError(f"{name}: no such figure; choose from {', '.join([COMPARE, *known])}")
    return [known[name] for name in names or known]


def _smoothed(chosen: list[Figure], share: str | None) -> list[Figure]:
    """Return the figures, that of the training with a moving average over ``share`` of the steps if it is given."""
    if share is None:
        return chosen
    try:
        window = float(share)
    except ValueError:
        window = -1.0
    if not 0 <= window <= 1:
        raise bad_value("smooth", share, "must be a share of the steps, from 0 to 1")
    from ttt.plots.training import smoothed_over

    return [smoothed_over(window) if figure.id == TRAINING else figure for figure in chosen]


def _draw(chosen: list[Figure], source: Source, out: Path, partly: bool) -> None:
    """Write the chosen figures; with ``partly``, skip figures without runs, unless that leaves none."""
    results = _load(source, _how_to_get(chosen))
    # Imported here: the imports take seconds, and the list and usage errors do not need them.
    from ttt.analysis.left_out import left_out
    from ttt.plots.files import runs_note, save

    tables = {figure: figure.table(figure.of(results)) for figure in chosen}
    lacking = [figure for figure in chosen if tables[figure].empty]
    if lacking and (not partly or lacking == chosen):
        found = f"none of its {len(results.runs)} runs is suitable (ttt-plot compare draws any)"
        found = found if len(results.runs) else "no runs in it"
        raise UserError(f"runs={source.places}: {found}; {_how_to_get(lacking)}")
    for figure in chosen:
        if figure not in lacking:
            of_figure = figure.of(results)
            note = runs_note(of_figure, tables[figure])
            print("\n".join(str(path) for path in save(figure, tables[figure], out, note)))
            if said := left_out(of_figure, tables[figure]):
                print(f"{figure.id}: {said}", file=sys.stderr)
    for figure in lacking:
        print(f"not drawn: {_how_to_get([figure])}")


def _report(source: Source, out: Path) -> None:
    if out.suffix != ".html":
        raise bad_value("out", out, "must end in .html for the report")
    chosen = list(figures().values())
    results = _load(source, _how_to_get(chosen))
    if results.runs.empty and results.benchmarks.empty:
        raise UserError(f"runs={source.places}: no runs in it; {_how_to_get(chosen[:1])}")
    from ttt.plots.report import report
    from ttt.results.atomic import write_text

    write_text(out, report(results, chosen))
    print(out)


def _load(source: Source, how_to_get: str) -> "Results":
    for folder in source.folders:
        if not folder.is_dir():
            raise UserError(f"runs={folder}: no such folder; {how_to_get}")
    return source.read()


def _how_to_get(lacking: list[Figure]) -> str:
    return "; ".join(f"{figure.id} needs {figure.needs}: {figure.give}" for figure in lacking)


if __name__ == "__main__":
    main()
