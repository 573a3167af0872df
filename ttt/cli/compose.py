"""Composition of configurations by Hydra, from ``conf/`` and overrides to objects of the schema."""

import pickle
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache, lru_cache
from typing import Any, TypeVar, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ttt.cli.added import added_backbones, added_layers, added_sources
from ttt.cli.resolvers import register_resolvers
from ttt.config.assets import assets
from ttt.config.bench import (
    InnerBenchConfig,
    KernelBenchConfig,
    LatencyBenchConfig,
    MemoryBenchConfig,
    Method,
    ModelBenchConfig,
    StepBenchConfig,
)
from ttt.config.errors import UserError, bad_value
from ttt.config.exchange import ExportConfig, ImportConfig
from ttt.config.generation import GenerateConfig
from ttt.config.keys import free_text_keys
from ttt.config.layers import MODELS
from ttt.config.preparing import InspectConfig, PackConfig, PrepareConfig
from ttt.config.schema import (
    BackboneConfig,
    ContextConfig,
    EvalConfig,
    Resolved,
    SizeConfig,
    TrainConfig,
)
from ttt.config.sources import SOURCES
from ttt.config.system import with_home

C = TypeVar("C")

PLAIN_PATH = re.compile(r"(?:[A-Za-z_/]|\.{1,2}/)[\w./-]*", re.ASCII)
"""Paths that Hydra reads as they are, if they are no words with a meaning."""

SCHEMAS: dict[str, type[Any]] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "export": ExportConfig,
    "generate": GenerateConfig,
    "import": ImportConfig,
    "prepare": PrepareConfig,
    "inspect": InspectConfig,
    "pack": PackConfig,
    "bench_inner": InnerBenchConfig,
    "bench_model": ModelBenchConfig,
    "bench_kernels": KernelBenchConfig,
    "bench_latency": LatencyBenchConfig,
    "bench_memory": MemoryBenchConfig,
    "bench_step": StepBenchConfig,
}
"""Name of a file of ``conf/`` -> schema."""

VALUES: dict[str, type[Any]] = {"ctx": ContextConfig, "size": SizeConfig, "backbone": BackboneConfig}
"""Group of ``train`` whose options set every key of the group, and nothing else -> its schema."""

UNSET = {"size": {"match", "match_flops"}, "backbone": {"conv_init"}}
"""Group of ``VALUES`` -> keys that no option sets: what they are set to does not depend on the option."""


def register_schemas() -> None:
    """Register every schema with Hydra, and the options of layers, backbones and sources that are not shipped.

    Raises:
        UserError: a file of ``ttt/layers/``, ``ttt/backbones/`` or ``ttt/data/`` that cannot be read.
    """
    _register_shipped()
    store = ConfigStore.instance()
    for name, layer in added_layers().items():
        store.store(group="schema/model", name=name, node=layer.schema(name=name))
        defaults = [{"/schema/model@model": name}, {"override /backbone": layer.backbones[0]}]
        _store_option("model", name, {"defaults": defaults}, package="_global_")
    for name in added_backbones():
        _store_option("backbone", name, {"name": name})
    for name, source in added_sources().items():
        store.store(group="schema/data", name=name, node=source.schema(name=name, source=name))
        # Keys common to all sources have the values of conf/data/local.yaml, unless conf/data/NAME.yaml sets them.
        base = [{"/schema/data@_here_": name}, "local", "_self_"]
        _store_option("data", name, {"defaults": base, "name": name, "source": name})


@cache
def _register_shipped() -> None:
    """Register resolvers, and the schemas of what is shipped; once, as this takes Hydra a third of a second."""
    register_resolvers()
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(group="schema", name=name, node=schema, package="_global_")
    for name, schema in MODELS.items():
        store.store(group="schema/model", name=name, node=schema)
    for name, keys in SOURCES.items():
        store.store(group="schema/data", name=name, node=keys)


def _store_option(group: str, name: str, node: dict[str, Any], package: str | None = None) -> None:
    """Register an option of a group with Hydra, unless ``conf/`` has a file for it."""
    if not (assets() / "conf" / group / f"{name}.yaml").is_file():
        ConfigStore.instance().store(group=group, name=name, node=node, package=package)


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Return what ``hydra.compose`` returns, faster: each combination of groups is composed only once.

    The groups of ``VALUES`` do not count in a combination: their options are set as values. Hydra must be initialized.

    Raises:
        HydraException: an unknown option or key, or a value of another type.
    """
    values = [override for override in overrides if _sets_a_value(override)]
    options = [override for override in overrides if not _sets_a_value(override)]
    settings = {option.partition("=")[0]: option_values(option) for option in options if config_name == "train"}
    chosen = tuple(option for option in options if not settings.get(option.partition("=")[0]))
    folders = str(GlobalHydra.instance().config_loader().get_search_path())
    composed = cast(DictConfig, pickle.loads(_of_groups(folders, config_name, chosen)))
    for group, setting in settings.items():
        if setting:
            OmegaConf.update(composed, group, setting)
    try:
        for override in OverridesParser.create().parse_overrides(values):
            OmegaConf.update(composed, override.key_or_group, override.value(), force_add=override.is_force_add())
    except (HydraException, OmegaConfBaseException):
        # Hydra's own error names the override.
        return hydra.compose(config_name, list(overrides))
    return composed


@lru_cache(maxsize=512)
def _of_groups(folders: str, config_name: str, overrides: tuple[str, ...]) -> bytes:  # noqa: ARG001 - for the cache
    """Return the composition of groups from Hydra's present search path, ``folders``, pickled.

    Reading it takes a fifth of the time that ``deepcopy`` takes.
    """
    return pickle.dumps(hydra.compose(config_name, list(overrides)))


@cache
def option_values(override: str) -> Resolved | None:
    """Return the values that ``group=option`` sets, for a group of ``VALUES``; None: Hydra must compose the option."""
    group, _, option = override.partition("=")
    path = assets() / "conf" / group / f"{option.strip(chr(39))}.yaml"
    if group not in VALUES or not path.is_file() or "@package" in path.read_text(encoding="utf-8"):
        return None
    values = cast(Resolved, OmegaConf.to_container(OmegaConf.load(path)))
    keys = {field.name for field in fields(VALUES[group])} - UNSET.get(group, set())
    return values if values.keys() == keys else None


def _sets_a_value(override: str) -> bool:
    """Return whether the override is ``key=value`` or ``++key=value`` with a key that is not a group."""
    key, equals, _ = override.removeprefix("++").partition("=")
    plain = key.replace(".", "").isidentifier() and not key.startswith("hydra.")
    return bool(equals) and plain and key not in groups()


def method(name: str, ctx: int) -> Method:
    """Return the layer and backbone of ``ttt-train model=<name>`` at a context of ``ctx`` tokens.

    Hydra must be initialized.

    Raises:
        MissingConfigException: no such option of the group.
    """
    overrides = [quote_option(f"model={name}"), f"ctx.length={ctx}"]
    config = as_object(compose("train", overrides), TrainConfig)
    return Method(config.model, config.backbone)


def composed_run(size: str, model: str, ctx: str, vocab: int) -> TrainConfig:
    """Return the configuration of ``ttt-train`` with options by name, for a vocabulary of ``vocab`` tokens.

    Hydra must be initialized.

    Raises:
        MissingConfigException: no such option of a group.
    """
    options = [f"size={size}", f"model={model}", f"ctx={ctx}"]
    return as_object(compose("train", [*map(quote_option, options), f"data.vocab_size={vocab}"]), TrainConfig)


@cache
def groups() -> list[str]:
    """Return the names of the groups of ``conf/``."""
    return sorted(folder.name for folder in (assets() / "conf").iterdir() if folder.is_dir())


def quote_option(argument: str) -> str:
    """Put numbers, null and booleans in quotes where they name a group's option: ``ctx=512,1k`` -> ``ctx='512',1k``.

    Without quotes Hydra reads them as values, which a group does not accept.

    Raises:
        UserError: an argument without a key.
    """
    key, equals, value = argument.partition("=")
    if not key:
        raise UserError(f"{argument}: not of the form key=value")
    if not equals or key not in groups():
        return argument
    options = (f"'{option}'" if _is_a_value(option) else option for option in value.split(","))
    return f"{key}={','.join(options)}"


def _is_a_value(option: str) -> bool:
    return option.isdecimal() or option.lower() in ("null", "true", "false")


def quote_text(argument: str, schema: Any = TrainConfig) -> str:
    """Put the value of a key that is free text in quotes, so that Hydra takes it as typed.

    ``null`` and a value in quotes stay as they are.
    """
    key, equals, value = argument.partition("=")
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if not equals or key.lstrip("+") not in free_text_keys(schema) or value == "null" or quoted:
        return argument
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def as_typed(argument: str, schema: Any) -> str:
    """Return an argument with free text as typed; ``~`` is the home folder, which sources of data look up themselves.

    A path that Hydra reads as it is stays without quotes, as it is recorded.
    """
    key, equals, value = argument.partition("=")
    if not equals or key not in free_text_keys(schema):
        return argument
    value = value if key.startswith("data.") else with_home(value)
    if PLAIN_PATH.fullmatch(value) and value.lower() not in ("true", "false", "nan", "inf"):
        return f"{key}={value}"
    return quote_text(f"{key}={value}", schema)


def spelled_out(argument: str) -> str:
    """Return ``from=FOLDER`` as ``parent.run=FOLDER``; ``from`` cannot be the name of a field in Python."""
    return f"parent.run={argument.removeprefix('from=')}" if argument.startswith("from=") else argument


def as_object(composed: DictConfig, schema: type[C]) -> C:
    """Return the configuration with every interpolation resolved, as an instance of ``schema``.

    Raises:
        UserError: a key that was added to the schema with ``+``.
        OmegaConfBaseException: a value that is missing or of another type, or an interpolation that cannot be resolved.
    """
    resolved = OmegaConf.to_object(composed)
    assert isinstance(resolved, schema)
    _refuse_added_keys(resolved, "")
    return resolved


def _refuse_added_keys(node: object, prefix: str) -> None:
    """Refuse attributes that no schema has: OmegaConf accepts any ``+key=value``, even if no code reads it."""
    if not is_dataclass(node):
        return
    known = [field.name for field in fields(node)]
    for name, value in vars(node).items():
        if name not in known:
            raise bad_value(f"{prefix}{name}", value, f"no such key; choose one of {', '.join(known)}")
        _refuse_added_keys(value, f"{prefix}{name}.")
