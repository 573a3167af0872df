"""Fixtures for all tests: a small corpus, a configuration that trains in a second, and programs that start fast."""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hypothesis import settings
from quick_imports import skip_unused_imports
from starter import Starter

from ttt.cli.compose import as_object, compose, quote_option, register_schemas
from ttt.config.assets import assets
from ttt.config.schema import TrainConfig

skip_unused_imports()
# With tensors this small more threads gain nothing, and cost much on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# Triton reads this variable when the kernels are imported. With a GPU, it compiles them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# On a busy machine an example may take arbitrarily long.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

TINY = [
    "size.width=16",
    "size.blocks=1",
    "size.heads=2",
    "size.mlp_hidden=32",
    "ctx.length=64",
    "recipe.tokens_per_step=256",
    "recipe.steps=12",
    "data.packages=[networkx]",
    "data.vocab_size=400",
    "data.eval_tokens=512",
    "trainer.device=cpu",
    "trainer.progress=false",
]


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """Leave what is imported so far out of garbage collections: they are half of a small training's time."""
    gc.freeze()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the tests prepare their corpus, once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny(cache: Path) -> list[str]:
    """Return overrides that make a run of ``ttt-train`` take a second."""
    return [*TINY, f"data.cache_dir={cache}"]


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Start programs in separate processes without waiting for imports."""
    starter = Starter(tmp_path_factory.mktemp("output"))
    yield starter
    starter.close()


@pytest.fixture(scope="session")
def hydra() -> Hydra:
    """Return one instance of Hydra for all tests; it remembers the combinations of groups that it has composed."""
    GlobalHydra.instance().clear()
    register_schemas()
    with initialize_config_dir(str(assets() / "conf"), version_base="1.3"):
        return GlobalHydra.instance().hydra


@pytest.fixture
def configure(tiny: list[str], hydra: Hydra) -> Iterator[Callable[..., TrainConfig]]:
    """Compose a tiny run's configuration with further overrides, as the command line does."""

    def composed(*overrides: str) -> TrainConfig:
        return as_object(compose("train", [*tiny, *map(quote_option, overrides)]), TrainConfig)

    GlobalHydra.instance().hydra = hydra
    yield composed
    GlobalHydra.instance().clear()


DESELECTED = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked ``gpu`` on a machine without one.

    Raises:
        pytest.UsageError: ``-m gpu`` was given, and no test remains.
    """
    if hasattr(config, "workerinput"):
        _slowest_files_first(items)
    if torch.cuda.is_available():
        return
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing and config.option.markexpr.strip() == "gpu":
        raise pytest.UsageError("-m gpu: torch finds no CUDA device here")
    config.stash[DESELECTED] = len(needing)
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if item not in needing]


def _slowest_files_first(items: list[pytest.Item]) -> None:
    """Put the tests on a cluster, which mostly wait, first, and sort the other files by their number of slow tests."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.parent.name != "slurm", -slow[item.path], item.path))


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Report the number of deselected tests in one line."""
    count = config.stash.get(DESELECTED, 0)
    return [f"{count} tests marked gpu are deselected: torch finds no CUDA device here"] if count else []
