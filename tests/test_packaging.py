"""An installed wheel works like the checkout: it contains every file that a command reads."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.specifiers import SpecifierSet

from ttt.config.assets import assets

ROOT = assets()
MOVED = ("conf", "plots", "slurm", "sweeps")
"""Folders at the top of the checkout that are sub-packages of ``ttt`` in the wheel."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Build from a copy of the tracked files: a stale build folder could hide a missing packaging rule.
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def expected_files() -> set[str]:
    """Return the Python and YAML files of the checkout under their names in the wheel."""
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ttt").rglob("*.py")}
    for folder in MOVED:
        found = [path for kind in ("*.py", "*.yaml") for path in (ROOT / folder).rglob(kind)]
        files |= {f"ttt/{path.relative_to(ROOT).as_posix()}" for path in found}
    return files


def test_every_source_and_yaml_is_in_the_wheel(wheel: Path) -> None:
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert expected_files() <= packed
    assert all(name.startswith("ttt/") for name in packed), "nothing but ttt at the top"
    assert "ttt/py.typed" in packed


def test_an_installed_wheel_composes_and_lists(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def run(module: str, *arguments: str) -> str:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    where = "import ttt.plots.registry; print(ttt.plots.registry.__file__)"
    there = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert str(site) in there.stdout
    assert "length: 32768" in run("ttt.cli.train", "model=ttt_mlp", "ctx=32k", "--cfg", "job")
    assert "TTT-Linear" in run("ttt.cli.train", "--help")
    assert "per_token" in run("ttt.cli.plot")
    assert [path.name for path in tmp_path.iterdir()] == ["site"], "nothing is written by looking"


def test_constraints_pin_every_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    for requirement in wanted:
        name = requirement.split(";")[0].partition(">")[0].strip().lower()
        assert name in pinned, f"{name} is not pinned in constraints.txt"
    assert "triton==3.7.1" in lines, "torch 2.13.0's CUDA build requires exactly this"


def test_pinned_versions_run_on_every_allowed_python() -> None:
    """``uv sync`` resolves for all of them at once, and a system's python3.11 may be an early one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = ".".join([*re.findall(r">=([\d.]+)", project["requires-python"]), "0"])
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for package in metadata.distributions():
        pythons = package.metadata["Requires-Python"]
        if package.name.lower() in pinned and pythons:
            assert SpecifierSet(pythons).contains(least), f"{package.name} {package.version} needs Python {pythons}"


def test_uv_installs_the_pinned_versions() -> None:
    pin = runpy.run_path(str(ROOT / ".ci" / "pin_uv.py"))["with_pins"]
    text, constraints = (ROOT / "pyproject.toml").read_text(), (ROOT / "constraints.txt").read_text()
    pinned = tomllib.loads(text)["tool"]["uv"]["constraint-dependencies"]
    assert pinned == [line for line in constraints.splitlines() if "==" in line and not line.startswith("#")]
    assert pin(text, constraints) == text, "python .ci/pin_uv.py has not been run"
    # A package that constraints.txt loses is lost in pyproject.toml too.
    assert tomllib.loads(pin(text, "torch==2.13.0\n"))["tool"]["uv"]["constraint-dependencies"] == ["torch==2.13.0"]


def test_a_lock_of_uv_that_disagrees_is_named() -> None:
    """``make lock``, which CI runs, writes the lock and compares it."""
    disagreements = runpy.run_path(str(ROOT / ".ci" / "check_lock.py"))["disagreements"]
    lock = "".join(
        f'[[package]]\nname = "{name}"\nversion = "{version}"\n'
        for name, version in (("torch", "2.13.0"), ("lm-eval", "1.0"), ("numpy", "2.4.6"), ("numpy", "2.3.0"))
    )
    assert disagreements(lock, "# torch==2\ntorch==2.13.0\nlm_eval==1.0\n") == []
    assert disagreements(lock, "torch==2.13.1\nnumpy==2.4.6\nPyYAML==6.0.3\n") == [
        "torch: constraints.txt has 2.13.1, uv.lock 2.13.0",
        "numpy: constraints.txt has 2.4.6, uv.lock 2.3.0, 2.4.6",
        "PyYAML: constraints.txt has 6.0.3, uv.lock nothing",
    ]
