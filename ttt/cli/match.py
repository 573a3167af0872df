"""``size.match=MODEL``: the width at which a model has as many parameters as another."""

import sys
from collections.abc import Callable
from dataclasses import replace

from hydra.errors import HydraException

from ttt.cli.compose import method
from ttt.cli.label import hydra_ready
from ttt.config.errors import bad_value
from ttt.config.schema import TrainConfig

TOLERANCE = 0.01
"""Largest relative difference of the parameters."""

WIDEST = 1 << 20


def with_matched_size(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the width that ``size.match`` asks for, and say it on standard error.

    The returned configuration, and so the run's name, is the one of a user who gives the width.

    Raises:
        UserError: no such model, or no width has within 1% of its parameters.
    """
    size = config.size
    if size.match is None:
        return config
    wanted, own = _parameters(_other(config)), config.model.name
    key, step = _free_key(config)

    def at(number: int) -> int:
        return _parameters(_resized(config, key, number * step))

    found = min(_neighbours(at, wanted), key=lambda number: abs(at(number) - wanted)) * step
    matched = _resized(config, key, found)
    parameters = _parameters(matched)
    off = parameters / wanted - 1
    numbers = f"size.{key}={found} gives {own} {parameters:,} parameters, {size.match} has {wanted:,} ({off:+.2%})"
    if abs(off) > TOLERANCE:
        raise bad_value("size.match", size.match, f"{numbers}; no closer width, choose another size")
    print(f"size.match={size.match}: {numbers}", file=sys.stderr)
    return matched


def _other(config: TrainConfig) -> TrainConfig:
    """Return the configuration of the model to match, with its own backbone at the same size."""
    name = str(config.size.match)
    try:
        with hydra_ready():
            layer, backbone = method(name, config.ctx.length)
    except HydraException:
        raise bad_value("size.match", name, "no such model; ttt-train --help lists them") from None
    return replace(config, model=layer, backbone=backbone)


def _resized(config: TrainConfig, key: str, number: int) -> TrainConfig:
    """Return the configuration with another number for a key of the size, and without ``size.match``."""
    size = replace(config.size, match=None)
    setattr(size, key, number)
    return replace(config, size=size)


def _free_key(config: TrainConfig) -> tuple[str, int]:
    """Return the key of the size that may change, and the step in which it may."""
    size = config.size
    wider = replace(config, size=replace(size, mlp_hidden=size.mlp_hidden + 1))
    if _parameters(wider) != _parameters(config):
        return "mlp_hidden", 1
    return "width", 2 * size.heads if config.model.has_heads else 1


def _neighbours(parameters_at: Callable[[int], int], wanted: int) -> tuple[int, int]:
    """Return two adjacent numbers of at least 1 between whose parameters ``wanted`` lies, by bisection."""
    low, high = 1, 2
    while parameters_at(high) < wanted and high < WIDEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters_at(middle) < wanted else (low, middle)
    return low, high


def _parameters(config: TrainConfig) -> int:
    from ttt.models.count import counted_model

    return counted_model(config).parameters
