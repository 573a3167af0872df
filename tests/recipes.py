"""The sections of CONTRIBUTING.md that add something, and the files that they and the tutorial add or change."""

import re
from dataclasses import dataclass
from pathlib import Path

from ttt.config.assets import assets

DOCUMENT = assets() / "CONTRIBUTING.md"
TUTORIAL = assets() / "docs/tutorial.md"

SECTION = re.compile(r"^## (?P<title>[^\n]*): (?P<count>\d+) files?[^\n]*\n(?P<text>.*?)(?=^## |\Z)", re.M | re.S)
EXAMPLE = re.compile(r"`(?P<path>[\w/]+\.(?:py|yaml))`:\n\n```(?P<language>\w+)\n(?P<text>.*?)```", re.S)


@dataclass(frozen=True)
class Example:
    """A block of code in the document: a whole file, or lines to add to one (``diff``)."""

    language: str
    text: str

    def apply(self, path: Path) -> None:
        """Write the file, or add the lines marked with ``+`` after the ones that are shown above them."""
        if self.language != "diff":
            assert not path.exists(), f"{path} exists"
            path.write_text(self.text, encoding="utf-8")
            return
        lines = self.text.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] == " ")
        source = path.read_text(encoding="utf-8")
        assert source.count(before) == 1, f"{path}: these lines are not there once:\n{before}"
        path.write_text(source.replace(before, "".join(line[1:] for line in lines)), encoding="utf-8")


def sections() -> dict[str, tuple[int, dict[str, Example]]]:
    """Return the title of each section -> the number of files that its heading states, and its examples by path."""
    found = {}
    for section in SECTION.finditer(DOCUMENT.read_text(encoding="utf-8")):
        found[section["title"]] = (int(section["count"]), examples_of(section["text"]))
    return found


def examples_of(text: str) -> dict[str, Example]:
    """Return the examples of a text by path."""
    return {block["path"]: Example(block["language"], block["text"]) for block in EXAMPLE.finditer(text)}


def examples() -> dict[str, Example]:
    """Return the examples of all sections by path."""
    return {path: example for _, added in sections().values() for path, example in added.items()}
