"""No run vanishes from a picture without a word, and a changed model never has the name of the standard one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import departing, make_elsewhere, make_probe, make_run

from ttt.analysis.left_out import left_out, left_out_in_short
from ttt.analysis.store import Results, load_results
from ttt.cli.plot import main
from ttt.plots.files import runs_note
from ttt.plots.panels import LINE
from ttt.plots.registry import figures
from ttt.plots.style import PAPER, method_name

FIGURES = figures()


def sentence(name: str, results: Results) -> str:
    return left_out(results, FIGURES[name].table(results))


def names(table: Any) -> set[str]:
    return {method_name(*line) for line in table[LINE].drop_duplicates().itertuples(index=False)}


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with Mamba and TTT-MLP at equal parameters."""
    folder = tmp_path_factory.mktemp("equal")
    make_run(folder, "mamba", "own", ctx=64, steps=2, perplexity=42)
    departing(make_run(folder, "ttt_mlp", "mamba", ctx=64, steps=2, perplexity=40), mlp_hidden=156)
    return folder


@pytest.mark.parametrize("name", ["training", "books_scaling"])
def test_a_changed_model_that_is_not_drawn_is_counted(name: str, equal: Path) -> None:
    said = sentence(name, load_results(equal))
    assert said == (
        "Left out: 1 run with other settings than the standard (size.mlp_hidden). ttt-plot compare draws any run."
    )


@pytest.mark.slow
def test_the_terminal_and_the_caption_say_it(
    equal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = []
    monkeypatch.setattr("ttt.plots.files.rendered", lambda canvas, _: captions.append(canvas.get_supxlabel()) or b"")
    main(["training", f"runs={equal}", f"out={tmp_path}"])
    assert capsys.readouterr().err.startswith(
        "training: Left out: 1 run with other settings than the standard (size.mlp_hidden)."
    )
    assert "Left out: 1 (other settings); ttt-plot compare draws any." in captions[0].replace("\n", " ")
    main(["training", *(str(path) for path in equal.iterdir()), f"out={tmp_path}"])
    assert capsys.readouterr().err == ""
    assert "Left out" not in captions[-1]


@pytest.mark.slow
def test_a_second_inner_rate_is_counted_beside_the_mini_batch_sizes(tmp_path: Path) -> None:
    for b in (4, 16):
        for eta in (1.0, 2.0):
            make_run(tmp_path, mini_batch_size=b, eta_base=eta, steps=1, perplexity=40, evaluated=False)
    assert "2 runs with other settings than the standard (model.eta_base" in sentence(
        "mini_batch_size", load_results(tmp_path)
    )


def test_other_contexts_are_counted(tmp_path: Path) -> None:
    for ctx in (16, 32, 64):
        make_run(tmp_path, ctx=ctx, steps=1, perplexity=40)
    said = sentence("per_token", load_results(tmp_path))
    assert said.startswith("Left out: 2 runs of other data, sizes, contexts, methods or measurements than it draws.")
    assert "select=KEY=VALUE" in said


def test_reasons_are_told_apart_in_the_few_words_of_a_caption_too(tmp_path: Path) -> None:
    make_run(tmp_path, ctx=64, steps=1, perplexity=40, evaluated=False)
    make_run(tmp_path, ctx=64, steps=1, perplexity=50, learning_rate=1e-2, evaluated=False)
    make_run(tmp_path, "mamba", "own", ctx=64, steps=1, status="running", evaluated=False)
    results = load_results(tmp_path)
    said = sentence("books_scaling", results)
    assert "1 run (another setting of this method is better)" in said
    assert "1 run (no evaluation at the end of its schedule)" in said
    short = left_out_in_short(results, FIGURES["books_scaling"].table(results))
    assert short == "Left out: 1 (worse setting), 1 (not finished); ttt-plot compare draws any."


def test_runs_that_were_stopped_early_are_counted(tmp_path: Path) -> None:
    make_run(tmp_path, ctx=64, steps=2, perplexity=40)
    make_run(tmp_path, ctx=64, seed=1, steps=1, steps_planned=2, perplexity=60)
    departing(make_run(tmp_path, ctx=64, seed=2, steps=1, steps_planned=2, perplexity=60), mlp_hidden=156)
    said = "Left out: 2 runs (stopped by trainer.max_steps before the end of its schedule)."
    assert sentence("training", load_results(tmp_path)).startswith(said)


def test_a_caption_says_what_is_left_out_and_what_was_stopped_early(tmp_path: Path) -> None:
    make_run(tmp_path, ctx=64, steps=1, steps_planned=2, perplexity=60)
    departing(make_run(tmp_path, ctx=64, seed=1, steps=1, steps_planned=2, perplexity=60), mlp_hidden=156)
    results = load_results(tmp_path, stopped=True)
    assert runs_note(results, FIGURES["training"].table(results)) == (
        "Left out: 1 (other settings); ttt-plot compare draws any. "
        "Stopped early by trainer.max_steps: 1 of 2 steps (1 run)."
    )
    results = replace(results, chosen=True)
    assert runs_note(results, FIGURES["training"].table(results)) == (
        "Stopped early by trainer.max_steps: 1 of 2 steps (2 runs)."
    )


def test_nothing_is_said_where_every_run_is_drawn(tmp_path: Path) -> None:
    make_run(tmp_path, ctx=64, steps=2, perplexity=40)
    results = load_results(tmp_path)
    assert {sentence(name, results) for name in ("training", "per_token", "books_scaling")} == {""}


@pytest.mark.parametrize("name", ["training", "per_token", "elsewhere", "inner_loss"])
def test_a_changed_model_never_has_the_name_of_the_standard_one(name: str, tmp_path: Path) -> None:
    run = departing(make_run(tmp_path, ctx=64, steps=30, perplexity=40), mlp_hidden=156)
    make_elsewhere(make_probe(run, layers=1))
    (label,) = names(FIGURES[name].table(load_results(tmp_path)))
    assert "mlp_hidden" in label
    assert label not in {style.label for style in PAPER.values()}
