"""The text of ``--help``: every group with its options, from the files themselves."""

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from ttt.cli.compose import added_layers, groups
from ttt.cli.source_files import added_sources
from ttt.config.assets import assets
from ttt.config.schema import TrainConfig


def print_help_if_asked(text: Callable[[], str]) -> None:
    """Prints ``text()`` and leaves when the command line asks for help."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(text())
        raise SystemExit(0)


OF_OTHERS = ("scale",)
"""Groups of ``conf/`` that are no part of a run of ``ttt-train``."""


def describe_groups() -> str:
    """A paragraph a group of a run's configuration: its options and the comment that each file begins with."""
    return "\n".join(describe_group(group) for group in groups() if group not in OF_OTHERS)


def describe_group(name: str) -> str:
    """The options of a group, and what each file says of itself."""
    folder = assets() / "conf" / name
    options = {file.stem: comment(file) for file in sorted(folder.glob("*.yaml"), key=_by_number)}
    if folder.name == "model":
        options |= {name: (layer.build.__doc__ or "").splitlines()[0] for name, layer in added_layers().items()}
    if folder.name == "data":
        options |= {name: (source.__doc__ or "").splitlines()[0] for name, source in added_sources().items()}
    width = max(map(len, options)) + 2
    # What is no part of every configuration is added to it.
    plus = "" if folder.name in {field.name for field in fields(TrainConfig)} else "+"
    return "\n".join([f"  {plus}{folder.name}=", *(f"    {name:<{width}}{text}" for name, text in options.items())])


def comment(file: Path) -> str:
    """What a YAML file says of itself in its first comment."""
    lines = (line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((line for line in lines if not line.startswith("@package")), "")


def _by_number(file: Path) -> tuple[float, str]:
    """256 before 1k before 16k, 125m before 1.3b; names without a number in their order."""
    number = file.stem.rstrip("kmb")
    scale = {"k": 1024, "m": 1e6, "b": 1e9}.get(file.stem[-1], 1)
    return (float(number) * scale, "") if number.replace(".", "").isdigit() else (0, file.stem)
