"""Functions that the YAML files of ``conf/`` call."""

from decimal import Decimal

from omegaconf import OmegaConf


def register_resolvers() -> None:
    """Register the functions with OmegaConf."""
    OmegaConf.register_new_resolver("share", share, replace=True)


def share(part: float, whole: float) -> float:
    """Return ``part`` times ``whole`` as one writes it, for ``${share:0.1,${.key}}`` in ``conf/``.

    A tenth of 0.1 is 0.01, not 0.010000000000000002: the ids of runs are made from such values.
    """
    return float(Decimal(str(part)) * Decimal(str(whole)))
