"""Configurations that are the same run, and those that are not."""

from collections.abc import Callable
from dataclasses import asdict

import pytest

from ttt.config.identity import context_name, differences, identity, run_id
from ttt.config.layers import TTTConfig
from ttt.config.plain import from_plain
from ttt.config.schema import TrainConfig

Configure = Callable[..., TrainConfig]


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_steps=3",
        "trainer.device_batch=1",
        "trainer.logger=tensorboard",
        "runs=elsewhere",
        "run=here",
        "ckpt=last",
        "overwrite=true",
        "data.cache_dir=elsewhere",
        "kernel.checkpoint_group=4",
    ],
)
def test_bookkeeping_does_not_make_another_run(configure: Configure, override: str) -> None:
    assert run_id(configure(override)) == run_id(configure())


@pytest.mark.parametrize(
    "override",
    ["seed=1", "model=ttt_mlp", "backbone=transformer", "ctx.length=128", "recipe.clip=2", "model.mini_batch_size=8"],
)
def test_what_is_learned_makes_another_run(configure: Configure, override: str) -> None:
    assert run_id(configure(override)) != run_id(configure())


def test_the_name_can_be_read(configure: Configure) -> None:
    assert run_id(configure("ctx.length=2048", "seed=3")).startswith("ttt_linear-mamba-s1-2k-pycode-seed3-")


@pytest.mark.parametrize(("length", "name"), [(256, "256"), (1024, "1k"), (32768, "32k"), (1536, "1536")])
def test_contexts_are_named_as_their_group_names_them(length: int, name: str) -> None:
    assert context_name(length) == name


def test_differences_are_named_by_key(configure: Configure) -> None:
    ours, theirs = identity(asdict(configure())), identity(asdict(configure("seed=1", "model.mini_batch_size=8")))
    assert differences(ours, theirs) == ["model.mini_batch_size=16, not 8", "seed=0, not 1"]


def test_plain_containers_come_back_as_the_configuration(configure: Configure) -> None:
    config = configure()
    assert from_plain(asdict(config), TTTConfig) == config
