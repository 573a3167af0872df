"""From the command line to a checked configuration, through Hydra."""

import importlib
import os
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import ttt.layers
from ttt.cli.errors import exit_with_one_line
from ttt.cli.source_files import added_sources
from ttt.config.assets import assets
from ttt.config.bench import InnerBenchConfig, KernelBenchConfig, LatencyBenchConfig, Method, ModelBenchConfig
from ttt.config.errors import UserError, bad_value
from ttt.config.layers import SHIPPED
from ttt.config.schema import (
    EvalConfig,
    ExportConfig,
    GenerateConfig,
    InspectConfig,
    PrepareConfig,
    TrainConfig,
)

REGISTRATION = re.compile(r"^@register_layer\(\"(\w+)\"", re.MULTILINE)
NOT_A_NAME = re.compile(r"(?<![^,])(\d+|null|true|false)(?![^,])", re.IGNORECASE)
QUOTED = r"'\1'"

C = TypeVar("C")


def register_schemas() -> None:
    """Tells Hydra every schema, and every layer that has no file in ``conf/model/``."""
    store = ConfigStore.instance()
    store.store(group="schema", name="train", node=TrainConfig, package="_global_")
    store.store(group="schema", name="eval", node=EvalConfig, package="_global_")
    store.store(group="schema", name="export", node=ExportConfig, package="_global_")
    store.store(group="schema", name="generate", node=GenerateConfig, package="_global_")
    store.store(group="schema", name="prepare", node=PrepareConfig, package="_global_")
    store.store(group="schema", name="inspect", node=InspectConfig, package="_global_")
    store.store(group="schema", name="bench_inner", node=InnerBenchConfig, package="_global_")
    store.store(group="schema", name="bench_model", node=ModelBenchConfig, package="_global_")
    store.store(group="schema", name="bench_kernels", node=KernelBenchConfig, package="_global_")
    store.store(group="schema", name="bench_latency", node=LatencyBenchConfig, package="_global_")
    for name, schema in SHIPPED.items():
        store.store(group="schema/model", name=name, node=schema)
    for name, layer in added_layers().items():
        store.store(group="schema/model", name=name, node=layer.schema(name=name))
        defaults = [{"/schema/model@model": name}, {"override /backbone": layer.backbones[0]}]
        store.store(group="model", name=name, node={"defaults": defaults}, package="_global_")
    for name, source in added_sources().items():
        store.store(group="schema/data", name=name, node=source.schema(name=name, source=name))
        # Keys that every source has are as for texts of one's own; conf/data/NAME.yaml may give others.
        base = [{"/schema/data@_here_": name}, "local", "_self_"]
        store.store(group="data", name=name, node={"defaults": base, "name": name, "source": name})


def added_layers() -> dict[str, Any]:
    """Layers beyond the shipped ones, by name.

    Files are searched for registrations, not imported: only where there is another one, torch is needed for its schema.
    """
    files = Path(ttt.layers.__path__[0]).glob("*.py")
    names = {name for file in files for name in REGISTRATION.findall(file.read_text(encoding="utf-8"))}
    if names <= SHIPPED.keys():
        return {}
    registry = importlib.import_module("ttt.layers.registry")
    return {name: layer for name, layer in registry.layer_types().items() if name not in SHIPPED}


def run_with_config(
    config_name: str,
    schema: type[C],
    command: Callable[[C, list[str]], None],
    as_typed: tuple[str, ...] = (),
    recompose: Callable[[DictConfig, list[str]], DictConfig] = lambda composed, _: composed,
) -> None:
    """Composes ``conf/<config_name>.yaml`` with the command line and calls ``command(config, overrides)`` for each job.

    The keys ``as_typed`` hold texts in which nothing has a meaning to Hydra, no comma, quote or brace. ``recompose``
    may replace what was composed, given the job's overrides. What goes wrong ends the process: a user's mistake with
    one line and code 2, everything else loudly.
    """
    arguments, texts = without_texts(sys.argv[1:], as_typed)

    def job(composed: DictConfig) -> None:
        overrides = cast(list[str], OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))
        # One exception in a multirun is Hydra's to keep until the other jobs have run.
        alone = HydraConfig.get().mode is not RunMode.MULTIRUN
        with exit_with_one_line() if alone else nullcontext():
            config = as_object(recompose(composed, overrides), schema)
            for key, text in texts.items():
                setattr(config, key, text)
            command(config, overrides)

    # Hydra would print exceptions in its own way and exit with code 1; with this it lets them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with exit_with_one_line():
        sys.argv[1:] = [quote_option(spelled_out(argument)) for argument in flags_first(arguments)]
        register_schemas()
        hydra.main(version_base="1.3", config_path=str(assets() / "conf"), config_name=config_name)(job)()


def method(name: str, ctx: int) -> Method:
    """What ``ttt-train model=<name>`` trains at a context of ``ctx`` tokens, for a command that Hydra runs.

    Raises:
        MissingConfigException: no such option of the group.
    """
    overrides = [quote_option(f"model={name}"), f"ctx.length={ctx}"]
    config = as_object(hydra.compose("train", overrides), TrainConfig)
    return Method(config.model, config.backbone)


def without_texts(arguments: list[str], keys: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """``key=text`` of these keys taken out of ``arguments``: what is left, and the texts."""
    others, texts = [], {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if equals and key in keys:
            texts[key] = text
        else:
            others.append(argument)
    return others, texts


def flags_first(arguments: list[str]) -> list[str]:
    """Moves ``-m`` to the front: Hydra does not take it between overrides."""
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))


def spelled_out(argument: str) -> str:
    """``from=FOLDER`` -> ``parent.run=FOLDER``: the first is what one says, and no name for a field in Python."""
    return f"parent.run={argument.removeprefix('from=')}" if argument.startswith("from=") else argument


@cache
def groups() -> list[str]:
    """Names of the groups of ``conf/``."""
    return sorted(folder.name for folder in (assets() / "conf").iterdir() if folder.is_dir())


def quote_option(argument: str) -> str:
    """``ctx=512`` -> ``ctx='512'``: Hydra takes a number or null for a value and refuses it as a group's option.

    Raises:
        UserError: an argument without a key.
    """
    key, _, value = argument.partition("=")
    if not key:
        raise UserError(f"{argument}: not of the form key=value")
    if key not in groups():
        return argument
    return f"{key}={re.sub(NOT_A_NAME, QUOTED, value)}"


def as_object(composed: DictConfig, schema: type[C]) -> C:
    """The configuration with everything resolved, as instances of the schema's classes.

    Raises:
        UserError: a key that was added to the schema with ``+``.
        OmegaConfBaseException: a value that is missing, of another type, or an interpolation that leads nowhere.
    """
    resolved = OmegaConf.to_object(composed)
    assert isinstance(resolved, schema)
    refuse_added_keys(resolved, "")
    return resolved


def refuse_added_keys(node: object, prefix: str) -> None:
    """OmegaConf lets ``+key=value`` set attributes that no schema has; nothing would ever read them."""
    if not is_dataclass(node):
        return
    known = [field.name for field in fields(node)]
    for name, value in vars(node).items():
        if name not in known:
            raise bad_value(f"{prefix}{name}", value, f"no such key; choose one of {', '.join(known)}")
        refuse_added_keys(value, f"{prefix}{name}.")
