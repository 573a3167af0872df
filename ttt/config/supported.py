"""Checks the versions of Python and torch, before anything is installed or imported.

``make`` runs this file with any Python, so that it is valid for old ones and imports nothing of the suite.
"""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent / "pyproject.toml"


def declared() -> "tuple[str, str, str]":
    """Return the suite's version, its Pythons and its torches, such as ``>=3.11,<3.15``.

    They are those of ``pyproject.toml`` in a checkout and of the installed package elsewhere.
    """
    if PROJECT.is_file():
        text = PROJECT.read_text(encoding="utf-8")
        patterns = r'^version = "(.*)"', r'^requires-python = "(.*)"', r'^ *"torch([<>=].*)"'
        version, pythons, torches = (re.findall(pattern, text, re.MULTILINE)[0] for pattern in patterns)
        return version, pythons, torches
    from importlib import metadata

    installed = metadata.metadata("ttt-suite")
    torches = next(
        line[len("torch") :] for line in metadata.requires("ttt-suite") or () if re.match("torch[<>=]", line)
    )
    return installed["Version"], installed["Requires-Python"], torches


def is_within(version: str, bounds: str) -> bool:
    """Return whether a version keeps to bounds of ``>=`` and ``<``; what follows its numbers does not count."""
    for bound in bounds.split(","):
        limit = _numbers(bound)
        given = _numbers(version)[: len(limit)]
        if not (given < limit if bound.startswith("<") else given >= limit):
            return False
    return True


def unsupported_python(command: str = sys.executable) -> str:
    """Return a line about the running Python, which ``command`` started; an empty one if it is supported."""
    version, bounds = "{}.{}.{}".format(*sys.version_info[:3]), declared()[1]
    return "" if is_within(version, bounds) else f"{command}: Python {version} is not supported, {bounds} is needed"


def unsupported_torch() -> str:
    """Return a line about the installed torch, without importing it; an empty one if it is supported."""
    from importlib import metadata

    bounds = declared()[2]
    advice = f"install torch{bounds}: pip install 'torch{bounds}'"
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return f"torch is not installed; {advice}"
    return "" if is_within(version, bounds) else f"torch {version} is not supported; {advice}"


def _numbers(version: str) -> "list[int]":
    """Return the numbers of a version: those of ``2.13.0+cpu`` are 2, 13 and 0."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


if __name__ == "__main__":
    problem = unsupported_python(*sys.argv[1:])
    sys.exit(f"make: {problem}; try: make PYTHON=python3.12 ..." if problem else 0)
