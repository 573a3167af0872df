"""The command line of ``ttt-sweep``, taken apart."""

from dataclasses import dataclass, field
from pathlib import Path

from ttt.cli.sweep.files import sweep_file
from ttt.config.errors import UserError, bad_value

FLAGS = ("--watch", "--json", "--folders")

KEYS = {
    "plan": ("sweep", "scale", "runs_dir", "folder", "device", "utilisation"),
    "submit": ("sweep", "scale", "runs_dir", "folder", "slurm"),
    "status": ("sweep", "scale", "runs_dir", "folder", "interval"),
    "retry": ("sweep", "scale", "runs_dir", "folder", "slurm", "force"),
    "cancel": ("sweep", "scale", "runs_dir", "folder"),
    "logs": ("sweep", "scale", "runs_dir", "folder", "lines"),
    "collect": ("sweep", "scale", "runs_dir", "folder", "out"),
}
"""Keys that each command has of its own; ``plan`` and ``submit`` hand any other to ``ttt-train``."""


@dataclass
class Request:
    """A command line, taken apart.

    Attributes:
        command: a key of ``KEYS``.
        own: values of its own keys.
        cluster: ``KEY=VALUE`` of ``slurm.KEY=VALUE``.
        overrides: for every run.
        runs: names of runs.
        flags: of ``FLAGS``.
    """

    command: str
    own: dict[str, str] = field(default_factory=dict)
    cluster: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)

    @property
    def runs_dir(self) -> Path:
        """Where runs go, as every machine of a cluster finds it."""
        return Path(self.own.get("runs_dir", "runs")).absolute()

    @property
    def folder(self) -> Path:
        """The sweep's own folder.

        Raises:
            UserError: no sweep was named, or none that exists.
        """
        if "folder" in self.own:
            return Path(self.own["folder"]).absolute()
        return self.runs_dir / "sweeps" / sweep_file(self.required("sweep"), self.own.get("scale")).name

    def required(self, key: str) -> str:
        """The value of a key of its own.

        Raises:
            UserError: it was not given.
        """
        if key not in self.own:
            raise UserError(f"ttt-sweep {self.command}: {key}= is missing; ttt-sweep --help shows how")
        return self.own[key]

    def number(self, key: str, default: float, low: float) -> float:
        """The value of a key of its own that is a number.

        Raises:
            UserError: it is none, or is below ``low``.
        """
        try:
            value = float(self.own.get(key, default))
        except ValueError:
            raise bad_value(key, self.own[key], "must be a number") from None
        if not value >= low:
            raise bad_value(key, self.own[key], f"must be at least {low}")
        return value


def parse(arguments: list[str]) -> Request:
    """Takes a command line apart.

    Raises:
        UserError: a command, a flag or a key that does not exist, or something that the command does not take.
    """
    command, *rest = arguments
    if command not in KEYS:
        raise UserError(f"{command}: no such command; choose one of {', '.join(KEYS)}")
    request = Request(command)
    for argument in rest:
        key, equals, value = argument.partition("=")
        if argument.startswith("--"):
            if argument not in FLAGS or command != "status":
                raise UserError(f"{argument}: ttt-sweep {command} knows no such flag; ttt-sweep --help lists them")
            request.flags.add(argument)
        elif not equals:
            if command not in ("retry", "cancel", "logs"):
                raise UserError(f"{argument}: not of the form key=value")
            request.runs.append(argument)
        elif key in KEYS[command]:
            request.own[key] = value
        elif key.startswith("slurm.") and "slurm" in KEYS[command]:
            request.cluster.append(argument.removeprefix("slurm."))
        elif command in ("plan", "submit"):
            request.overrides.append(argument)
        else:
            raise UserError(f"{argument}: no such key; ttt-sweep {command} takes {', '.join(KEYS[command])}")
    return request
