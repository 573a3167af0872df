"""Parsing the command line of ``ttt-sweep``."""

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
"""The keys of each command; ``plan`` and ``submit`` pass any other key on to ``ttt-train``."""


@dataclass
class Request:
    """A parsed command line.

    Attributes:
        command: a key of ``KEYS``.
        own: values of the command's keys.
        cluster: ``KEY=VALUE`` of every ``slurm.KEY=VALUE``.
        overrides: overrides for all runs.
        runs: run ids, or parts of them.
        flags: flags, of ``FLAGS``.
    """

    command: str
    own: dict[str, str] = field(default_factory=dict)
    cluster: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)

    @property
    def runs_dir(self) -> Path:
        """The folder of all run folders, as an absolute path."""
        return Path(self.own.get("runs_dir", "runs")).absolute()

    @property
    def folder(self) -> Path:
        """The sweep's own folder.

        Raises:
            UserError: ``sweep=`` is missing or unknown.
        """
        if "folder" in self.own:
            return Path(self.own["folder"]).absolute()
        return self.runs_dir / "sweeps" / sweep_file(self.required("sweep"), self.own.get("scale")).name

    def required(self, key: str) -> str:
        """Return the value of a key that must be given.

        Raises:
            UserError: the key is missing.
        """
        if key not in self.own:
            raise UserError(f"ttt-sweep {self.command}: {key}= is missing; see ttt-sweep --help")
        return self.own[key]

    def number(self, key: str, default: float, low: float) -> float:
        """Return the value of a key as a number.

        Raises:
            UserError: the value is not a number, or is below ``low``.
        """
        try:
            value = float(self.own.get(key, default))
        except ValueError:
            raise bad_value(key, self.own[key], "must be a number") from None
        if not value >= low:
            raise bad_value(key, self.own[key], f"must be at least {low}")
        return value


def parse(arguments: list[str]) -> Request:
    """Parse a command line.

    Raises:
        UserError: an unknown command, flag or key, or an argument that the command does not take.
    """
    command, *rest = arguments
    if command not in KEYS:
        raise UserError(f"{command}: no such command; choose one of {', '.join(KEYS)}")
    request = Request(command)
    for argument in rest:
        key, equals, value = argument.partition("=")
        if argument.startswith("--"):
            if argument not in FLAGS or command != "status":
                raise UserError(f"{argument}: no such flag of ttt-sweep {command}; see ttt-sweep --help")
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
