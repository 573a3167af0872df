"""Checks the versions of Python and torch, before anything is installed or imported.

``make`` runs this file, and ``import ttt`` and the build backend import it, with any Python. So this file and
``ttt/__init__.py`` are valid for Python 2.7 too: types are comments, and only the standard library is imported.
"""

import os.path
import re
import sys

PROJECT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "pyproject.toml")


def declared():
    # type: () -> tuple[str, str, str]
    """Return the suite's version, its Pythons and its torches, such as ``>=3.11,<3.15``.

    They are those of ``pyproject.toml`` in a checkout and of the installed package elsewhere.
    """
    if os.path.isfile(PROJECT):
        with open(PROJECT, "rb") as file:
            text = file.read().decode("utf-8")
        patterns = r'^version = "(.*)"', r'^requires-python = "(.*)"', r'^ *"torch([<>=].*)"'
        version, pythons, torches = (str(re.findall(pattern, text, re.MULTILINE)[0]) for pattern in patterns)
        return version, pythons, torches
    from importlib import metadata

    installed = metadata.metadata("ttt-suite")
    torches = next(
        line[len("torch") :] for line in metadata.requires("ttt-suite") or () if re.match("torch[<>=]", line)
    )
    return installed["Version"], installed["Requires-Python"], torches


def is_within(version, bounds):
    # type: (str, str) -> bool
    """Return whether a version keeps to bounds of ``>=`` and ``<``; what follows its numbers does not count."""
    for bound in bounds.split(","):
        limit = _numbers(bound)
        given = _numbers(version)[: len(limit)]
        if not (given < limit if bound.startswith("<") else given >= limit):
            return False
    return True


def unsupported_python(command=sys.executable):
    # type: (str) -> str
    """Return a line about the running Python, which ``command`` started; an empty one if it is supported."""
    version, bounds = "{}.{}.{}".format(*sys.version_info[:3]), declared()[1]
    if is_within(version, bounds):
        return ""
    return "{}: Python {} is not supported, {} is needed".format(command, version, bounds)


def unsupported_torch():
    # type: () -> str
    """Return a line about the installed torch, without importing it; an empty one if it is supported."""
    from importlib import metadata

    bounds = declared()[2]
    advice = "install torch{0}: pip install 'torch{0}'".format(bounds)
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "torch is not installed; {}".format(advice)
    return "" if is_within(version, bounds) else "torch {} is not supported; {}".format(version, advice)


def require_supported_python():
    # type: () -> None
    """End the process with one line and code 2 if the running Python is not supported.

    Raises:
        ImportError: the same at Python's own prompt or in a notebook, which shall go on.
    """
    problem = unsupported_python()
    if problem and hasattr(sys, "ps1"):
        raise ImportError(problem)
    if problem:
        sys.stderr.write("error: {}\n".format(problem))
        sys.exit(2)


def _numbers(version):
    # type: (str) -> list[int]
    """Return the numbers of a version: those of ``2.13.0+cpu`` are 2, 13 and 0."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


if __name__ == "__main__":
    problem = unsupported_python(*sys.argv[1:])
    sys.exit("make: {}; try: make PYTHON=python3.12 ...".format(problem) if problem else 0)
