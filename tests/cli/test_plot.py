import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest

from ttt.cli.plot import main
from ttt.plots.registry import figures

synthetic = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))
make_run, make_benchmark = synthetic["make_run"], synthetic["make_benchmark"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return captured.err


def places(folder: Path) -> list[str]:
    return [f"runs={folder / 'runs'}", f"out={folder / 'out'}"]


def test_without_arguments_the_figures_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    listing = capsys.readouterr().out
    assert "per_token: Perplexity by token index" in listing
    assert "Figure 2 right" in listing
    assert "ttt-sweep submit sweep=per_token scale=laptop slurm=local" in listing


def test_without_arguments_the_runs_of_each_figure_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "runs", steps=5, ctx=64, evaluated=False)
    make_run(tmp_path / "runs", seed=1, steps=5, ctx=64, evaluated=False)
    main([f"runs={tmp_path}/runs"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"The 2 runs in {tmp_path}/runs can be drawn in: training 2 runs, such as {run.path.name} No run" in shown
    assert "No run is suitable for ablation, " in shown
    main([f"runs={tmp_path}/nowhere"])
    assert capsys.readouterr().out.endswith(f"There are no runs in {tmp_path}/nowhere.\n")


def test_without_arguments_a_figure_of_benchmarks_alone_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_benchmark(tmp_path, sizes=(1, 16))
    main([f"runs={tmp_path}"])
    assert "  mini_batch_size  1 benchmark of ttt-bench\n" in capsys.readouterr().out


def test_listing_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; from ttt.cli.plot import main; main([]); print({'pandas', 'matplotlib'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert output.endswith("set()\n")


@pytest.mark.slow
def test_a_figure_is_written_and_its_files_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs", steps=5, ctx=64)
    main(["per_token", *places(tmp_path)])
    files = [tmp_path / "out" / f"per_token.{kind}" for kind in ("png", "pdf", "csv")]
    assert capsys.readouterr().out.splitlines() == [str(file) for file in files]
    assert sorted(tmp_path.glob("out/*")) == sorted(files)


@pytest.mark.slow
def test_all_draws_what_it_can_and_names_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs", steps=5, evaluated=False, status="running")
    main(["--all", *places(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in lines[:3]] == ["training.png", "training.pdf", "training.csv"]
    assert [line.split(" needs ")[0] for line in lines[3:]] == [
        f"not drawn: {name}" for name in figures() if name != "training"
    ]
    assert f"not drawn: {figures()['per_token'].id} needs" in "\n".join(lines)
    assert "ttt-sweep submit sweep=per_token scale=laptop slurm=local" in "\n".join(lines)


@pytest.mark.parametrize("runs", ["none", "unevaluated", "no folder"])
def test_lacking_runs_are_refused_with_the_way_to_get_them(
    runs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "runs", tmp_path / "out"
    if runs != "no folder":
        folder.mkdir()
    if runs == "unevaluated":
        make_run(folder, steps=5, evaluated=False)
    error = refused(["per_token", f"runs={folder}", f"out={out}"], capsys)
    assert str(folder) in error
    assert "ttt-sweep submit sweep=per_token scale=laptop slurm=local" in error
    assert not out.exists()


def test_an_unknown_figure_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["loss"], capsys) == (
        "error: loss: no such figure; choose from compare, ablation, best_context, books_complete, books_scaling, "
        "context, context_gain, decode_latency, elsewhere, inner_loss, learning, mini_batch_size, needle, overview, "
        "per_token, pile_scaling, prefill_latency, recall, tasks, training, training_latency\n"
    )


@pytest.mark.slow
def test_the_report_is_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs", steps=2, perplexity=40, evaluated=False)
    page = tmp_path / "out" / "report.html"
    main(["report", f"runs={tmp_path / 'runs'}", f"out={page}"])
    assert capsys.readouterr().out == f"{page}\n"
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]
    assert page.read_text().count("data:image/png") >= 2


def test_a_report_is_refused_without_runs_and_under_another_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no runs in it" in refused(["report", f"runs={tmp_path}", "out=report.html"], capsys)
    assert "must end in .html" in refused(["report", f"runs={tmp_path}", "out=report"], capsys)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs", steps=5)
    (tmp_path / "out").write_text("")
    error = refused(["training", *places(tmp_path)], capsys)
    assert str(tmp_path / "out") in error


def test_a_broken_record_is_named_and_the_others_are_drawn_unless_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "runs", steps=5, ctx=64)
    broken = make_run(tmp_path / "runs", seed=1, steps=5, ctx=64).record
    broken.write_text("{}")
    assert str(broken) in refused(["training", "--strict", *places(tmp_path)], capsys)
    main(["training", *places(tmp_path)])
    captured = capsys.readouterr()
    assert captured.err.startswith(f"left out: {broken}")
    assert len(captured.out.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--results", "x"], "--results: has been replaced; write runs=FOLDER"),
        (["--out=x"], "--out: has been replaced; write out=FOLDER"),
        (["results=x"], "results=x: this key is now called runs; write runs=x"),
        (["--everything"], "--everything: no such flag; choose one of --all, --strict, --stopped, --help"),
        (["runs="], "runs=: needs a value; write runs=FOLDER"),
    ],
)
def test_other_words_are_refused(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["training", *words], capsys) == f"error: {named}\n"
