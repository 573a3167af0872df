"""Copy the versions of constraints.txt into pyproject.toml, where uv reads them: python .ci/pin_uv.py."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """[tool.uv]
# `uv sync` installs these versions too: python .ci/pin_uv.py writes the lines of constraints.txt here.
constraint-dependencies = ["""


def with_pins(pyproject: str, constraints: str) -> str:
    """Return the text of pyproject.toml with the versions of constraints.txt as its last table."""
    pins = [line for line in constraints.splitlines() if "==" in line and not line.startswith("#")]
    before = re.split(r"^\[tool\.uv\]$", pyproject, flags=re.MULTILINE)[0].rstrip()
    return "\n".join([before, "", HEAD, *(f'    "{pin}",' for pin in pins), "]", ""])


if __name__ == "__main__":
    file = ROOT / "pyproject.toml"
    file.write_text(with_pins(file.read_text(), (ROOT / "constraints.txt").read_text()))
