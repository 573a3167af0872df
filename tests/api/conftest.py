"""A tiny trained run."""

import os
from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra

from ttt.cli.compose import as_object, compose
from ttt.cli.train import train
from ttt.config.schema import TrainConfig


@pytest.fixture(scope="session")
def trained(tiny: list[str], hydra: Hydra, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a run of two steps in ``runs/NAME``."""
    start = tmp_path_factory.mktemp("start")
    GlobalHydra.instance().hydra = hydra
    before = Path.cwd()
    try:
        os.chdir(start)
        config = as_object(compose("train", [*tiny, "run=runs/NAME", "trainer.max_steps=2"]), TrainConfig)
        train(config, [])
    finally:
        os.chdir(before)
        GlobalHydra.instance().clear()
    return start
