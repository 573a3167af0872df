"""Names of run folders: the words for settings, and folders that are found by the run's id."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra

from ttt.cli.compose import as_object, compose, quote_option
from ttt.config.assets import assets
from ttt.config.folder_name import LONGEST_WORDS, folder_name
from ttt.config.identity import run_id
from ttt.config.schema import TrainConfig
from ttt.results.folders import find_run, folder_of
from ttt.train.planning import planned_parent, with_parent


@pytest.fixture
def standard(configure: Callable[..., TrainConfig], hydra: Hydra) -> Callable[..., TrainConfig]:  # noqa: ARG001 - start
    """Compose a configuration from the options in ``conf/`` and these overrides alone."""
    return lambda *overrides: as_object(compose("train", [*map(quote_option, overrides)]), TrainConfig)


def words(config: TrainConfig) -> str:
    """Return what a folder's name has besides the run's id."""
    names, seed, digest = run_id(config).rsplit("-", 2)
    name = folder_name(config)
    assert name.startswith(names)
    assert name.endswith(f"-{seed}-{digest}")
    return name.removeprefix(names).removesuffix(f"-{seed}-{digest}").removeprefix("-")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.eta_base=0.3", "model.mini_batch_size=8"], "b8-eta0.3"),
        (["model=ttt_mlp", "model.eta_base=0.3", "model.hidden=[4,4]"], "hidden_4+4-eta0.3"),
        (["model=ttt_mlp", "model.eta_base_start=0.02"], "eta_base_start0.02"),
        (["model.forget_gate=true", "model.residual=false"], "no_residual-forget_gate"),
        (["model=hybrid", "model.ttt_linear.eta_base=0.5"], "ttt_linear.eta0.5"),
        (["model=mamba", "model.norm_eps=1e-6"], "norm_eps1e-06"),
        (["size.mlp_hidden=156", "recipe.learning_rate=2e-3", "recipe.steps=20"], "mlp_hidden156-steps20-lr0.002"),
        (["size.learning_rate=2e-3"], "lr0.002"),
        (["kernel=primal", "backbone=transformer"], "kernel_primal"),
        (["data=local", "data.path=/some/where/my texts.txt", "data.workers=3"], "path_my_texts.txt"),
        (["trainer.max_steps=3", "seed=4", "ctx=2k", "data.eval_tokens=5"], ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_depart_have_words(
    standard: Callable[..., TrainConfig], overrides: list[str], expected: str
) -> None:
    assert words(standard(*overrides)) == expected


def test_no_option_departs_from_itself(standard: Callable[..., TrainConfig]) -> None:
    for group in ("model", "size", "data", "ctx"):
        for path in sorted((assets() / "conf" / group).glob("*.yaml")):
            assert words(standard(f"{group}={path.stem}")) == "", path


def test_a_child_names_its_parent(standard: Callable[..., TrainConfig]) -> None:
    parent = standard("model=transformer")
    child = with_parent(standard("model=transformer", "recipe=finetune"), planned_parent(parent, Path("runs/parent")))
    assert words(child) == f"finetune-from_{run_id(parent)[-8:]}"


def test_a_long_name_counts_the_settings_that_it_leaves_out(standard: Callable[..., TrainConfig]) -> None:
    config = standard("+ablation=row3", "recipe.clip=2", "data.vocab_size=500")
    assert words(config) == "b512-W_init_zero-no_norm-6more"
    assert len(words(config)) <= LONGEST_WORDS + len("-99more")


def test_a_folder_is_found_by_the_id_whatever_words_it_has(
    standard: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = standard("model.eta_base=0.3")
    name, runs = run_id(config), tmp_path / "runs"
    new = folder_name(config)
    assert find_run(runs, name) is None
    assert folder_of(config, runs) == runs / new != runs / name
    folders = [new, name, name.replace("-seed", "-other_words-seed")]
    others = [folder_name(replace(config, seed=1)), f"{new}-copy", f"x{new}"]
    for folder in [*others, *folders]:
        (runs / folder).mkdir(parents=True)
    assert find_run(runs, name) is None, "folders without records"
    for folder in others:
        (runs / folder / "record.json").touch()
    assert find_run(runs, name) is None
    for folder in (folders[2], folders[1]):
        (runs / folder / "record.json").touch()
        assert find_run(runs, name) == folder_of(config, runs) == runs / folder
