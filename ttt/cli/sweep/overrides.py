"""Overrides of a sweep on the command line, read with Hydra's own parser."""

from dataclasses import replace

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException

from ttt.config.errors import UserError
from ttt.config.keys import free_text_keys
from ttt.config.schema import TrainConfig
from ttt.config.sweep import ADDED_GROUPS, Sweep, key_of, with_plus


def with_overrides(sweep: Sweep, overrides: list[str]) -> Sweep:
    """Return the sweep with overrides applied.

    Values for an axis replace its values. Several values for another key are a new axis, and a single value is an
    override of every run. Values are written as in Hydra: ``0,1``, ``range(0,3)`` or ``[4],[4,4]``. A path or other
    free text is a single value, as typed.

    Raises:
        UserError: an override that Hydra cannot read, or a sweep of Hydra that is not a list of values.
    """
    for override in overrides:
        sweep = _with_override(sweep, with_plus(override))
    return sweep


def _with_override(sweep: Sweep, override: str) -> Sweep:
    key = key_of(override)
    axis = next((axis for axis in sweep.axes if key_of(axis) == key), None)
    values = _values(override, must_parse=axis is not None)
    base = sweep.base
    if key in ADDED_GROUPS:
        # Hydra would add the group's option a second time.
        base = tuple(former for former in base if key_of(former) != key)
    if axis is None and values is not None and len(values) > 1:
        axis = override.partition("=")[0]
    if axis is None or values is None:
        return replace(sweep, base=(*base, override))
    return replace(sweep, base=base, axes={**sweep.axes, axis: values})


def _values(override: str, must_parse: bool) -> tuple[str, ...] | None:
    """Return the values of an override, or None where it has none or, unless ``must_parse``, is not Hydra's syntax.

    Free text is one value, as typed.
    """
    if key_of(override) in free_text_keys(TrainConfig):
        return (override.partition("=")[2],)
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        if must_parse:
            raise UserError(f"{override}: not a list of values as in Hydra; {str(error).splitlines()[0]}") from error
        return None
    if parsed.is_delete():
        return None
    if not parsed.is_sweep_override():
        return (parsed.get_value_element_as_str(),)
    value = parsed.value()
    if not isinstance(value, ChoiceSweep | RangeSweep) or value.shuffle:
        raise UserError(f"{override}: a sweep takes a list, choice(...) or range(...), not interval, glob or shuffle")
    values = tuple(map(Override._get_value_element_as_str, parsed.sweep_iterator()))
    if not values:
        raise UserError(f"{override}: has no values")
    return values
