import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from synthetic import (
    METHODS,
    TOKENS_PER_STEP,
    make_answering,
    make_benchmark,
    make_context_gain,
    make_elsewhere,
    make_ladder,
    make_latency,
    make_needle,
    make_probe,
    make_run,
    make_scores,
)

import ttt.plots
from ttt.analysis.store import Results, load_results
from ttt.plots import files
from ttt.plots.files import save
from ttt.plots.registry import Figure, figures
from ttt.plots.style import paper_style
from ttt.results.record import RunFolder

FIGURES = figures()
SWEEPS = Path(ttt.plots.__file__).parents[1] / "sweeps"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("runs")
    for model, backbone in METHODS:
        for seed in (0, 1):
            make_run(folder, model, backbone, "w64", 64, seed, steps=30, perplexity=90 + seed)
            make_run(folder, model, backbone, "w128", 128, seed, steps=30, perplexity=50 + seed)
    make_run(folder, size="w64", ctx=128, steps=30, perplexity=88, evaluated=False)
    make_run(folder, size="w64", ctx=64, steps=1, perplexity=60, data="pile", evaluated=False)
    make_ladder(folder, seeds=(0,))
    make_latency(folder)
    make_run(folder, "ttt_linear", "mamba", "w128", 64, steps=5, steps_planned=30, evaluated=False, status="running")
    for model in ("ttt_linear", "ttt_mlp"):
        make_elsewhere(make_probe(make_run(folder, model, "mamba", "w64", 64, seed=0, steps=30)))
    make_context_gain(RunFolder(folder / "mamba-own-w128-128-0"), 2048, steps=30)
    make_scores(RunFolder(folder / "mamba-own-w128-128-0"))
    make_needle(RunFolder(folder / "mamba-own-w128-128-0"))
    for seed in (0, 1):
        make_answering(folder / "asked", "ttt_linear", 0.5 + 0.1 * seed, seed)
    make_benchmark(folder)
    return load_results(folder)


def rendered(figure: Figure, table: Any) -> bytes:
    return files.drawn(figure, table, ["png"])["png"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_it_is(name: str) -> None:
    figure = FIGURES[name]
    texts = {key: value for key, value in vars(figure).items() if isinstance(value, str)}
    assert all(text and "\n" not in text for text in texts.values())
    assert figure.id == name
    sweep = figure.give.partition("sweep=")[2].partition(" ")[0]
    if sweep:
        scale = "laptop" if "scale=laptop" in figure.give else "paper"
        assert (SWEEPS / scale / f"{sweep}.yaml").is_file()
    else:
        assert figure.give.startswith(("ttt-bench ", "ttt-eval ", "ttt-train"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_equal_numbers_give_equal_files_whatever_the_users_settings(
    name: str, results: Results, tmp_path: Path
) -> None:
    figure = FIGURES[name]
    table = figure.table(figure.of(results))
    named = {name for column in ("run_id", "benchmark_id") if column in table for name in table[column].dropna()}
    assert named
    assert named <= set(results.runs["run_id"]) | set(results.benchmarks["benchmark_id"])
    first = save(figure, table, tmp_path / "1")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9}):
        before: dict[str, Any] = dict(matplotlib.rcParams)
        second = save(figure, figure.table(figure.of(results)), tmp_path / "2")
        assert dict(matplotlib.rcParams) == before
    assert [path.name for path in first] == [f"{name}.png", f"{name}.pdf", f"{name}.csv"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[1].read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", FIGURES)
def test_no_runs_give_a_table_without_rows(name: str, tmp_path: Path) -> None:
    assert FIGURES[name].table(load_results(tmp_path)).empty


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_the_least_that_a_figure_needs_suffices(name: str, tmp_path: Path) -> None:
    make_probe(make_run(tmp_path / "runs", "gla", "own", "w64", 64, steps=1, perplexity=60), layers=1)
    if name in ("context", "best_context"):
        make_run(tmp_path / "runs", "gla", "own", "w64", 128, steps=1, perplexity=59)
    if name == "pile_scaling":
        make_run(tmp_path / "runs", "gla", "own", "w64", 64, steps=1, perplexity=60, data="pile", evaluated=False)
    if name == "ablation":
        make_run(tmp_path / "runs", "linear_attention", "transformer", "w64", 64, steps=1, perplexity=60)
    if name == "elsewhere":
        make_elsewhere(RunFolder(next((tmp_path / "runs").iterdir())), steps=1)
    if name == "tasks":
        make_scores(RunFolder(next((tmp_path / "runs").iterdir())))
    if name == "context_gain":
        make_context_gain(RunFolder(next((tmp_path / "runs").iterdir())), 1024, documents=1)
    if name == "needle":
        make_needle(RunFolder(next((tmp_path / "runs").iterdir())), lengths=(128,))
    if name == "recall":
        make_answering(tmp_path / "runs", "gla", 0.5)
    make_benchmark(tmp_path / "runs", sizes=(1, 16))
    make_latency(tmp_path / "runs", {"gla": (1e-4, 0.0)}, contexts=(512,))
    figure = FIGURES[name]
    assert rendered(figure, figure.table(load_results(tmp_path / "runs")))


def drawn(figure: Figure, results: Results) -> Any:
    with paper_style():
        canvas = figure.draw(figure.table(figure.of(results)))
        canvas.draw_without_rendering()
    return canvas


def texts(canvas: Any) -> list[str]:
    return [text.get_text() for text in canvas.legends[0].get_texts()]


@pytest.mark.slow
def test_per_token_is_logarithmic_with_plain_ticks_and_a_line_a_method(results: Results) -> None:
    canvas = drawn(FIGURES["per_token"], results)
    axes = canvas.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert texts(canvas) == ["TTT-Linear (M)", "TTT-MLP (M)", "Transformer", "Mamba"]
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["64", "16"]
    assert all(label.get_text().replace(".", "").isdigit() for label in axes.get_yticklabels())
    assert "64 windows of the validation text" in canvas.get_supxlabel()
    assert "2 seeds" in canvas.get_supxlabel()
    titles = [panel.get_title() for panel in canvas.axes if panel.axison]
    assert titles == ["size w64, context of 64 tokens", "size w128, context of 128 tokens"]


def test_per_token_smooths_in_nats(tmp_path: Path) -> None:
    run = make_run(tmp_path, ctx=256)
    results = load_results(tmp_path)
    rows = results.metrics
    by_position = (rows["metric"] == "loss") & rows["position"].notna()
    rows.loc[by_position, "value"] = 5 - 0.5 * np.log(rows.loc[by_position, "position"].to_numpy(float))
    table = FIGURES["per_token"].table(FIGURES["per_token"].of(results))
    assert set(table["run_id"]) == {run.path.name}
    assert table["token_index"].is_monotonic_increasing
    np.testing.assert_allclose(table["loss"], 5 - 0.5 * np.log(table["token_index"]), atol=0.03)
    np.testing.assert_allclose(table["perplexity"], np.exp(table["loss"]))


def test_per_token_takes_the_last_evaluation_and_names_unfinished_runs(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0, steps=20, steps_planned=40, status="interrupted")
    make_run(tmp_path, seed=1, steps=10, steps_planned=40, status="interrupted")
    figure, results = FIGURES["per_token"], load_results(tmp_path)
    assert set(figure.table(figure.of(results))["step"]) == {20}
    caption = drawn(figure, results).get_supxlabel().replace("\n", " ")
    assert "before the planned end of training: TTT-Linear (M)" in caption


def test_runs_that_were_stopped_early_do_not_shorten_the_others(tmp_path: Path) -> None:
    whole = make_run(tmp_path, steps=30, perplexity=40)
    for model, seed in (("ttt_linear", 1), ("ttt_mlp", 0), ("ttt_mlp", 1)):
        make_run(tmp_path, model, seed=seed, steps=3, steps_planned=30, perplexity=60)
    for name in ("training", "per_token"):
        table = FIGURES[name].table(load_results(tmp_path))
        assert set(table["run_id"]) == {whole.path.name}
        assert table.get("tokens", table["step"] * TOKENS_PER_STEP).max() == 30 * TOKENS_PER_STEP


def test_a_caption_names_the_runs_that_were_stopped_early(tmp_path: Path) -> None:
    make_run(tmp_path, steps=3, steps_planned=30, ctx=64, perplexity=60)
    results = load_results(tmp_path, stopped=True)
    table = FIGURES["training"].table(FIGURES["training"].of(results))
    note = files.stopped_note(results, table)
    assert note == "Stopped early by trainer.max_steps: 3 of 30 steps (1 run)."
    assert files.drawn(FIGURES["training"], table, ["png"], note) != files.drawn(FIGURES["training"], table, ["png"])


def test_training_draws_unfinished_runs_against_tokens(results: Results) -> None:
    figure = FIGURES["training"]
    table = figure.table(figure.of(results))
    running = table[table["status"] == "running"]
    assert running["tokens"].tolist() == [TOKENS_PER_STEP * step for step in range(1, 6)]
    canvas = drawn(figure, results)
    assert canvas.axes[0].get_ylabel() == "Training loss (nats/token)"
    assert "Training tokens (thousands)" in [axes.get_xlabel() for axes in canvas.axes]


def test_training_groups_the_steps_of_long_runs(tmp_path: Path) -> None:
    make_run(tmp_path, steps=2001, evaluated=False)
    table = FIGURES["training"].table(load_results(tmp_path))
    assert len(table) == 201
    assert table["step"].tolist()[-2:] == [2000, 2001]


def test_mini_batch_size_draws_time_alone_where_no_runs_differ_in_it(results: Results) -> None:
    canvas = drawn(FIGURES["mini_batch_size"], results)
    (axes,) = canvas.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Mini-batch size b (tokens)", "Forward time (ms)")
    assert texts(canvas) == ["Total", "Time for W", "Time for z"]
    assert axes.lines[1].get_xdata().tolist() == [1, 4, 16, 64]
    np.testing.assert_allclose(axes.lines[1].get_ydata()[0], 102)
    caption = canvas.get_supxlabel().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")
    assert "width 256, 4 heads, T = 2,048, batch 1, float32, 1 thread of " in caption


def test_mini_batch_size_draws_no_times_of_mini_batches_in_chunks(tmp_path: Path) -> None:
    path = make_benchmark(tmp_path)
    assert len(FIGURES["mini_batch_size"].table(load_results(tmp_path))) == 12
    benchmark = json.loads(path.read_text().replace('"total"', '"forward"'))
    del benchmark["sha256"]
    path.write_text(json.dumps(benchmark))
    assert FIGURES["mini_batch_size"].table(load_results(tmp_path)).empty


def test_mini_batch_size_draws_quality_of_runs_that_differ_in_nothing_else(tmp_path: Path) -> None:
    make_benchmark(tmp_path)
    for b, perplexity in ((1, 30.0), (16, 32.0), (64, 40.0)):
        for seed in (0, 1):
            make_run(tmp_path, seed=seed, steps=2, perplexity=perplexity + seed, mini_batch_size=b)
            make_run(tmp_path, "transformer", "transformer", seed=seed, steps=2, perplexity=9, mini_batch_size=b)
    make_run(tmp_path, steps=2, perplexity=99, mini_batch_size=4, status="diverged")
    make_run(tmp_path, steps=2, perplexity=99, mini_batch_size=4, momentum=0.5)
    make_run(tmp_path, size="w64", steps=2, perplexity=99, mini_batch_size=4)
    make_run(tmp_path, size="w64", steps=2, perplexity=99, mini_batch_size=16)
    canvas = drawn(FIGURES["mini_batch_size"], load_results(tmp_path))
    quality, time = canvas.axes
    line, diverged = quality.lines
    assert diverged.get_xdata() == [4]
    assert diverged.get_marker() == "x"
    assert line.get_xdata().tolist() == [1, 16, 64]
    assert line.get_ydata().tolist() == [30.5, 32.5, 40.5]
    assert len(time.lines) == 3
    assert "size w128, context of 512 tokens, pycode. Mean of 2 seeds" in canvas.get_supxlabel().replace("\n", " ")


def test_mini_batch_size_takes_the_newest_benchmark_with_several(tmp_path: Path) -> None:
    make_benchmark(tmp_path, sizes=(1, 2, 4, 8))
    make_benchmark(tmp_path, sizes=(1, 2, 4), model="mlp")
    chosen = make_benchmark(tmp_path, sizes=(1, 2))
    make_benchmark(tmp_path, sizes=(16,))
    table = FIGURES["mini_batch_size"].table(load_results(tmp_path))
    assert set(table["benchmark_id"]) == {chosen.parent.name}
    assert len(table) == 6


def test_inner_loss_has_a_panel_for_each_layer_of_each_method(results: Results) -> None:
    canvas = drawn(FIGURES["inner_loss"], results)
    titles = [axes.get_title(loc="left") for axes in canvas.axes]
    expected = [
        "TTT-Linear (M), b = 16, size w64\nlayer 1",
        "layer 2",
        "TTT-MLP (M), b = 16, size w64\nlayer 1",
        "layer 2",
    ]
    assert titles == expected
    assert {axes.get_yscale() for axes in canvas.axes} == {"linear"}
    assert [axes.get_ylabel() for axes in canvas.axes] == ["Inner loss\n(squared error per dimension)", ""] * 2
    assert {axes.get_xlabel() for axes in canvas.axes} == {"Token index t (tokens)"}
    assert texts(canvas) == ["under $W_0$", "under $W_{t-1}$", "under $W_t$"]
    caption = canvas.get_supxlabel().replace("\n", " ")
    assert "all heads and 8 windows of validation documents, after 30 training steps" in caption
    assert "moving average over 10 positions" in caption


def test_context_gain_is_about_the_targets_of_most_runs_at_the_longest_context(tmp_path: Path) -> None:
    for seed in (0, 1):
        for ctx in (512, 2048):
            run = make_run(tmp_path, ctx=ctx, seed=seed, steps=1, perplexity=40, evaluated=False)
            make_context_gain(run, ctx, gain=0.02 + 0.01 * seed, foreign=-0.01)
    alone = make_run(tmp_path, "mamba", "own", ctx=2048, steps=1, perplexity=40, evaluated=False)
    make_context_gain(alone, 2048, targets="other")
    table = FIGURES["context_gain"].table(load_results(tmp_path))
    assert set(table["run_id"]) == {f"ttt_linear-mamba-w128-2048-{seed}" for seed in (0, 1)}
    gains = table.pivot(index="context", columns=["seed", "control"], values="gain")
    bias = 0.01 * np.mean([math.sin(17 * document + 1) for document in range(12)])
    for seed in (0, 1):
        assert gains[seed, "own"].tolist() == pytest.approx([k * (0.02 + 0.01 * seed + bias) for k in range(3)])
        assert gains[seed, "foreign"].tolist()[1:] == pytest.approx([-0.01, -0.02])
    assert (table["half_width"][table["control"] == "foreign"] < 1e-6).all()
    assert (table["half_width"][(table["control"] == "own") & (table["context"] > 256)] > 0.002).all()
    canvas = drawn(FIGURES["context_gain"], load_results(tmp_path))
    assert texts(canvas) == ["TTT-Linear (M)", "beyond 512: another document", "beyond 512: shuffled"]
    (axes,) = canvas.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["256", "768", "1,792"]
    assert "24 windows of 12 documents (validation)" in canvas.get_supxlabel().replace("\n", " ")
    assert "bands: lowest to highest" in canvas.get_supxlabel()
    assert not any(run_id in canvas.get_supxlabel() for run_id in table["run_id"])


def test_inner_loss_takes_the_validation_and_smooths_over_ten_positions(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=2, evaluated=False)
    make_probe(run, T=32, split="test", steps=9)
    assert set(FIGURES["inner_loss"].table(load_results(tmp_path))["split"]) == {"test"}
    make_probe(run, T=32)
    table = FIGURES["inner_loss"].table(load_results(tmp_path))
    assert set(table["split"]) == {"validation"}
    first = table[table["layer"] == 1].set_index("position")
    assert first.index.tolist() == [t + 0.5 for t in range(1, 32)]
    np.testing.assert_allclose(first.loc[10.5, "loss_after"], np.mean([4 + 12 / t for t in range(6, 16)]))
    np.testing.assert_allclose(first.loc[1.5, "loss_after"], np.mean([4 + 12 / t for t in range(1, 7)]))


def test_inner_loss_of_several_seeds_is_a_mean_with_a_band(tmp_path: Path) -> None:
    for seed, layers in ((0, 2), (1, 2), (2, 2)):
        make_probe(make_run(tmp_path, seed=seed, steps=2, evaluated=False), layers, T=32)
    results = load_results(tmp_path)
    first = results.inner_loss["run_id"] == results.inner_loss["run_id"].iloc[0]
    results.inner_loss.loc[first, "loss_after"] += 3.0
    canvas = drawn(FIGURES["inner_loss"], results)
    assert len(canvas.axes) == 2
    after = next(line for line in canvas.axes[0].lines if line.get_label() == "under $W_t$")
    one = np.mean([4 + 12 / t for t in range(6, 16)])
    np.testing.assert_allclose(after.get_ydata()[9], one + 1)
    edges = canvas.axes[0].collections[2].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(
        (edges.min(), edges.max()), (4 + 12 / 32, np.mean([7 + 12 / t for t in range(1, 7)])), rtol=0.1
    )
    assert "mean of 3 seeds; bands: lowest to highest" in canvas.get_supxlabel().replace("\n", " ")


def test_inner_loss_of_many_layers_and_long_sequences_stays_readable(tmp_path: Path) -> None:
    make_probe(make_run(tmp_path, steps=2, evaluated=False), layers=6, T=3000)
    results = load_results(tmp_path)
    # An inner loop that diverges: its losses grow a hundredfold and then end.
    values = results.inner_loss["loss_before"]
    last = results.inner_loss["layer"] == 6
    results.inner_loss["loss_before"] = values.mask(last & (results.inner_loss["position"] > 2000), 1e5)
    results.inner_loss.loc[last & (results.inner_loss["position"] > 2500), "loss_before"] = np.inf
    assert FIGURES["inner_loss"].table(FIGURES["inner_loss"].of(results)).groupby("layer").size().max() <= 600
    canvas = drawn(FIGURES["inner_loss"], results)
    shown = [axes for axes in canvas.axes if axes.axison]
    assert [axes.get_title(loc="left")[-7:] for axes in shown] == [f"layer {number}" for number in range(1, 7)]
    assert [axes.get_yscale() for axes in shown] == ["linear"] * 5 + ["log"]
    assert [bool(axes.get_xlabel()) for axes in shown] == [False] * 2 + [True] * 4
