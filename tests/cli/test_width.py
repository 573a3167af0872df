"""Help texts and tables fit the 80 columns of a terminal."""

import sys
from collections.abc import Callable
from pathlib import Path
from runpy import run_path

import pytest
from sweep_cases import planned

from ttt.analysis.store import load_results
from ttt.bench import kernels, step, table
from ttt.claims.table import as_text, judge_all
from ttt.cli import bench, claims, data, export, generate, importing, plot, runs, train
from ttt.cli import eval as evaluate
from ttt.cli.compose import register_schemas
from ttt.cli.help import describe_command
from ttt.cli.sweep import main as sweep
from ttt.cli.sweep.tables import status_table
from ttt.config.text_table import WIDTH, Column, fitted_table, shortened, wrapped_command
from ttt.launch.status import RunStatus

make_run = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))["make_run"]

HEADS = {module.__name__: module.HELP for module in (bench, data, evaluate, export, generate, importing, train)}

MAINS = {"claims": claims.main, "plot": plot.main, "runs": runs.main}


def too_long(text: str) -> list[str]:
    return [line for line in text.splitlines() if len(line) > WIDTH]


def test_heads_of_help_fit() -> None:
    assert {name: lines for name, text in HEADS.items() if (lines := too_long(text))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ttt_mlp", "mamba", "hybrid", "gla"])
def test_help_of_a_chosen_model_fits(model: str) -> None:
    register_schemas()
    command = train.COMMAND
    chosen = [f"model={model}", "data=pile", "trainer=fsdp", "recipe=finetune", "size=1.3b"]
    shown = describe_command(command.help, command.config_name, chosen, command.more_groups, command.aliases)
    assert too_long(shown) == []


@pytest.mark.parametrize("main", MAINS.values(), ids=MAINS)
def test_help_without_hydra_fits(main: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert "usage: ttt-" in shown
    assert too_long(shown) == []


def test_help_of_sweeps_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ttt-sweep", "--help"])
    sweep.main()
    assert too_long(capsys.readouterr().out) == []


def test_figures_and_the_runs_they_draw_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a_folder_of_runs", steps=5, ctx=64, evaluated=False, mini_batch_size=4)
    plot.main([f"runs={tmp_path}/a_folder_of_runs"])
    listing, _, drawable = capsys.readouterr().out.partition("\n\nThe 1 run ")
    assert "training" in drawable
    assert too_long(listing) == []
    # A folder's path stays in one piece.
    assert all(str(tmp_path) in line for line in too_long(drawable))


def test_claims_fit(tmp_path: Path) -> None:
    text = as_text(judge_all(load_results(tmp_path)))
    assert "ttt-bench latency" in text
    assert too_long(text) == []


SPILLED = (Column[kernels.CompiledKernel]("spilled, 3.10.0", 15, lambda _: ""),)

TABLES = {
    "inner": (table.KERNELS.columns(wide=False), table.KERNELS.notes),
    "latency": (table.LATENCY.columns(wide=False), table.LATENCY.notes),
    "kernels": (kernels.narrow(()), kernels.NOTES),
    "step": (step.COLUMNS, step.NOTES),
    "kernels beside another Triton": (kernels.narrow(SPILLED), kernels.NOTES),
}


@pytest.mark.parametrize(("columns", "notes"), TABLES.values(), ids=TABLES)
def test_tables_of_benchmarks_fit(columns: tuple[Column[object], ...], notes: str) -> None:
    assert all(len(column.heading) <= column.width for column in columns)
    assert sum(column.width + 1 for column in columns) - 1 <= WIDTH
    assert too_long(notes) == []


def test_cells_of_benchmarks_are_cut_and_groups_of_mini_batches_told_apart() -> None:
    row = {"model": "linear_attention", "tokens": 2048, "mini_batch_size": 16, "form": "dual", "value": 0.01}
    lines = [table.Line("train", {"train": row | {"checkpoint_group": group}}) for group in (0, 16)]  # type: ignore[dict-item]
    cells = [[column.cell(line) for column in table.KERNELS.narrow] for line in lines]
    assert cells[0] != cells[1]
    for of_line in cells:
        assert all(len(cell) <= column.width for cell, column in zip(of_line, table.KERNELS.narrow, strict=True))
    assert len(table.KERNELS.columns(wide=True)) > len(table.KERNELS.narrow)


def test_a_long_command_is_continued_for_the_shell() -> None:
    command = "ttt-bench inner " + " ".join(f"key{number}=value" for number in range(20))
    lines = wrapped_command(command, "   ").splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= WIDTH
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert " ".join("".join(line.removesuffix("\\") for line in lines).split()) == command
    assert shortened(command, 20).startswith("ttt-bench")


@pytest.mark.parametrize("length", [10, 60])
def test_rows_too_long_for_a_terminal_keep_what_differs_and_lose_the_id(length: int, tmp_path: Path) -> None:
    cases = [(model, rate) for model in ("ttt_linear", "ttt_mlp") for rate in ("0.001", "0.01")]
    common, path = ("size=w64", "data=local"), "data.path=" + "texts/" * (length // 6)
    runs = [
        planned(
            i,
            tmp_path,
            run_id=f"{model}-mamba-w64-512-local-some_more_words-seed0-0000000{i}",
            overrides=(*common, f"model={model}", f"recipe.learning_rate={rate}", f"{path}{i}"),
        )
        for i, (model, rate) in enumerate(cases)
    ]
    lines = status_table([RunStatus(run, detail="waits for others") for run in runs]).splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for i, (model, rate) in enumerate(cases):
        keys = f"model={model} learning_rate={rate} {path.removeprefix('data.')}{i}"
        assert f"0000000{i} " in text
        assert keys in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    whole = status_table([RunStatus(run) for run in runs], wide=True)
    assert all(run.run_id in whole for run in runs)


def test_cells_are_not_cut_until_they_are_equal() -> None:
    names = [f"data/{word}/texts" for word in ("a_first_folder", "second_folder", "a_third_folder")]
    rows = [(name, "x" * 30) for name in names]
    lines = fitted_table(rows, left=(0, 1), width=30).splitlines()
    assert max(map(len, lines)) <= 30
    assert len({line.split()[0] for line in lines}) == 3
