"""``ttt-claims``: judge the paper's claims from runs."""

import argparse
from pathlib import Path

from ttt.cli.errors import exit_with_one_line
from ttt.config.errors import bad_value

KINDS = (".csv", ".json", ".md")


def main(argv: list[str] | None = None) -> None:
    """Entry point of ``ttt-claims``; ``argv`` is the process's own by default."""
    arguments = parser().parse_args(argv)
    with exit_with_one_line():
        if arguments.out and arguments.out.suffix not in KINDS:
            raise bad_value("--out", arguments.out, f"must end in one of {', '.join(KINDS)}")
        _judge(arguments.results, arguments.out)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments of ``ttt-claims``."""
    takes = argparse.ArgumentParser(
        prog="ttt-claims", description="Judge the paper's claims from runs: held, did not hold, or not decided."
    )
    takes.add_argument("--results", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (%(default)s)")
    takes.add_argument("--out", type=Path, metavar="FILE", help="also write a table: FILE.csv, FILE.json or FILE.md")
    return takes


def _judge(folder: Path, out: Path | None) -> None:
    # Imported here: the imports take seconds, and help and usage errors do not need them.
    from ttt.claims.table import as_csv, as_json, as_markdown, as_text, judge_all
    from ttt.results.atomic import write_text
    from ttt.results.store import load_results

    judged = judge_all(load_results(folder))
    print(as_text(judged))
    if out:
        writers = dict(zip(KINDS, (as_csv, as_json, as_markdown), strict=True))
        write_text(out, writers[out.suffix](judged))


if __name__ == "__main__":
    main()
