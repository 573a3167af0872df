"""What the documents say is true: files and commands exist, and the examples run."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ttt.cli.sweep.files import SCALES, sweep_names
from ttt.config.assets import assets
from ttt.plots.registry import figures

ROOT = assets()
DOCUMENTS = [
    ROOT / name for name in ("README.md", "REPRODUCE.md", "CONTRIBUTING.md", "slurm/README.md", "sweeps/README.md")
]
EXAMPLE = re.compile(r"`(?P<path>[\w/]+\.(?:py|yaml))`:\n\n```\w+\n(?P<text>.*?)```", re.DOTALL)


def examples() -> dict[str, str]:
    """Path and text of every example file of CONTRIBUTING.md."""
    return {match["path"]: match["text"] for match in EXAMPLE.finditer((ROOT / "CONTRIBUTING.md").read_text())}


def test_the_two_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in ("demo", "test", "check", "setup"):
        assert re.search(rf"^{name}: .*##", makefile, re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


@pytest.mark.parametrize(
    "name", ["ttt-train", "ttt-eval", "ttt-export", "ttt-generate", "ttt-plot", "ttt-bench", "ttt-data"]
)
def test_every_command_is_installed(name: str) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert name in scripts
    shown = subprocess.run([Path(sys.executable).with_name(name), "--help"], capture_output=True, text=True, check=True)
    assert name in shown.stdout


def test_every_sweep_has_its_row() -> None:
    text = (ROOT / "REPRODUCE.md").read_text()
    for scale in SCALES:
        for name in sweep_names(scale):
            assert f"sweep={name}" in text


def test_make_laptop_runs_every_laptop_sweep() -> None:
    named = re.search(r"^LAPTOP_SWEEPS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named
    assert sorted(named[1].replace("\\", "").split()) == sorted(sweep_names("laptop"))


def test_the_tree_of_the_readme_is_the_tree() -> None:
    listed = re.findall(r"^    ([\w/]+/) +\w", (ROOT / "README.md").read_text(), re.MULTILINE)
    packages = {f"ttt/{path.parent.name}/" for path in (ROOT / "ttt").glob("*/__init__.py")}
    top = {f"{name}/" for name in ("conf", "docs", "results", "sweeps", "slurm", "plots", "tests")}
    assert set(listed) == packages | top


def test_files_that_the_documents_name_exist() -> None:
    for document in DOCUMENTS:
        for first, second in re.findall(r"\]\((docs/[\w./]+)\)|src=\"(docs/[\w./]+)\"", document.read_text()):
            assert (ROOT / (first or second)).is_file()
        for name in re.findall(r"`((?:ttt|tests|plots|conf|sweeps|slurm)/[\w./]+)`", document.read_text()):
            assert (ROOT / name).exists() or name in examples(), f"{document.name} names {name}"


@pytest.mark.parametrize("name", figures())
def test_every_figure_has_its_row(name: str) -> None:
    assert f"ttt-plot {name}" in (ROOT / "REPRODUCE.md").read_text()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of the sources, laid out as a wheel installs them, with the example files added."""
    site = tmp_path / "site"
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ttt", site / "ttt", ignore=without)
    for folder in ("conf", "plots", "sweeps", "slurm"):
        shutil.copytree(ROOT / folder, site / "ttt" / folder, ignore=without)
    for name, text in examples().items():
        (site / "ttt" / name.removeprefix("ttt/")).write_text(text)
    return site


@pytest.mark.slow
def test_the_examples_of_contributing_work(site: Path, tiny: list[str], tmp_path: Path) -> None:
    assert set(examples()) == {
        "ttt/layers/ema.py",
        "ttt/inner/models/swiglu.py",
        "plots/final.py",
        "conf/data/numbers.yaml",
        "ttt/data/folder.py",
    }
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        (texts / f"{number}.txt").write_text(f"text {number} " * 400)

    def run(module: str, *arguments: str) -> str:
        command = [sys.executable, "-m", module, *arguments]
        environment = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def train(*arguments: str) -> str:
        # A later override of a key wins, so that a test can choose other packages than the tiny corpus's.
        return run("ttt.cli.train", *tiny, "trainer.max_steps=1", f"runs_dir={tmp_path}/runs", *arguments)

    assert "validation perplexity" in train("model=ema", "model.decay=0.5")
    assert "did you mean decay?" in train("model=ema", "model.dekay=0.5")
    assert "Exponential" not in run("ttt.cli.train", "--help")
    assert "y_t = decay" in run("ttt.cli.train", "--help")
    assert "validation perplexity" in train("model.inner_model=swiglu")
    assert "takes the primal form" in train("model.inner_model=swiglu", "kernel=dual")
    assert "choose one of linear, mlp, swiglu" in train("model.inner_model=swigly")
    assert "validation perplexity" in train("data=numbers", "data.packages=[mpmath]")
    assert "validation perplexity" in train("data.source=folder", f"data.packages=[{texts}]", "data.name=texts")
    assert "final.png" in run("ttt.cli.plot", "final", f"runs={tmp_path}/runs", f"out={tmp_path}/figures")
    generic_tests = str(ROOT / "tests/layers/test_registry.py")
    tested = run("pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(site), generic_tests, "-k", "ema")
    assert " passed" in tested, tested
    assert " failed" not in tested, tested
