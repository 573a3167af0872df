"""Configurations that are the same run, and those that are not."""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest

from ttt.analysis.seeds import settings_of
from ttt.config.assets import assets
from ttt.config.identity import (
    FROZEN,
    FROZEN_IN_LAYERS,
    HASHED_AS,
    context_name,
    differences,
    identity,
    run_id,
    without_bookkeeping,
)
from ttt.config.layers import SHIPPED, TTTConfig
from ttt.config.plain import from_plain
from ttt.config.schema import DataConfig, LayerConfig, TrainConfig
from ttt.data.sources import data_schema
from ttt.results.folders import find_run
from ttt.results.record import Record, identity_of, read_record

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
    assert run_id(configure("ctx.length=2048", "seed=3")).startswith("ttt_linear-mamba-w64-2k-pycode-seed3-")


@pytest.mark.parametrize(("length", "name"), [(256, "256"), (1024, "1k"), (32768, "32k"), (1536, "1536")])
def test_contexts_are_named_as_their_group_names_them(length: int, name: str) -> None:
    assert context_name(length) == name


def test_differences_are_named_by_key(configure: Configure) -> None:
    ours, theirs = identity(configure()), identity(configure("seed=1", "model.mini_batch_size=8"))
    assert differences(ours, theirs) == ["model.mini_batch_size=16, not 8", "seed=0, not 1"]


def test_plain_containers_come_back_as_the_configuration(configure: Configure) -> None:
    config = configure()
    assert from_plain(asdict(config), TTTConfig, DataConfig) == config


def test_names_of_earlier_versions_are_translated(configure: Configure) -> None:
    config = configure("runs=elsewhere", "run=elsewhere/a")
    plain = asdict(config)
    plain |= {"runs_dir": plain.pop("runs"), "run_dir": plain.pop("run"), "forgotten": 1}
    assert from_plain(plain, TTTConfig, DataConfig) == config


GROUPS = ["model", "size", "ctx", "backbone", "kernel", "data", "recipe"]


@cache
def former_runs() -> list[Record]:
    """Return the ids and configurations of earlier runs, some of a size that ``conf/`` has no more.

    Their configurations have the keys that existed when the first runs were published.
    """
    return cast(list[Record], json.loads(Path(__file__).with_name("former_runs.json").read_text(encoding="utf-8")))


def records() -> list[Record]:
    """Return the first run with each layer of that time, with the other values of a record that its settings need."""
    found: dict[str, Record] = {}
    for run in former_runs():
        rest = {"data": {"digest": "abc"}, "steps_planned": run["config"]["recipe"]["steps"]}
        found.setdefault(run["config"]["model"]["name"], cast(Record, {**run, **rest}))
    assert found.keys() == FROZEN_IN_LAYERS.keys()
    return list(found.values())


def config_of(record: Record) -> TrainConfig:
    return from_plain(record["config"], SHIPPED[record["config"]["model"]["name"]], data_schema(record["config"]))


def with_new_key(config: TrainConfig, group: str, value: Any) -> TrainConfig:
    """Return the configuration with a key ``new: str = "usual"`` added to the schema of this group."""
    node = getattr(config, group)
    grown = make_dataclass("Grown", [("new", str, field(default="usual"))], bases=(type(node),))
    return replace(config, **{group: grown(**vars(node), new=value)})


def test_earlier_runs_keep_their_names() -> None:
    for run in former_runs():
        assert run_id(config_of(run)) == run["run_id"]
        assert identity(config_of(run)) == identity_of(run) == without_bookkeeping(run["config"])


def test_earlier_runs_are_of_every_kind() -> None:
    """Every layer and backbone, a parent, ``token_scale`` as a switch, and rows of Table 1 in their earlier form."""
    configs = [run["config"] for run in former_runs()]
    assert {config["model"]["name"] for config in configs} == FROZEN_IN_LAYERS.keys()
    assert {config["backbone"]["name"] for config in configs} == {"mamba", "transformer", "own"}
    assert {config["model"].get("token_scale") for config in configs} == {None, True, False}
    assert {config["ctx"]["length"] for config in configs} == {256, 512, 1024, 2048}
    assert {config["recipe"]["name"] for config in configs} == {"paper", "finetune"}
    assert {bool(config.get("parent")) for config in configs} == {True, False}
    assert {len(set(config["size"]["learning_rate"].values())) for config in configs} == {1, 2}


def test_committed_runs_keep_their_names() -> None:
    paths = list((assets() / "results/laptop").glob("*/record.json"))
    assert paths
    for path in paths:
        record = read_record(path)
        config = config_of(record)
        assert run_id(config) == record["run_id"]
        assert find_run(path.parent.parent, run_id(config)) == path.parent
        assert identity(config) == identity_of(record)


@pytest.mark.parametrize("group", GROUPS)
def test_a_later_key_renames_nothing_at_its_default(group: str) -> None:
    for record in records():
        config = config_of(record)
        usual, other = with_new_key(config, group, "usual"), with_new_key(config, group, "other")
        assert run_id(usual) == run_id(config) != run_id(other)
        settings = [settings_of({**record, "identity": identity(grown)}) for grown in (usual, other)]
        assert settings == [settings_of(record), settings_of(record) | {f"{group}.new": "other"}]
        assert differences(identity(usual), identity_of(record)) == []
        assert differences(identity(other), identity_of(record)) == [f"{group}.new=other, not None"]


def test_a_later_group_renames_nothing_at_its_defaults(configure: Configure) -> None:
    @dataclass
    class Optimizer:
        name: str = "adamw"

    @dataclass
    class Grown(TrainConfig):
        optimizer: Optimizer = field(default_factory=Optimizer)
        ema: float = 0.0

    config = configure()
    assert run_id(Grown(**vars(config))) == run_id(config)
    assert run_id(Grown(**vars(config), ema=0.9)) != run_id(config)
    assert run_id(Grown(**vars(config), optimizer=Optimizer("lion"))) != run_id(config)


def test_keys_of_an_added_layer_count_off_their_defaults(configure: Configure) -> None:
    @dataclass
    class EMAConfig(LayerConfig):
        decay: float = 0.9

    @dataclass
    class Grown(EMAConfig):
        bias: bool = False

    def named(layer: LayerConfig) -> str:
        return run_id(replace(configure(), model=layer))

    assert named(EMAConfig("ema")) == named(Grown("ema"))
    assert named(EMAConfig("ema", 0.5)) == named(Grown("ema", 0.5)) != named(EMAConfig("ema"))
    assert named(Grown("ema", bias=True)) != named(Grown("ema"))


def test_frozen_keys_exist(configure: Configure) -> None:
    plain = without_bookkeeping(asdict(configure()))
    for group, keys in FROZEN.items():
        assert set(keys) <= plain[group].keys()
    for name, keys in FROZEN_IN_LAYERS.items():
        assert set(keys) < asdict(SHIPPED[name]()).keys()


def test_a_size_with_one_learning_rate_is_the_size_that_had_a_table() -> None:
    tables = [record for record in records() if len(set(record["config"]["size"]["learning_rate"].values())) == 1]
    assert tables
    for old in tables:
        (rate,) = set(old["config"]["size"]["learning_rate"].values())
        new = copy.deepcopy(old)
        new["config"]["size"]["learning_rate"] = rate
        assert run_id(config_of(new)) == old["run_id"]
        assert settings_of({**new, "identity": identity(config_of(new))}) == settings_of(old)


def test_one_learning_rate_counts_as_the_table_that_it_replaces() -> None:
    translate = HASHED_AS["size", "learning_rate"]
    assert translate(0.01) == translate({"mamba": 0.01, "transformer": 0.01, "own": 0.01})
    assert json.dumps(translate(0.01)) == '{"transformer": 0.01, "mamba": 0.01, "own": 0.01}'
