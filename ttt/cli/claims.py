"""``ttt-claims``: judge the paper's claims from runs."""

import sys
from pathlib import Path

from ttt.cli.answer import answer
from ttt.cli.arguments import Arguments, parse
from ttt.cli.terminal import STATES, show
from ttt.config.errors import UserError, bad_value

KINDS = (".csv", ".json", ".md")

HELP = """\
ttt-claims judges the paper's claims from runs: held, reversed, or not resolved.

usage: ttt-claims [runs=FOLDER] [out=FILE] [--strict] [--stopped]

  runs=runs     folder of runs, at any depth
  out=FILE      also write a table: FILE.csv, FILE.json or FILE.md
  --strict      stop at the first unreadable file (default: report and skip it)
  --stopped     count runs that trainer.max_steps has stopped early as if their
                schedules had ended there (default: claims leave them out)
"""


def main(argv: list[str] | None = None) -> None:
    """Run ``ttt-claims``; ``argv`` is ``sys.argv[1:]`` by default."""
    answer(sys.argv[1:] if argv is None else argv, lambda: HELP, _run)


def _run(words: list[str]) -> None:
    arguments = arguments_of(words)
    out = Path(arguments.values["out"]) if "out" in arguments.values else None
    if out and out.suffix not in KINDS:
        raise bad_value("out", out, f"must end in one of {', '.join(KINDS)}")
    _judge(Path(arguments.values.get("runs", "runs")), out, arguments.flags)


def arguments_of(words: list[str]) -> Arguments:
    """Parse the command line.

    Raises:
        UserError: an unknown key or flag, a former spelling, or a word that is neither.
    """
    arguments = parse(words, {"runs": "FOLDER", "out": "FILE"}, ("--strict", "--stopped"))
    if arguments.names:
        raise UserError(f"{arguments.names[0]}: not of the form key=value; ttt-claims judges all claims")
    return arguments


def _judge(folder: Path, out: Path | None, flags: set[str]) -> None:
    # Imported here: the imports take seconds, and help and usage errors do not need them.
    from ttt.claims.table import as_csv, as_json, as_markdown, as_text, judge_all
    from ttt.cli.results import read_results
    from ttt.results.atomic import write_text

    judged = judge_all(read_results(folder, "--strict" in flags, "--stopped" in flags))
    show(as_text(judged), STATES)
    if out:
        writers = dict(zip(KINDS, (as_csv, as_json, as_markdown), strict=True))
        write_text(out, writers[out.suffix](judged))


if __name__ == "__main__":
    main()
