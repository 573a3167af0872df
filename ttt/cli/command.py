"""Commands that Hydra configures: help, arguments, configuration and errors."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, NoReturn, TypeVar, cast, get_origin, get_type_hints

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ttt.cli.answer import answer
from ttt.cli.compose import as_object, as_typed, groups, quote_option, register_schemas
from ttt.cli.errors import exit_with_one_line
from ttt.cli.help import describe_command
from ttt.cli.late_help import accept_late_help
from ttt.config.assets import assets
from ttt.config.errors import UserError
from ttt.config.keys import REQUIRED, refuse_renamed

C = TypeVar("C")
MULTIRUN = ("-m", "--multirun")

SLURM_LAUNCHER = "hydra/launcher=submitit_slurm"
"""The override with which Hydra itself submits the jobs of a multirun."""


@dataclass(frozen=True)
class Command(Generic[C]):
    """A command, and how its arguments are written.

    Attributes:
        config_name: a file of ``conf/``.
        schema: the class of its configuration.
        run: called with the configuration and the overrides of each job.
        help: the first part of ``--help``; groups and keys follow.
        more_groups: groups that are not keys of the schema, as on the command line: ``+ablation``.
        aliases: name on the command line -> key.
        texts: keys whose values bypass Hydra's parser, so that commas, quotes and braces have no meaning.
        dry: key of a switch with which the command writes nothing, not even Hydra's multirun.yaml.
        recompose: function of the composed configuration and its overrides that returns the configuration to use.
    """

    config_name: str
    schema: type[C]
    run: Callable[[C, list[str]], None]
    help: str
    more_groups: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    dry: str | None = None
    recompose: Callable[[DictConfig, list[str]], DictConfig] = lambda composed, _: composed

    def main(self, arguments: list[str]) -> None:
        """Print the help if it is requested, otherwise compose the configuration and run each job.

        Errors end the process: a user's mistake with one line and code 2, any other with a traceback.
        """
        # Without this Hydra prints exceptions itself and exits with code 1.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        answer(arguments, lambda: self.help_text(arguments), self._run)

    def help_text(self, arguments: list[str]) -> str:
        """Return the help, with the keys and values of the other arguments.

        Raises:
            UserError: an argument without a key, or the former name of a key.
        """
        register_schemas()
        return describe_command(
            self.help, self.config_name, self.for_hydra(arguments)[0], self.more_groups, self.aliases
        )

    def _run(self, arguments: list[str]) -> None:
        register_schemas()
        overrides, texts = self.for_hydra(arguments)
        # Hydra does not accept -m between overrides.
        sys.argv[1:] = sorted(overrides, key=lambda argument: argument not in MULTIRUN)
        accept_late_help()
        refuse_unknown_flags(sys.argv[1:])
        self._check_run(overrides)
        job = self._job(texts)
        with ExitStack() as around:
            if SLURM_LAUNCHER in overrides:
                around.enter_context(_without_the_jobs_variables())
            if self._is_dry(overrides):
                sys.argv.append(f"hydra.sweep.dir={around.enter_context(TemporaryDirectory())}")
            hydra.main(version_base="1.3", config_path=str(assets() / "conf"), config_name=self.config_name)(job)()

    def for_hydra(self, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
        """Return the arguments in Hydra's notation, and the values of ``texts``.

        Raises:
            UserError: an argument without a key, or the former name of a key.
        """
        known = [item.name for item in fields(cast(Any, self.schema))]
        overrides, texts = [], {}
        for pair in as_pairs(arguments, self.schema):
            refuse_renamed(pair, known)
            key, equals, value = pair.partition("=")
            if equals and key in self.texts:
                texts[key] = value
            else:
                # A group without a default is taken with and without Hydra's +.
                self._check_chosen(key, arguments)
                key = f"+{key}" if f"+{key}" in self.more_groups else self.aliases.get(key, key)
                override = f"{key}{equals}{value}"
                overrides.append(as_typed(quote_option(as_list(override, self.schema)), self.schema))
        return overrides, texts

    def _is_dry(self, overrides: list[str]) -> bool:
        switches = (override.partition("=") for override in overrides)
        return any(key == self.dry and value.lower() in ("true", "yes", "on", "y", "1") for key, _, value in switches)

    def _check_run(self, overrides: list[str]) -> None:
        """Refuse a command line without the run that the command reads, and name the newest run here."""
        required = any(item.name == "run" and item.default == REQUIRED for item in fields(cast(Any, self.schema)))
        # Hydra's flags, such as --cfg job, show something without a run.
        shown = any(override.startswith("-") and override not in MULTIRUN for override in overrides)
        if not required or shown or any(override.lstrip("+").startswith("run=") for override in overrides):
            return
        records = sorted(Path("runs").glob("*/record.json"), key=lambda path: path.stat().st_mtime)
        example = shlex.quote(str(records[-1].parent)) if records else "runs/NAME"
        command = f"ttt-{self.config_name}"
        raise UserError(f"{command} needs the folder of a trained run, such as {command} run={example}; see --help")

    def _check_chosen(self, key: str, arguments: list[str]) -> None:
        """Refuse a key of a group that is null by default and not chosen; Hydra fails in an assertion on it."""
        group, dot, _ = key.partition(".")
        null = [item.name for item in fields(cast(Any, self.schema)) if item.default is None and item.name in groups()]
        if dot and group in null and not any(argument.startswith(f"{group}=") for argument in arguments):
            raise UserError(f"{key}: belongs to an option of {group}; choose that too, {group}=OPTION")

    def _job(self, texts: dict[str, str]) -> Callable[[DictConfig], None]:
        def job(composed: DictConfig) -> None:
            overrides = cast(list[str], OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))
            # In a multirun Hydra must see the exception, to run the other jobs first.
            multirun = HydraConfig.get().mode is RunMode.MULTIRUN
            with nullcontext() if multirun else exit_with_one_line():
                config = as_object(self.recompose(composed, overrides), self.schema)
                for key, text in texts.items():
                    setattr(config, key, text)
                self.run(config, overrides)

        return job


def _without_the_jobs_variables() -> AbstractContextManager[None]:
    """Return a context in which a submission passes on nothing of the job, if any, in which this command runs."""
    from ttt.launch.slurm import outside_a_job

    return outside_a_job()


def subcommand(commands: Mapping[str, Command[Any]], help_text: str, kind: str, arguments: list[str]) -> None:
    """Run the command that the first argument names, or print ``help_text`` without arguments or for ``--help``.

    Args:
        commands: name -> command.
        help_text: help on all commands.
        kind: noun for a command in error messages.
        arguments: the command line.
    """

    def refuse(words: list[str]) -> None:
        raise UserError(f"{words[0]}: no such {kind}; choose one of {', '.join(commands)}")

    name, *rest = arguments or ["--help"]
    if name in commands:
        commands[name].main(rest)
    else:
        answer([name, *rest], lambda: help_text, refuse)


def refuse_unknown_flags(arguments: list[str]) -> None:
    """Check the flags with Hydra's own parser, which would print a page about its flags.

    Raises:
        UserError: a flag that Hydra does not have, one with a wrong value, or two that exclude each other.
    """

    def refuse(message: str) -> NoReturn:
        unknown = message.startswith("unrecognized")
        raise UserError(f"{message}; write KEY=VALUE, as --help lists them" if unknown else message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given = parser.parse_args(arguments)
    asked = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(given, name)]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]}: give one of them; --cfg job shows a single configuration")


def as_pairs(arguments: list[str], schema: type[Any]) -> list[str]:
    """Return the arguments with every key of the schema as ``key=value``, including keys given with dashes.

    ``--key value`` and ``--key=value`` become ``key=value``, and ``--key`` of a switch becomes ``key=true``.
    """
    hints = get_type_hints(schema)
    pairs, rest = [], iter(arguments)
    for argument in rest:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or key not in hints:
            pairs.append(argument)
        elif equals:
            pairs.append(f"{key}={value}")
        else:
            pairs.append(f"{key}={'true' if hints[key] is bool else next(rest, '')}")
    return pairs


def as_list(pair: str, schema: type[Any]) -> str:
    """Return ``tokens=512,2048`` as ``tokens=[512,2048]`` if the key is a list."""
    key, equals, value = pair.partition("=")
    is_list = get_origin(get_type_hints(schema).get(key)) is list
    return f"{key}=[{value}]" if equals and is_list and not value.startswith("[") else pair
