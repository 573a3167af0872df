"""The documents are correct: the files and commands that they name exist, and the examples run."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from starter import Starter

from ttt.cli.sweep.files import SCALES, sweep_names
from ttt.config.assets import assets
from ttt.plots.registry import figures

ROOT = assets()
DOCUMENTS = [
    ROOT / name for name in ("README.md", "REPRODUCE.md", "CONTRIBUTING.md", "slurm/README.md", "sweeps/README.md")
]
EXAMPLE = re.compile(r"`(?P<path>[\w/]+\.(?:py|yaml))`:\n\n```\w+\n(?P<text>.*?)```", re.DOTALL)


def examples() -> dict[str, str]:
    """Return the path and the text of every example file of CONTRIBUTING.md."""
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
    """Copy the sources to where a wheel installs them, and add the example files."""
    site = tmp_path / "site"
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ttt", site / "ttt", ignore=without)
    for folder in ("conf", "plots", "sweeps", "slurm"):
        shutil.copytree(ROOT / folder, site / "ttt" / folder, ignore=without)
    for name, text in examples().items():
        (site / "ttt" / name.removeprefix("ttt/")).write_text(text)
    return site


@pytest.mark.slow
def test_the_examples_of_contributing_work(
    site: Path, tiny: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
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

    starter = Starter(tmp_path_factory.mktemp("output"), {"PYTHONPATH": str(site)})

    def run(module: str, *arguments: str) -> str:
        done = starter.run(f"from {module} import main; raise SystemExit(main())", arguments, cwd=site)
        return done.stdout + done.stderr

    def train(*arguments: str) -> str:
        # The last override of a key wins: a test can choose other packages than the tiny corpus.
        return run("ttt.cli.train", *tiny, "trainer.max_steps=1", f"runs={tmp_path}/runs", *arguments)

    assert "validation perplexity" in train("model=ema", "model.decay=0.5")
    assert "did you mean decay?" in train("model=ema", "model.dekay=0.5")
    assert "Exponential" not in run("ttt.cli.train", "--help")
    assert "y_t = decay" in run("ttt.cli.train", "--help")
    assert "validation perplexity" in train("model.inner_model=swiglu")
    assert "takes the primal form" in train("model.inner_model=swiglu", "kernel=dual")
    assert "choose one of linear, mlp, swiglu" in train("model.inner_model=swigly")
    assert "validation perplexity" in train("data=numbers", "data.packages=[mpmath]")
    read = train("data=folder", f"data.folder={texts}", f"run={tmp_path}/folder")
    assert "validation perplexity" in read
    assert "did you mean folder?" in train("data=folder", f"data.foldr={texts}")
    assert "perplexity" in run("ttt.cli.eval", f"run={tmp_path}/folder", "split=test", "device=cpu")
    prepared = run("ttt.cli.data", "prepare", "data=folder", f"data.folder={texts}", f"data.cache_dir={tmp_path}/cache")
    assert "source folder:" in prepared
    assert "final.png" in run("ttt.cli.plot", "final", f"runs={tmp_path}/runs", f"out={tmp_path}/figures")
    generic_tests = str(ROOT / "tests/layers/test_registry.py")
    tested = run("pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(site), generic_tests, "-k", "ema")
    assert " passed" in tested, tested
    assert " failed" not in tested, tested
    starter.close()
