"""``size.match=MODEL``, ``size.match_flops=MODEL``: the width at which a model is as large or as costly as another."""

import sys
from collections.abc import Callable
from dataclasses import replace

from hydra.errors import HydraException

from ttt.cli.compose import method
from ttt.cli.label import hydra_ready
from ttt.config.errors import UserError, bad_value
from ttt.config.schema import TrainConfig

TOLERANCE = {"match": 0.01, "match_flops": 0.02}
"""Largest relative difference of the parameters and of the FLOPs."""

WIDEST = 1 << 20


def with_matched_size(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the width that ``size.match`` or ``match_flops`` asks for.

    It says the width on standard error. The configuration, and so the run's name, is that of a user who gives the
    width.

    Raises:
        UserError: no such model, no width near enough to it, or both keys.
    """
    size = config.size
    if size.match is None and size.match_flops is None:
        return config
    if size.match is not None and size.match_flops is not None:
        raise UserError(f"size.match={size.match} size.match_flops={size.match_flops}: only one of them can be matched")
    if size.match is not None:
        return _matched(config, "match", size.match, _parameters, "parameters")
    return _matched(config, "match_flops", str(size.match_flops), _flops, "training FLOPs a token")


def _matched(
    config: TrainConfig, asked: str, other: str, measure: Callable[[TrainConfig], int], unit: str
) -> TrainConfig:
    wanted, own = measure(_other(config, asked, other)), config.model.name
    key, step = _free_key(config)

    def at(number: int) -> int:
        return measure(_resized(config, key, number * step))

    found = min(_neighbours(at, wanted), key=lambda number: abs(at(number) - wanted)) * step
    matched = _resized(config, key, found)
    measured = measure(matched)
    off = measured / wanted - 1
    numbers = f"size.{key}={found} gives {own} {measured:,} {unit}, {other} has {wanted:,} ({off:+.2%})"
    if abs(off) > TOLERANCE[asked]:
        raise bad_value(f"size.{asked}", other, f"{numbers}; no closer width, choose another size")
    print(f"size.{asked}={other}: {numbers}", file=sys.stderr)
    return matched


def _other(config: TrainConfig, asked: str, name: str) -> TrainConfig:
    """Return the configuration of the model to match, with its own backbone at the same size."""
    try:
        with hydra_ready():
            layer, backbone = method(name, config.ctx.length)
    except HydraException:
        raise bad_value(f"size.{asked}", name, "no such model; ttt-train --help lists them") from None
    return replace(config, model=layer, backbone=backbone)


def _resized(config: TrainConfig, key: str, number: int) -> TrainConfig:
    """Return the configuration with another number for a key of the size, and without a model to match."""
    size = replace(config.size, match=None, match_flops=None)
    setattr(size, key, number)
    return replace(config, size=size)


def _free_key(config: TrainConfig) -> tuple[str, int]:
    """Return the key of the size that may change, and the step in which it may."""
    size = config.size
    wider = replace(config, size=replace(size, mlp_hidden=size.mlp_hidden + 1))
    if _parameters(wider) != _parameters(config):
        return "mlp_hidden", 1
    if config.model.has_heads:
        return "width", 2 * size.heads
    # The heads of Mamba-2 are as wide as those of the other layers unless their width is given.
    return "width", size.heads if getattr(config.model, "head_dim", 1) is None else 1


def _neighbours(measured_at: Callable[[int], int], wanted: int) -> tuple[int, int]:
    """Return two adjacent numbers of at least 1 between whose measures ``wanted`` lies, by bisection."""
    low, high = 1, 2
    while measured_at(high) < wanted and high < WIDEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if measured_at(middle) < wanted else (low, middle)
    return low, high


def _parameters(config: TrainConfig) -> int:
    from ttt.models.count import counted_model

    return counted_model(config).parameters


def _flops(config: TrainConfig) -> int:
    from ttt.models.count import counted_model

    return round(counted_model(config).flops(config.ctx.length, tokens=1))
