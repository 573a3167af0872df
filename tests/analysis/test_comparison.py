from pathlib import Path
from runpy import run_path

import pandas as pd
import pytest

from ttt.analysis.comparison import RunRole, methods
from ttt.analysis.labels import describe_scope
from ttt.analysis.store import load_results
from ttt.analysis.table_1 import TABLE_1, table_1_runs
from ttt.cli.compose import as_object, compose
from ttt.cli.label import label_of
from ttt.config.plain import to_plain
from ttt.config.schema import TrainConfig

synthetic = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))
make_run, departing = synthetic["make_run"], synthetic["departing"]


def roles(folder: Path) -> dict[str, str]:
    rows = methods(load_results(folder))
    return dict(zip(rows["run_id"], rows["role"], strict=True))


def test_other_settings_of_a_layer_are_no_standard_method(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=1, perplexity=40, evaluated=False)
    make_run(tmp_path, steps=1, perplexity=30, evaluated=False, momentum=0.5)
    assert roles(tmp_path) == {run.path.name: RunRole.DRAWN}


def test_a_rope_base_is_tried_and_not_another_method(tmp_path: Path) -> None:
    usual = make_run(tmp_path, "transformer", "transformer", steps=1, perplexity=40, evaluated=False)
    better = make_run(tmp_path, "transformer", "transformer", steps=1, perplexity=39, evaluated=False, rope_base=5e5)
    assert roles(tmp_path) == {usual.path.name: RunRole.OTHER_SETTING, better.path.name: RunRole.DRAWN}


def test_settings_are_compared_on_the_seeds_that_all_have(tmp_path: Path) -> None:
    """The usual rate is better on seed 0, and the only rate on seed 1, which has a higher perplexity."""
    for seed, perplexity in ((0, 40), (1, 60)):
        make_run(tmp_path, seed=seed, steps=1, perplexity=perplexity, evaluated=False)
    for seed, perplexity in ((0, 45), (2, 41)):
        make_run(tmp_path, seed=seed, steps=1, perplexity=perplexity, evaluated=False, learning_rate=1e-2)
    assert list(roles(tmp_path).values()).count(RunRole.DRAWN) == 2
    assert {role for name, role in roles(tmp_path).items() if "lr0.01" in name} == {RunRole.OTHER_SETTING}


def test_a_search_on_one_seed_does_not_displace_what_was_run_with_several(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, steps=1, perplexity=40, evaluated=False)
    searched = make_run(tmp_path, steps=1, perplexity=39, evaluated=False, learning_rate=1e-2)
    assert roles(tmp_path)[searched.path.name] == RunRole.OTHER_SETTING


def test_a_setting_of_which_a_seed_diverged_comes_last(tmp_path: Path) -> None:
    safe = make_run(tmp_path, steps=1, perplexity=45, evaluated=False)
    fast = make_run(tmp_path, steps=1, perplexity=40, evaluated=False, learning_rate=1e-2)
    lost = make_run(tmp_path, seed=1, steps=1, status="diverged", evaluated=False, learning_rate=1e-2)
    assert roles(tmp_path) == {
        safe.path.name: RunRole.DRAWN,
        fast.path.name: RunRole.OTHER_SETTING,
        lost.path.name: RunRole.DIVERGED,
    }


def test_runs_planned_for_another_number_of_tokens_do_not_compare(tmp_path: Path) -> None:
    for model in ("ttt_linear", "ttt_mlp"):
        make_run(tmp_path, model, steps=2, perplexity=40, evaluated=False)
    longer = make_run(tmp_path, steps=5, perplexity=30, evaluated=False, learning_rate=1e-2)
    assert roles(tmp_path)[longer.path.name] == RunRole.OTHER_LENGTH


def test_a_child_without_its_parents_run_has_no_place_on_the_axis(tmp_path: Path) -> None:
    parent = make_run(tmp_path / "elsewhere", "transformer", "transformer", steps=1, perplexity=40)
    child = make_run(tmp_path / "runs", "transformer", "transformer", steps=1, perplexity=39, parent=parent)
    assert roles(tmp_path / "runs") == {child.path.name: RunRole.NO_PARENT}


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("row", TABLE_1)
def test_the_rows_of_table_1_are_those_of_the_configurations(row: int, tmp_path: Path) -> None:
    config = to_plain(as_object(compose("train", [f"+ablation=row{row}", "size=w128"]), TrainConfig))
    model, backbone = config["model"].pop("name"), config["backbone"]["name"]
    make_run(tmp_path, model, backbone, steps=1, perplexity=40, evaluated=False, **config["model"])
    assert table_1_runs(load_results(tmp_path))["row"].tolist() == [row]


def test_rows_of_table_1_at_a_changed_size_are_a_table_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path, steps=1, perplexity=40, evaluated=False)
    departing(make_run(tmp_path, steps=1, perplexity=30, evaluated=False, seed=1), width=32, heads=1)
    runs = table_1_runs(load_results(tmp_path))
    assert set(runs["role"]) == {RunRole.DRAWN}
    assert set(runs["size"]) == {"w128", "w128, heads = 1, width = 32"}


@pytest.mark.slow
@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("size", ["w64", "w192", "125m", "1.3b"])
@pytest.mark.parametrize("model", ["ttt_linear", "ttt_mlp", "transformer", "mamba", "linear_attention"])
def test_what_a_configuration_gives_is_standard_and_what_changes_it_is_not(model: str, size: str) -> None:
    def departures(*overrides: str) -> dict[str, object]:
        options = [f"model={model}", f"size={size}", "ctx=32k", *overrides]
        return label_of(as_object(compose("train", options), TrainConfig)).departures

    assert departures() == {}
    assert departures("size.mlp_hidden=99") == {"size.mlp_hidden": 99}


def test_a_run_that_was_stopped_early_counts_only_if_that_is_asked_for(tmp_path: Path) -> None:
    whole = make_run(tmp_path, steps=30, perplexity=40, evaluated=False)
    others = [("ttt_linear", 1), ("ttt_mlp", 0), ("ttt_mlp", 1)]
    stopped = [make_run(tmp_path, m, seed=s, steps=3, steps_planned=30, perplexity=60) for m, s in others]
    expected = {run.path.name: RunRole.STOPPED for run in stopped}
    assert roles(tmp_path) == {whole.path.name: RunRole.DRAWN} | expected
    results = load_results(tmp_path, stopped=True)
    assert results.describe_stopped(results.runs["run_id"]) == (
        "Stopped early by trainer.max_steps: 3 of 30 steps (3 runs)."
    )
    rows = methods(results)
    assert set(rows.loc[rows["run_id"] != whole.path.name, "role"]) == {RunRole.DRAWN}
    assert set(rows.loc[rows["run_id"] != whole.path.name, "steps_planned"]) == {3}


def test_a_scope_has_its_sizes_in_order() -> None:
    sizes = ["1.3b", "w192", "own", "125m", "w64", "w128", "760m"]
    rows = pd.DataFrame({"data": "pile", "size": sizes, "ctx": 512})
    words = describe_scope(rows).removeprefix("pile ").split("; ")
    assert [word.removesuffix(" at 512") for word in words] == ["125m", "760m", "1.3b", "own", "w64", "w128", "w192"]
