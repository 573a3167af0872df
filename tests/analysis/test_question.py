"""Which runs a comparison over any keys draws, on which axes."""

import json
import math
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from ttt.analysis.names import changed_names, everywhere, everywhere_sentence
from ttt.analysis.question import Comparison, Question, compare_runs
from ttt.analysis.selection import selected
from ttt.analysis.store import Results, load_results
from ttt.config.errors import UserError
from ttt.results.record import RunFolder

synthetic = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))
make_run, departing = synthetic["make_run"], synthetic["departing"]


def make_sweep(folder: Path, sizes: tuple[int, ...] = (4, 16), rates: tuple[float, ...] = (0.1, 0.3, 1.0)) -> None:
    for b in sizes:
        for eta in rates:
            for seed in (0, 1):
                make_point(
                    folder, mini_batch_size=b, eta_base=eta, seed=seed, perplexity=30 + math.log2(b) + eta + seed
                )


def make_point(folder: Path, *names: str, **settings: Any) -> RunFolder:
    """Write a run with a result alone, which is quick."""
    return make_run(folder, *names, **{"steps": 1, "perplexity": 40.0, "evaluated": False} | settings)


def make_equal(folder: Path) -> None:
    departing(make_point(folder, "ttt_mlp", "mamba"), mlp_hidden=156)
    make_point(folder, "mamba", "own")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("sweep")
    make_sweep(folder)
    return load_results(folder)


def answer(results: Results, x: str = "", y: str = "perplexity", z: str = "", lines: str = "") -> Comparison:
    return compare_runs(results, Question(x, y, z, tuple(filter(None, lines.split(",")))))


def test_a_sweep_over_two_keys_has_the_longer_axis_as_x_and_the_other_as_lines(sweep: Results) -> None:
    comparison = answer(sweep)
    assert comparison.axes.x == "model.eta_base"
    assert comparison.axes.lines == ["model.mini_batch_size"]
    assert list(comparison.table["line"].unique()) == ["b = 4", "b = 16"]
    assert comparison.table.groupby("point")["seed"].nunique().tolist() == [2] * 6
    assert comparison.left_out == {}


@pytest.mark.parametrize("stopped", [False, True])
def test_a_mean_never_mixes_runs_that_were_stopped_early_with_whole_ones(stopped: bool, tmp_path: Path) -> None:
    for b in (4, 16):
        make_point(tmp_path, mini_batch_size=b, steps=3, steps_planned=3)
        make_point(tmp_path, mini_batch_size=b, steps=1, steps_planned=3, seed=1)
    comparison = answer(load_results(tmp_path, stopped=stopped), x="model.mini_batch_size")
    assert comparison.axes.lines == ["steps"]
    assert comparison.table.groupby("point")["run_id"].nunique().tolist() == [1] * 4


def test_a_key_that_nobody_asked_for_gets_lines_of_its_own(sweep: Results) -> None:
    comparison = answer(sweep, x="model.mini_batch_size", lines="method")
    assert comparison.axes.lines == ["method", "model.eta_base"]
    assert comparison.axes.extra == ["model.eta_base"]
    assert answer(sweep, x="model.mini_batch_size", lines="model.eta_base").axes.extra == []


def test_two_keys_make_the_cells_of_a_heat_map(sweep: Results) -> None:
    comparison = answer(sweep, x="model.mini_batch_size", z="model.eta_base")
    assert comparison.axes.lines == []
    assert comparison.table.groupby(["model.mini_batch_size", "model.eta_base"])["point"].nunique().tolist() == [1] * 6


def test_equal_parameters_are_bars_and_the_changed_model_has_a_name_of_its_own(tmp_path: Path) -> None:
    make_equal(tmp_path)
    comparison = answer(load_results(tmp_path))
    assert comparison.axes.x == ""
    assert list(comparison.table["line"]) == ["TTT-MLP (M), mlp_hidden = 156", "Mamba"]


def test_a_setting_of_all_runs_is_not_in_the_names_but_marked(tmp_path: Path) -> None:
    for run in (make_point(tmp_path, "mamba", "own"), make_point(tmp_path)):
        departing(run, mlp_hidden=156)
    assert list(answer(load_results(tmp_path)).table["line"]) == ["TTT-Linear (M)*", "Mamba*"]


def test_many_changes_are_counted_unless_two_runs_would_have_one_name(tmp_path: Path) -> None:
    settings = {"residual": False, "learnable_eta": False, "norm": False, "inner_bias": False}
    make_point(tmp_path)
    make_point(tmp_path, "ttt_mlp", "mamba", **settings)
    assert sorted(changed_names(load_results(tmp_path))) == ["", "4 other settings"]
    make_point(tmp_path, "ttt_mlp", "mamba", **settings | {"residual": True, "halved_loss": False})
    names = changed_names(load_results(tmp_path))
    assert len(set(names)) == 3
    assert not any("other settings" in name for name in names)


def test_changes_of_all_methods_are_marked_in_the_names_of_figures(tmp_path: Path) -> None:
    for run in (make_point(tmp_path, "mamba", "own"), make_point(tmp_path)):
        departing(run, mlp_hidden=156)
    results = load_results(tmp_path)
    assert changed_names(results) == ["*", "*"]
    assert everywhere_sentence(everywhere(results, results.runs["run_id"])) == "* mlp_hidden = 156 in all runs."


def test_no_two_lines_have_one_name(tmp_path: Path) -> None:
    for norm, other in ((False, "zero"), (True, "learnable")):
        settings = {"residual": norm, "learnable_eta": norm, "norm": norm, "W_init": other, "inner_bias": False}
        make_point(tmp_path, token_scale="fixed", **settings)
        make_point(tmp_path, halved_loss=False, **settings)
    table = answer(load_results(tmp_path), lines="method").table
    assert table["line"].nunique() == table["point"].nunique() == 4


def test_sizes_are_drawn_against_parameters_and_data_and_contexts_are_apart(tmp_path: Path) -> None:
    for size, ctx, data in (("w64", 512, "pycode"), ("w128", 512, "pycode"), ("w128", 1024, "books")):
        for model, backbone in (("mamba", "own"), ("ttt_linear", "mamba")):
            make_point(tmp_path, model, backbone, size, ctx, data=data)
    comparison = answer(load_results(tmp_path))
    assert comparison.axes.x == "parameters"
    assert comparison.axes.lines == ["method"]
    assert comparison.axes.panel == ["data", "ctx"]
    assert answer(load_results(tmp_path), x="flops").table.groupby("line")["flops"].nunique().tolist() == [2, 2]
    assert answer(load_results(tmp_path), x="ctx", lines="method").axes.panel == ["data"]


def test_a_run_without_the_key_of_the_x_axis_stays(tmp_path: Path) -> None:
    for b in (1, 4, 16):
        make_point(tmp_path, mini_batch_size=b)
    make_point(tmp_path, "mamba", "own")
    table = answer(load_results(tmp_path)).table
    assert table.loc[table["model"] == "mamba", "model.mini_batch_size"].isna().all()
    assert len(table) == 4


def test_a_run_that_stopped_early_is_no_seed_of_whole_runs(tmp_path: Path) -> None:
    make_point(tmp_path, seed=0, steps=4, perplexity=40)
    make_point(tmp_path, seed=1, steps=2, steps_planned=4, perplexity=60)
    table = answer(load_results(tmp_path)).table
    assert table["point"].nunique() == 2
    assert "steps = 2" in set(table["line"])


def test_runs_without_the_value_are_counted(tmp_path: Path) -> None:
    for b in (1, 4):
        make_point(tmp_path, mini_batch_size=b)
    make_point(tmp_path, mini_batch_size=8, status="diverged", perplexity=None)
    comparison = answer(load_results(tmp_path))
    assert comparison.left_out == {"without perplexity (diverged)": 1}
    assert len(comparison.table) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"x": "eta_base"}, "x=eta_base: no run has this key or measured value; did you mean model.eta_base?"),
        ({"y": "perplexty"}, "y=perplexty: no run has this measured value; did you mean perplexity"),
        ({"lines": "model.etabase"}, "lines=model.etabase: no run has this key; did you mean model.eta_base"),
        ({"x": "model.norm"}, "x=model.norm: all runs have true; they differ in model.mini_batch_size, model.eta_base"),
        (
            {"y": "bits_per_byte"},
            "y=bits_per_byte: none of 12 runs has it (12 finished); ttt-eval run=runs/NAME measures",
        ),
        ({"y": "memory"}, "y=memory: none of 12 runs has it (12 finished); runs before this version did not measure"),
        ({"y": "inner_loss"}, "y=inner_loss: none of 12 runs has it (12 finished); ttt-eval run=runs/NAME probe"),
    ],
)
def test_what_no_run_has_is_refused_with_the_nearest(sweep: Results, asked: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        answer(sweep, **asked)
    assert message in str(error.value)


def make_texts(folder: Path) -> None:
    """Write runs with two tokenizers, each with the bits per byte, the accuracy and the memory of a new run."""
    for size in (256, 1024):
        for model, backbone in (("mamba", "own"), ("ttt_linear", "mamba")):
            run = make_point(folder / str(size), model, backbone)
            record = json.loads(run.record.read_text())
            record["run_id"] += str(size)
            record["config"]["data"]["vocab_size"] = size
            record["data"]["digest"] = f"{size:06}" + 58 * "0"
            record["results"]["validation"] |= {"bits_per_byte": size / 100, "accuracy": 0.25}
            run.record.write_text(json.dumps(record | {"measurements": {"peak_memory": 2e9}}))


def test_other_data_have_panels_of_their_own_unless_the_value_compares_across_them(tmp_path: Path) -> None:
    make_texts(tmp_path)
    results = load_results(tmp_path)
    table = answer(results).table
    assert table["data"].nunique() == 2
    assert answer(results).axes.panel == ["data", "ctx"]
    across = answer(results, x="data.vocab_size", y="bits_per_byte", lines="method")
    assert across.axes.panel == ["ctx"]
    assert sorted(across.table["bits_per_byte"]) == [2.56, 2.56, 10.24, 10.24]
    with pytest.raises(UserError, match=r"^lines=data: perplexity of other data does not compare"):
        answer(results, lines="data")
    with pytest.raises(UserError, match=r"^x=data.vocab_size: accuracy of other data .*y=bits_per_byte$"):
        answer(results, x="data.vocab_size", y="accuracy")


def test_what_new_runs_measure_can_be_compared(tmp_path: Path) -> None:
    make_texts(tmp_path)
    results = load_results(tmp_path)
    assert set(answer(results, y="accuracy").table["accuracy"]) == {0.25}
    assert set(answer(results, y="memory").table["memory"]) == {2000.0}
    assert answer(results, x="memory", y="bits_per_byte").y.label == "Validation loss (bits per byte of text)"


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    make_point(tmp_path, seed=0)
    with pytest.raises(UserError, match="1 of 1 run has it, nothing to compare"):
        answer(load_results(tmp_path))
    make_point(tmp_path, seed=1)
    with pytest.raises(UserError, match="the 2 runs differ only in seed"):
        answer(load_results(tmp_path))
    for b in range(1, 18):
        make_point(tmp_path / "many", mini_batch_size=b)
    with pytest.raises(UserError, match="too much for one picture: 17 lines"):
        answer(load_results(tmp_path / "many"), x="parameters", y="loss", lines="model.mini_batch_size")


def test_selected_runs_have_the_values(sweep: Results) -> None:
    assert len(selected(sweep, "model.eta_base=0.10,1").runs) == 8
    chosen = selected(sweep, "model.eta_base=1,model.mini_batch_size=4,seed=1")
    assert len(chosen.runs) == len(chosen.labels) == len(chosen.settings) == 1
    assert set(chosen.metrics["run_id"]) == set(chosen.runs["run_id"])
    assert len(selected(sweep, "data=pycode,ctx=0.5k,model.norm=TRUE").runs) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sizes=w64", "select=sizes=w64: no run has the key sizes; did you mean size"),
        ("size=w64", "select=size=w64: no run has size=w64; choose one of w128"),
        ("model=ttt_liner", "no run has model=ttt_liner; did you mean ttt_linear?"),
        ("w64", "w64 has no key"),
    ],
)
def test_a_selection_of_nothing_is_refused_with_the_nearest(sweep: Results, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        selected(sweep, text)
    assert message in str(error.value)


def test_a_setting_that_is_a_list_has_a_name_in_every_picture(tmp_path: Path) -> None:
    make_point(tmp_path, "ttt_mlp", "mamba", hidden=[4, 4])
    departing(make_point(tmp_path, "hybrid", "transformer", pattern=["gla", "attention"]))
    results = load_results(tmp_path)
    lines = sorted(answer(results).table["line"])
    assert lines == ["TTT-MLP (M), hidden = [4,4]", "hybrid (T), pattern = [gla,attention]"]
    assert sorted(changed_names(results)) == ["hidden = [4,4]", "pattern = [gla,attention]"]
