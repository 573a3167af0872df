"""Parsing the command line of ``ttt-sweep``."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from ttt.cli.sweep.files import sweep_file
from ttt.config.errors import UserError, bad_value
from ttt.config.keys import refuse_renamed
from ttt.config.schema import TrainConfig
from ttt.config.system import user_path

FLAGS = {
    "plan": ("--wide",),
    "submit": ("--watch",),
    "status": ("--watch", "--json", "--folders", "--wide"),
}
"""Command -> its flags."""

COMMON_KEYS = ("sweep", "scale", "runs", "folder")

OF_SUBMIT = ("slurm", "limit", "canary", "dry")
"""Keys of ``submit`` that ``status`` takes and ignores, so that the same words can be given again."""

KEYS = {
    "plan": (*COMMON_KEYS, "known", "device", "utilisation", "memory", "slurm"),
    "submit": (*COMMON_KEYS, "known", "slurm", "limit", "canary", "interval", "dry"),
    "run": ("budget", "time", "share", "runs", "folder", "dry"),
    "status": (*COMMON_KEYS, "known", "interval", *OF_SUBMIT),
    "retry": (*COMMON_KEYS, "slurm", "force"),
    "cancel": COMMON_KEYS,
    "logs": (*COMMON_KEYS, "lines"),
    "collect": (*COMMON_KEYS, "known", "out"),
}
"""The keys of each command; ``plan``, ``submit`` and ``run`` pass any other key on to ``ttt-train``."""


@dataclass
class Request:
    """A parsed command line.

    Attributes:
        command: a key of ``KEYS``.
        options: values of the command's keys.
        cluster_changes: ``KEY=VALUE`` of every ``slurm.KEY=VALUE``.
        overrides: overrides for all runs.
        run_names: run ids, or parts of them.
        flags: flags of the command.
    """

    command: str
    options: dict[str, str] = field(default_factory=dict)
    cluster_changes: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    run_names: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)

    @property
    def runs_folder(self) -> Path:
        """The folder of all run folders, as an absolute path."""
        return user_path(self.options.get("runs", "runs")).absolute()

    @property
    def folder(self) -> Path:
        """The sweep's own folder.

        Raises:
            UserError: ``sweep=`` is missing or unknown.
        """
        if "folder" in self.options:
            return user_path(self.options["folder"]).absolute()
        return self.runs_folder / "sweeps" / sweep_file(self.required("sweep"), self.options.get("scale")).name

    def required(self, key: str) -> str:
        """Return the value of a key that must be given.

        Raises:
            UserError: the key is missing.
        """
        if key not in self.options:
            raise UserError(f"ttt-sweep {self.command}: {key}= is missing; see ttt-sweep --help")
        return self.options[key]

    def number(self, key: str, default: float, low: float) -> float:
        """Return the value of a key as a number.

        Raises:
            UserError: the value is not a number, or is below ``low``.
        """
        try:
            value = float(self.options.get(key, default))
        except ValueError:
            raise bad_value(key, self.options[key], "must be a number") from None
        if not low <= value < math.inf:
            raise bad_value(key, self.options[key], f"must be a number of at least {low}")
        return value

    def whole_number(self, key: str, low: int) -> int | None:
        """Return the value of a key as a whole number, or None if it is not given.

        Raises:
            UserError: the value is not a whole number, or is below ``low``.
        """
        if key not in self.options:
            return None
        value = self.number(key, 0, low)
        if value != int(value):
            raise bad_value(key, self.options[key], "must be a whole number")
        return int(value)

    def switch(self, key: str) -> bool:
        """Return the value of a key that is true or false; false if it is not given.

        Raises:
            UserError: the value is neither.
        """
        value = self.options.get(key, "false")
        if value not in ("true", "false"):
            raise bad_value(key, value, "must be true or false")
        return value == "true"


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
        _add(request, argument)
    return request


def _add(request: Request, argument: str) -> None:
    command, keys = request.command, KEYS[request.command]
    key, equals, value = argument.partition("=")
    refuse_renamed(argument, keys)
    if argument.startswith("--"):
        if key.removeprefix("--") in keys:
            name = key.removeprefix("--")
            raise UserError(f"{argument}: write {name}={value or 'VALUE'}")
        if argument not in FLAGS.get(command, ()):
            raise UserError(f"{argument}: no such flag of ttt-sweep {command}; see ttt-sweep --help")
        request.flags.add(argument)
    elif not equals:
        if command not in ("retry", "cancel", "logs"):
            raise UserError(f"{argument}: not of the form key=value")
        request.run_names.append(argument)
    elif key in keys:
        request.options[key] = value
    elif key.startswith("slurm.") and "slurm" in keys:
        request.cluster_changes.append(argument.removeprefix("slurm."))
    elif command in ("plan", "submit", "run") or (command == "status" and _is_of_a_run(key)):
        request.overrides.append(argument)
    else:
        raise UserError(f"{argument}: no such key; ttt-sweep {command} takes {', '.join(keys)}")


def _is_of_a_run(key: str) -> bool:
    """Return whether a key may set or choose something of a run; ``status`` does not compose runs to find out."""
    name = key.lstrip("+").split(".")[0]
    return name == "ablation" or name in {item.name for item in fields(TrainConfig)}
