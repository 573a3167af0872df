"""Functions that the YAML files of ``conf/`` call."""

from omegaconf import OmegaConf

from ttt.config.folder_name import share


def register_resolvers() -> None:
    """Register the functions with OmegaConf."""
    OmegaConf.register_new_resolver("share", share, replace=True)
