"""Labels of runs: their settings compared with the configurations that Hydra composes from ``conf/``."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from ttt.cli.compose import option_values, quote_option, register_schemas
from ttt.config.assets import assets
from ttt.config.label import TRIED, TRIED_IN_TEXT, Label, TableForm, names_only
from ttt.config.layers import MODELS
from ttt.config.plain import present_values, to_plain
from ttt.config.schema import LayerConfig, Resolved, TrainConfig

STANDARDS = "standards"
"""Name of a primary configuration with only the groups that a label needs; it composes in 0.1 s."""

NOT_COMPARED = {"name", "learning_rate"}
"""Keys of ``model`` and ``size`` that are not settings of a layer or a shape."""

LAYERS_OF_TABLE_1 = ("linear_attention", "ttt_linear")
"""Layers of the rows of Table 1; other runs are not compared with the rows, to save time."""


def label_of(config: TrainConfig) -> Label:
    """Return the label of a run with this configuration."""
    return label_of_plain(to_plain(config))


def label_of_plain(config: Resolved) -> Label:
    """Return the label of a run from its configuration as plain containers, such as in its record.

    A model, size or key that ``conf/`` does not have counts as no departure.
    """
    label = names_only(config)
    config = config | {"model": present_values(MODELS.get(label.model, LayerConfig), config["model"])}
    departures: dict[str, Any] = {}
    for group, name in (("model", label.model), ("size", label.size)):
        changed = _departures(name, config[group], standard(group, name, label.ctx))
        departures |= {f"{group}.{key}": value for key, value in changed.items()}
    row, form = _row_and_form(label, config["model"])
    return replace(label, departures=departures, row=row, form=form)


def _departures(name: str, values: Resolved, default: Resolved) -> Resolved:
    """Return the values of the layer or size ``name`` that differ from ``default``; a hybrid's layers key by key."""
    changed: Resolved = {}
    for key in sorted(default.keys() & values.keys()):
        if isinstance(values[key], dict) and isinstance(default[key], dict):
            inner = _departures(key, values[key], default[key])
            changed |= {f"{key}.{own}": value for own, value in inner.items()}
        elif values[key] != default[key]:
            changed[key] = values[key]
    if "eta_base" in changed and _start_follows(name, values):
        changed.pop("eta_base_start", None)
    return changed


def standard(group: str, name: str, ctx: int = 512) -> Resolved:
    """Return the settings of an option of ``model`` or ``size`` at a context.

    The result is empty for an unknown option, or for one that refers to groups that ``STANDARDS`` lacks.
    """
    if group == "size" and (values := option_values(f"size={name}")):
        return _compared(values)
    composed = _composed(f"{group}={name}")
    try:
        return {} if composed is None else _settings(composed, group, ctx)
    except InterpolationResolutionError:
        return {}


def _start_follows(name: str, model: Resolved) -> bool:
    """Return whether ``eta_base_start`` is what it is if only ``eta_base`` is set."""
    return model.get("eta_base_start") == _start_of(name, model["eta_base"])


@cache
def _start_of(name: str, eta_base: float) -> float:
    composed = deepcopy(_composed(f"model={name}"))
    assert composed is not None
    composed.model.eta_base = eta_base
    return float(composed.model.eta_base_start)


def table_1_row(number: int, ctx: int) -> tuple[str, str, Resolved]:
    """Return the layer, the backbone and the layer's settings of a row of Table 1 at a context."""
    composed = _composed(f"+ablation=row{number}")
    assert composed is not None
    return composed.model.name, composed.backbone.name, _settings(composed, "model", ctx)


def _row_and_form(label: Label, model: Resolved) -> tuple[int | None, TableForm | None]:
    if label.model not in LAYERS_OF_TABLE_1:
        return None, None
    # Last rows first: a standard TTT-Linear (M), the most frequent run, is the last row.
    for number in reversed(range(1, _rows() + 1)):
        layer, backbone, settings = table_1_row(number, label.ctx)
        if (layer, backbone) == (label.model, label.backbone):
            for form, changed, tried in _forms():
                expected = (settings | changed).items()
                if all(model.get(key, value) == value for key, value in expected if f"model.{key}" not in tried):
                    return number, form
    return None, None


@cache
def _rows() -> int:
    return len(list((assets() / "conf" / "ablation").glob("row*.yaml")))


def _forms() -> Iterator[tuple[TableForm, Resolved, set[str]]]:
    """Yield each form of a row with the settings that it changes, and the settings that may have any value."""
    yield TableForm.RELEASED, {}, TRIED
    yield TableForm.PAPER, _paper_text(), TRIED | TRIED_IN_TEXT
    yield TableForm.SHORT_ROPE, {"rope_period": standard("model", "ttt_linear")["mini_batch_size"]}, TRIED


@cache
def _paper_text() -> Resolved:
    """Return the settings of the paper's text that differ from the released code."""
    composed = _composed("+ablation=paper_text")
    assert composed is not None
    released = standard("model", composed.model.name)
    return {key: value for key, value in _settings(composed, "model", 512).items() if value != released[key]}


def _settings(composed: DictConfig, group: str, ctx: int) -> Resolved:
    composed.ctx.length = ctx
    return _compared(cast(Resolved, OmegaConf.to_container(composed[group], resolve=True)))


def _compared(values: Resolved) -> Resolved:
    return {key: value for key, value in values.items() if key not in NOT_COMPARED}


@cache
def _composed(override: str) -> DictConfig | None:
    with hydra_ready():
        defaults = [{"size": "w64"}, {"ctx": "512"}, {"backbone": "mamba"}, {"model": "ttt_linear"}, "_self_"]
        ConfigStore.instance().store(name=STANDARDS, node={"defaults": defaults})
        try:
            return hydra.compose(STANDARDS, [quote_option(override)])
        except HydraException:
            return None


@contextmanager
def hydra_ready() -> Iterator[None]:
    """Initialise Hydra unless it is initialised already. One block around many labels initialises it once for all."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    register_schemas()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(assets() / "conf")):
        yield
