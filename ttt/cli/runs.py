"""``ttt-runs``: list run folders, look at one, compare two, and remove what is no longer needed."""

import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ttt.analysis.listing import ListedRun, differing_settings, list_runs, read_run_folder
from ttt.cli.answer import answer
from ttt.cli.arguments import Arguments, parse
from ttt.cli.runs_tables import diff_table, listing, results_of, size_text, summary
from ttt.cli.terminal import STATES, show
from ttt.config.errors import UserError, bad_value, counted
from ttt.config.identity import BOOKKEEPING
from ttt.results.record import RunFolder
from ttt.results.removal import remove_run, remove_weights, weights_of

HELP = """\
ttt-runs lists run folders, the newest last.

usage: ttt-runs [runs=FOLDER] [--wide] [--json]
       ttt-runs show RUN [runs=FOLDER] [--json]
       ttt-runs diff RUN RUN [runs=FOLDER] [--json]
       ttt-runs rm RUN ... [runs=FOLDER] [--all] [--yes]

  show          what is known of a run, and the command that goes on with it
  diff          the settings in which two runs differ, and their results
  rm            remove the checkpoints of runs; asks first. Records and metrics
                stay, so that figures still draw the runs. A folder that is
                being written, or that another run started from, is refused.
  RUN           a folder, its name, or the end of its name, such as 1a2b3c4d
  runs=runs     folder of runs, at any depth
  --wide        do not shorten labels and names to 80 columns
  --json        JSON instead of a table
  --all         rm: remove whole folders
  --yes         rm: do not ask
"""

FLAGS: dict[str, tuple[str, ...]] = {
    "list": ("--wide", "--json"),
    "show": ("--json",),
    "diff": ("--json",),
    "rm": ("--all", "--yes"),
}
"""Command -> its flags."""

NUMBER_OF_RUNS = {"list": (0, 0), "show": (1, 1), "diff": (2, 2), "rm": (1, None)}
"""Command -> the least and the largest number of runs that it takes."""

COMMANDS: dict[str, Callable[[Arguments], None]] = {}
"""Name -> command; filled below."""


def main(argv: list[str] | None = None) -> None:
    """Run ``ttt-runs``; ``argv`` is ``sys.argv[1:]`` by default."""
    answer(sys.argv[1:] if argv is None else argv, lambda: HELP, _run)


def _run(words: list[str]) -> None:
    arguments = arguments_of(words)
    COMMANDS[arguments.names.pop(0)](arguments)


def arguments_of(words: list[str]) -> Arguments:
    """Parse the command line; the first name is the command, ``list`` if there is none.

    Raises:
        UserError: an unknown command, key or flag, or another number of runs than the command takes.
    """
    arguments = parse(words, {"runs": "FOLDER"}, tuple(dict.fromkeys(sum(FLAGS.values(), ()))))
    arguments.names = arguments.names or ["list"]
    command, *runs = arguments.names
    if command not in FLAGS:
        raise UserError(f"{command}: no such command of ttt-runs; choose one of {', '.join(FLAGS)}")
    for flag in sorted(arguments.flags - set(FLAGS[command])):
        raise UserError(f"{flag}: no such flag of ttt-runs {command}; choose one of {', '.join(FLAGS[command])}")
    least, most = NUMBER_OF_RUNS[command]
    if len(runs) < least or (most is not None and len(runs) > most):
        takes = counted(least, "run") if least == most else f"at least {counted(least, 'run')}"
        raise UserError(f"ttt-runs {command}: takes {takes}, not {len(runs)}; ttt-runs lists them")
    return arguments


def _list(arguments: Arguments) -> None:
    folder = _folder(arguments)
    if not folder.is_dir():
        raise bad_value("runs", folder, "no such folder; ttt-train makes it")
    runs, unreadable = list_runs(folder)
    for line in unreadable:
        print(f"left out: {line}", file=sys.stderr)
    if "--json" in arguments.flags:
        print(json.dumps([run.as_json() for run in runs], indent=1))
        return
    if runs:
        show(listing(runs, wide="--wide" in arguments.flags), STATES, heading=True)
    print(f"{folder}: {counted(len(runs), 'run')}, {size_text(sum(run.size for run in runs))}")


def _show(arguments: Arguments) -> None:
    run = find(arguments.names[0], _folder(arguments))
    if "--json" in arguments.flags:
        print(json.dumps({**run.as_json(), "record": run.record}, indent=1))
    else:
        show(summary(run), STATES)


def _diff(arguments: Arguments) -> None:
    first, second = (find(name, _folder(arguments)) for name in arguments.names)
    configs = [
        {key: value for key, value in run.record["config"].items() if key not in ("runs", "run", "ckpt", "overwrite")}
        for run in (first, second)
    ]
    settings = differing_settings(*configs)
    if "--json" in arguments.flags:
        results = differing_settings(results_of(first), results_of(second))
        print(
            json.dumps({"runs": [run.as_json() for run in (first, second)], "settings": settings, "results": results})
        )
    else:
        # Settings that decide what is learned come first.
        ordered = sorted(settings.items(), key=lambda pair: (pair[0].partition(".")[0] in BOOKKEEPING, pair[0]))
        show(diff_table(first, second, dict(ordered)), STATES, heading=True)


def _remove(arguments: Arguments) -> None:
    whole, folder = "--all" in arguments.flags, _folder(arguments)
    runs = [find(name, folder, exactly=True) for name in dict.fromkeys(arguments.names)]
    for run in runs:
        _check_no_child(run, [] if not whole else runs, folder)
    sizes = [run.size if whole else _bytes_of_weights(run) for run in runs]
    kind = "the whole folder" if whole else "the checkpoints"
    for run, size in zip(runs, sizes, strict=True):
        print(f"{run.folder}: {kind}, {size_text(size)} ({run.status})")
    if "--yes" not in arguments.flags and not _confirmed(f"remove {size_text(sum(sizes))}? [y/N] "):
        print("nothing was removed")
        return
    for run in runs:
        (remove_run if whole else remove_weights)(RunFolder(run.folder))
    print(f"removed {size_text(sum(sizes))} of {counted(len(runs), 'run')}")


def _bytes_of_weights(run: ListedRun) -> int:
    return sum(path.stat().st_size for path in weights_of(RunFolder(run.folder)))


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("ttt-runs rm: asks before it removes, and there is no terminal; --yes removes without asking")
    return input(question).strip().lower() in ("y", "yes")


def _check_no_child(run: ListedRun, removed: list[ListedRun], folder: Path) -> None:
    """Check that no run beside ``run`` or in ``folder`` started from it, but for runs that are removed as well.

    Raises:
        UserError: one did.
    """
    going = {other.folder.resolve() for other in removed}
    for place in {path.resolve() for path in (folder, run.folder.parent) if path.is_dir()}:
        for other in list_runs(place)[0]:
            if other.folder.resolve() not in going and other.came_from(run):
                raise UserError(f"{run.folder}: {other.folder.name} started from its weights; remove that run first")


def find(name: str, folder: Path, exactly: bool = False) -> ListedRun:
    """Return the run with this folder, name or end of a name.

    Args:
        name: as the user wrote it.
        folder: the folder of runs.
        exactly: whether a name's part other than the hash at its end is refused, as for removing.

    Raises:
        UserError: there is no such run, or there are several.
    """
    for path in (Path(name), folder / name):
        if RunFolder(path).record.is_file():
            return read_run_folder(path)
    runs = list_runs(folder)[0] if folder.is_dir() else []
    found = [run for run in runs if run.folder.name == name or run.id == name]
    if not found and not exactly:
        found = [run for run in runs if name in run.folder.name]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(run.folder) for run in found[:3]) + (", ..." if len(found) > 3 else "")
        raise UserError(f"{name}: {counted(len(found), 'run')} have this in their names: {names}; name the folder")
    near = difflib.get_close_matches(name, [run.folder.name for run in runs], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"ttt-runs runs={folder} lists the runs"
    raise UserError(f"{name}: no such run in {folder}; {hint}")


def _folder(arguments: Arguments) -> Path:
    return Path(arguments.values.get("runs", "runs"))


COMMANDS |= {"list": _list, "show": _show, "diff": _diff, "rm": _remove}


if __name__ == "__main__":
    main()
