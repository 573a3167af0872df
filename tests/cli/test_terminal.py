"""Colours on a terminal, and the same text without them elsewhere."""

import re
from collections.abc import Callable

import pytest

from ttt.cli import claims, main, plot, runs
from ttt.cli.errors import stop
from ttt.cli.sweep.main import help_text
from ttt.cli.terminal import COMMANDS, FIGURES, STATES, show

COLOUR = re.compile(r"\x1b\[[\d;]*m")

TABLE = """\
id       label          steps status
1a2b3c4d TTT-Linear [M] 12/24 finished :smile: [bold]
2a2b3c4d a label that is longer than a line of eighty columns is, by a good many words   failed
"""


def pretend_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)


@pytest.mark.parametrize(
    "text",
    [main.help_text, help_text, plot._listing, *(lambda text=text: text for text in (runs.HELP, claims.HELP, TABLE))],
    ids=["ttt", "sweep", "figures", "runs", "claims", "table"],
)
@pytest.mark.parametrize("styles", [COMMANDS, STATES, FIGURES], ids=["commands", "states", "figures"])
def test_colours_change_nothing_else(
    text: Callable[[], str],
    styles: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend_a_terminal(monkeypatch)
    show(text(), styles, heading=True)
    shown = capsys.readouterr().out
    assert COLOUR.sub("", shown) == f"{text()}\n"
    assert COLOUR.search(shown)


def test_words_have_their_colours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend_a_terminal(monkeypatch)
    show(TABLE, STATES, heading=True)
    heading, finished, failed, _ = capsys.readouterr().out.split("\n", 3)
    assert heading == "\x1b[1;34mid       label          steps status\x1b[0m"
    assert "\x1b[32mfinished\x1b[0m" in finished
    assert "\x1b[31mfailed\x1b[0m" in failed
    with pytest.raises(SystemExit, match="2"):
        stop("no such key: [/x]", 2)
    assert capsys.readouterr().err == "\x1b[1;31merror:\x1b[0m no such key: [/x]\n"


def test_a_file_gets_the_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    show(TABLE, STATES, heading=True)
    with pytest.raises(SystemExit, match="2"):
        stop("wrong", 2)
    assert capsys.readouterr() == (f"{TABLE}\n", "error: wrong\n")


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend_a_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    show(TABLE, STATES)
    assert "\x1b[3" not in capsys.readouterr().out
