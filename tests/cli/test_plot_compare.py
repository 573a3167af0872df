"""``ttt-plot compare``, and the choice of runs by name or by value."""

import json
import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import yaml

from ttt.cli.label import label_of_plain
from ttt.cli.plot import main
from ttt.config.assets import assets

make_run = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))["make_run"]

BACKBONES = {"mamba": "own"}
"""Layer -> its backbone, where it is not Mamba's with another layer in it."""


def make_point(
    folder: Path, model: str = "ttt_linear", seed: int = 0, size: dict[str, Any] | None = None, **settings: Any
) -> Path:
    """Write a finished run; return its folder."""
    perplexity = 40.0 + seed + sum(value for value in settings.values() if isinstance(value, int | float))
    options = {"steps": 1, "seed": seed, "evaluated": False, "perplexity": perplexity}
    run = make_run(folder, model, BACKBONES.get(model, "mamba"), **options | settings)
    record = json.loads(run.record.read_text())
    record["config"]["size"] |= size or {}
    record["label"] = label_of_plain(record["config"]).to_plain()
    run.record.write_text(json.dumps(record))
    return run.path  # type: ignore[no-any-return]


def train(words: list[str], root: Path) -> None:
    """Write the runs of a ``ttt-train -m`` command, without training them."""
    keys = dict(word.split("=", 1) for word in words if "=" in word)
    folder = root / keys.pop("runs")
    for values in product(*(value.split(",") for value in keys.values())):
        chosen: dict[str, Any] = {key: yaml.safe_load(value) for key, value in zip(keys, values, strict=True)}
        model, size = (
            {key.partition(".")[2]: value for key, value in chosen.items() if key.startswith(group)}
            for group in ("model.", "size.")
        )
        make_point(folder, chosen.get("model", "ttt_linear"), chosen.get("seed", 0), size, **model)


def tasks() -> Iterator[str]:
    """Yield the blocks of commands of the section of the README that shows how to answer one's own questions."""
    section = (assets() / "README.md").read_text().partition("Two questions of your own")[2]
    yield from re.findall(r"(?:^    ttt-.*\n)+", section.partition("Run sweeps")[0], re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_task_of_the_readme_ends_in_its_pictures(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = list(tasks())[number].splitlines()
    lines = [shlex.split(line.split("  #")[0]) for line in block]
    for command, *words in lines:
        train(words, tmp_path) if command == "ttt-train" else main(words)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("figures/**/*.png")}
    assert names == {"figures/compare.png", *(["figures/compare_map.png"] if number == 1 else [])}
    assert len(lines) == 2


@pytest.mark.slow
def test_a_mostly_empty_heat_map_is_not_drawn_beside_the_curves(tmp_path: Path) -> None:
    for b, eta in ((4, 0.5), (16, 1.0), (64, 2.0), (256, 4.0)):
        make_point(tmp_path / "runs", mini_batch_size=b, eta_base=eta)
    make_point(tmp_path / "runs", mini_batch_size=4, eta_base=1.0)
    main(["compare", f"runs={tmp_path}/runs", f"out={tmp_path}/out"])
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["compare.png"]


@pytest.mark.slow
def test_the_table_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for b in (4, 16):
        make_point(tmp_path / "runs", mini_batch_size=b)
    make_point(tmp_path / "runs", mini_batch_size=64, status="diverged", perplexity=None)
    main(["compare", f"runs={tmp_path}/runs", f"out={tmp_path}/out", "--table"])
    captured = capsys.readouterr()
    assert "| 16 | 56 |" in captured.out
    files = ["compare.png", "compare.pdf", "compare.csv"]
    files += ["compare_table.csv", "compare_table.md", "compare_table.tex"]
    assert captured.out.splitlines()[-6:] == [f"{tmp_path}/out/{name}" for name in files]
    assert captured.err == "Left out: 1 run without perplexity (diverged).\n"


@pytest.mark.slow
def test_runs_are_chosen_by_name_and_by_value(tmp_path: Path) -> None:
    folders = [make_point(tmp_path / "runs", mini_batch_size=b) for b in (4, 16, 64)]
    main(["compare", *map(str, folders[:2]), f"out={tmp_path}/named"])
    assert len((tmp_path / "named/compare.csv").read_text().splitlines()) == 3
    main(["compare", f"runs={tmp_path}/runs", "select=model.mini_batch_size=4,64", f"out={tmp_path}/chosen"])
    assert len((tmp_path / "chosen/compare.csv").read_text().splitlines()) == 3
    main(["training", *map(str, folders), f"out={tmp_path}/training"])
    for folder in folders:
        assert folder.name in (tmp_path / "training/training.csv").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["compare", "x=model.mini_batch"],
            "error: x=model.mini_batch: no run has this key or measured value; did you mean",
        ),
        (["compare", "select=size=w7"], "error: select=size=w7: no run has size=w7"),
        (["compare", "nowhere/run"], "error: runs=nowhere/run: no such folder"),
        (["training", "x=seed"], "error: x=seed: no such key; choose one of runs, out, select"),
        (["training", "--table"], "error: --table: no such flag; choose one of --all, --strict, --stopped, --help"),
        (["compare", "training"], "error: compare: draw it by itself"),
        (["training", "smooth=2"], "error: smooth=2: must be a share of the steps, from 0 to 1"),
        (["per_token", "smooth=0.1"], "error: smooth=0.1: no such key; choose one of runs, out, select"),
    ],
)
def test_a_wrong_word_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for b in (4, 16):
        make_point(tmp_path, mini_batch_size=b)
    with pytest.raises(SystemExit) as exit_:
        main([*words, f"runs={tmp_path}"])
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1


@pytest.mark.slow
def test_stopped_runs_are_counted_among_chosen_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = []
    monkeypatch.setattr("ttt.plots.files.rendered", lambda canvas, _: captions.append(canvas.get_supxlabel()) or b"")
    for b in (4, 16):
        make_point(tmp_path, mini_batch_size=b, steps_planned=3)
        make_point(tmp_path, mini_batch_size=b, steps_planned=3, learning_rate=1.0)
    for words in (["training", "mini_batch_size"], ["compare"]):
        places = [f"runs={tmp_path}", "select=recipe.learning_rate=1.0", f"out={tmp_path}/out"]
        main([*words, *places, "--stopped"])
        assert "counted, as --stopped asks" in capsys.readouterr().err
        assert "Stopped early by trainer.max_steps: 1 of 3 steps (2 runs)." in captions[-1].replace("\n", " ")
