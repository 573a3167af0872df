"""The documents are correct: the files and commands that they name exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from recipes import TUTORIAL, examples, examples_of

from ttt.cli.sweep.files import SCALES, sweep_names
from ttt.config.assets import assets
from ttt.plots.registry import figures

ROOT = assets()
DOCUMENTS = [
    ROOT / name for name in ("README.md", "REPRODUCE.md", "CONTRIBUTING.md", "slurm/README.md", "sweeps/README.md")
]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))


OPTIONAL = ("conf/model/ema.yaml", "conf/data/folder.yaml", *examples_of(TUTORIAL.read_text(encoding="utf-8")))
"""Files that CONTRIBUTING.md describes without showing them, and those of the tutorial."""


def test_the_two_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in ("demo", "test", "check", "setup"):
        assert re.search(rf"^{name}: .*##", makefile, re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


def test_version_and_licence_are_stated_alike() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
    (licence,) = project["license-files"]
    assert (ROOT / licence).read_text().startswith(f"{project['license']} License")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ttt-train", "ttt-eval", "ttt-export", "ttt-import", "ttt-generate", "ttt-plot", "ttt-bench", "ttt-data"]
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


def test_make_whole_runs_every_laptop_sweep() -> None:
    named = re.findall(r"^(?:NIGHT|WHOLE)_SWEEPS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(" ".join(named).split()) == sorted(sweep_names("laptop"))


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
            assert (ROOT / name).exists() or name in {*examples(), *OPTIONAL}, f"{document.name} names {name}"


@pytest.mark.parametrize("name", figures())
def test_every_figure_has_its_row(name: str) -> None:
    assert f"ttt-plot {name}" in (ROOT / "REPRODUCE.md").read_text()
