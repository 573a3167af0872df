"""Progress bars are calm in a log file: lines, without carriage returns."""

import ast
import re
import sys

import pytest
from tqdm import tqdm

from ttt.config import progress
from ttt.config.assets import assets
from ttt.config.progress import progress_bar


@pytest.mark.parametrize("known", [True, False], ids=["with total", "without total"])
def test_a_log_file_gets_lines(
    known: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    items = range(3) if known else (number for number in range(3))
    bar = progress_bar(items, desc="reading", unit=" files")
    for number in bar:
        bar.set_postfix_str(f"file {number}", refresh=False)
    lines = capsys.readouterr().err.split("\n")
    assert lines.pop() == ""
    assert "\r" not in "".join(lines)
    pattern = r"reading: \d/3 \[.*, file \d\]" if known else r"reading: \d files \[.*, file \d\]"
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert [line for line in lines if "reading: 3" in line]


def test_a_short_bar_writes_its_end_or_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for leave, written in ((True, 1), (False, 0)):
        list(progress_bar(range(1000), desc="short", leave=leave))
        assert capsys.readouterr().err.count("\n") == written
    list(progress_bar(range(1000), show=False))
    with progress_bar(total=5, desc="interrupted"):
        pass
    assert capsys.readouterr().err == ""


def test_lines_after_a_bar_begin_at_the_left(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(total=2, desc="probe", leave=False) as bar:
        bar.update()
        bar.refresh()
        tqdm.write("warning", file=sys.stderr)
    assert re.fullmatch(r"probe: 1/2 \[.*\]\nwarning\n", capsys.readouterr().err)


def test_a_terminal_gets_the_bar_of_tqdm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    list(progress_bar(range(3), desc="reading"))
    assert "\rreading: 100%|" in capsys.readouterr().err


def test_other_bars_are_of_terminals_alone() -> None:
    """A bar that tqdm draws itself must have ``disable=None``, with which it is silent in a file."""
    for path in [*(assets() / "ttt").rglob("*.py"), *(assets() / "plots").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tqdm"
            if called and path.name != "progress.py":
                options = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert options.get("disable") == "None", path
