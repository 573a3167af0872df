"""Rules for imports between packages and of third parties, and for the length of files and functions."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ttt.config.assets import assets

ROOT = assets()

ALLOWED: dict[str, set[str]] = {
    "config": set(),
    "inner": {"config"},
    "kernels": {"config", "inner"},
    "layers": {"config", "inner", "kernels"},
    "backbones": {"config", "kernels", "layers"},
    "models": {"config", "kernels", "layers", "backbones"},
    "data": {"config"},
    "results": {"config"},
    "bench": {"config", "inner", "kernels", "layers", "backbones", "models", "data", "results", "train"},
    "evaluate": {"config", "kernels", "layers", "models", "data", "results"},
    "train": {"config", "layers", "backbones", "models", "data", "results", "evaluate"},
    "launch": {"config", "models", "results", "analysis", "train"},
    "analysis": {"config", "results"},
    "claims": {"config", "results", "analysis"},
    "plots": {"config", "results", "analysis", "claims"},
    "cli": {
        "config",
        "layers",
        "backbones",
        "models",
        "data",
        "results",
        "analysis",
        "evaluate",
        "train",
        "launch",
        "bench",
        "plots",
        "claims",
        "hf",
    },
    "hf": {"config", "layers", "models", "data", "results", "evaluate"},
    "api": {"config", "layers", "backbones", "models", "data", "results", "analysis", "evaluate", "cli"},
}
"""Package -> other packages of the suite that it may import."""

FENCED: dict[str, set[str]] = {
    "torch": {"inner", "kernels", "layers", "backbones", "models", "data", "evaluate", "train", "bench", "hf", "api"},
    "triton": {"kernels"},
    "lightning": {"train"},
    "datasets": {"data"},
    "tokenizers": {"data"},
    "sentencepiece": {"data"},
    "huggingface_hub": {"data"},
    "transformers": {"hf"},
    "lm_eval": {"evaluate"},
    "msgpack": {"models"},
    "submitit": {"launch"},
    "psutil": {"launch"},
    "hydra": {"cli"},
    "rich": {"cli"},
    "omegaconf": {"cli", "api"},
    "pandas": {"analysis", "plots", "claims", "api"},
    "matplotlib": {"plots"},
    "pyarrow": {"results", "analysis", "data"},
    "mpmath": {"claims"},
}
"""Third party -> the only packages that may import it."""

Import = tuple[str, str]


def source_files() -> Iterator[tuple[str, Path]]:
    """Yield the package and the path of every source file; ``plots/`` at the top is the package ``plots``."""
    for path in sorted((ROOT / "ttt").rglob("*.py")):
        parts = path.relative_to(ROOT / "ttt").parts
        if len(parts) > 1:
            yield parts[0], path
    for path in sorted((ROOT / "plots").rglob("*.py")):
        yield "plots", path


def imported(package: str, source: str) -> Iterator[str]:
    """Yield the absolute names of all modules that the source imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, "a relative import must stay within its package"
            module = f"ttt.{package}.{node.module}" if node.level else node.module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(package: str, source: str) -> list[Import]:
    """Return the forbidden imports of a file of ``package``."""
    found = []
    for name in imported(package, source):
        top, _, rest = name.partition(".")
        inner = rest.partition(".")[0]
        foreign = top == "ttt" and inner in ALLOWED and inner != package and inner not in ALLOWED[package]
        fenced = top in FENCED and package not in FENCED[top]
        if foreign or fenced:
            found.append((package, name))
    return found


@pytest.mark.parametrize(("package", "path"), list(source_files()), ids=lambda value: getattr(value, "stem", value))
def test_imports_point_one_way(package: str, path: Path) -> None:
    assert violations(package, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("inner", "from ttt.layers.ttt import TTT"),
        ("config", "import torch"),
        ("plots", "def draw():\n    from ttt import models"),
        ("data", "import lightning.pytorch as pl"),
        ("models", "from omegaconf import OmegaConf"),
        ("results", "from ttt.train import run"),
    ],
)
def test_a_planted_violation_is_found(package: str, source: str) -> None:
    assert violations(package, source)


def test_every_package_has_its_rule() -> None:
    folders = {package for package, _ in source_files()}
    assert folders == ALLOWED.keys()


def test_allowed_imports_have_no_circle() -> None:
    placed: set[str] = set()
    while len(placed) < len(ALLOWED):
        free = {name for name, below in ALLOWED.items() if name not in placed and below <= placed}
        assert free, f"a circle among {sorted(ALLOWED.keys() - placed)}"
        placed |= free


HEAVY = ("torch", "triton", "lightning", "pandas", "pyarrow", "matplotlib", "scipy", "datasets", "tokenizers")

ANSWERS = """
import os, sys
from ttt.cli.train import main
for arguments in (["--help"], ["--cfg", "job"], ["trainer.max_stps=1"], ["size.heads=5"], ["recipe.optimizer=x"]):
    sys.argv = ["ttt-train", *arguments]
    try:
        main()
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    print(code, *sorted(set(HEAVY).intersection(sys.modules)), file=sys.stderr)
"""


@pytest.mark.slow
def test_answers_before_a_run_import_nothing_heavy(tmp_path: Path) -> None:
    """Importing torch and Lightning would take longer than everything else in these commands."""
    command = [sys.executable, "-c", f"HEAVY = {HEAVY}\n{ANSWERS}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answers = [line for line in done.stderr.splitlines() if not line.startswith("error: ")]
    assert answers == ["0", "0", "2", "2", "2"], done.stderr


REFUSALS = [
    ("train", "run=other", "run=other: contains other files and no run"),
    ("train", "run=trained seed=9", "seed=9: run=trained goes on with its own configuration"),
    ("train", "data=local", "data.path=null: give a folder"),
    ("train", "data=local data.path=nowhere", "data.path=nowhere: does not exist"),
    ("train", "data=local data.path=no/*.md", "data.path=no/*.md: no file matches this pattern"),
    ("train", "data=local data.path=other", "data.path=other: no file there ends in txt"),
    ("train", "data.tokenizer=nowhere", "data.tokenizer=nowhere: no such file"),
    ("train", "model=foo", "model=foo: choose one of"),
    ("data", "prepare data=local", "data.path=null: give a folder"),
    ("data", "inspect data=local data.path=nowhere", "data.path=nowhere: does not exist"),
    ("eval", "run=trained data=local data.path=no/*.md", "data.path=no/*.md: no file matches"),
    ("eval", "run=nowhere", "nowhere/record.json: cannot be read"),
    ("generate", "run=nowhere", "nowhere/record.json: cannot be read"),
    ("export", "run=nowhere out=new", "nowhere/record.json: cannot be read"),
    ("importing", "out=new", "from= is missing: a folder or file of weights, or OWNER/NAME"),
    ("importing", "from=nowhere out=new", "from=nowhere: no such file or folder"),
    ("export", "run=nowhere out=other", "out=other: contains other files"),
    ("eval", "", "ttt-eval needs the folder of a trained run, such as ttt-eval run=runs/mine"),
]
"""Command, arguments and the start of the error; ``other`` is a folder with a file, ``trained`` a run's."""

REFUSED = """
import importlib, sys
for command, arguments, _ in REFUSALS:
    sys.argv = [f"ttt-{command}", *arguments.split()]
    try:
        importlib.import_module(f"ttt.cli.{command}").main()
    except SystemExit as stopped:
        print(stopped.code, *sorted(set(HEAVY).intersection(sys.modules)), file=sys.stderr)
"""


@pytest.mark.slow
def test_refusals_import_nothing_heavy(tmp_path: Path) -> None:
    """Importing torch would take longer than all that these refusals need."""
    run = next((ROOT / "results" / "laptop").glob("transformer-transformer-w128-512-*"))
    for folder in ("trained", "runs/mine"):
        shutil.copytree(run, tmp_path / folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    code = f"HEAVY = {HEAVY}\nREFUSALS = {REFUSALS}\n{REFUSED}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert lines[1::2] == ["2"] * len(REFUSALS), done.stderr
    for line, (_, _, start) in zip(lines[::2], REFUSALS, strict=True):
        assert line.startswith(f"error: {start}")


@pytest.mark.parametrize(("package", "path"), list(source_files()), ids=lambda value: getattr(value, "stem", value))
def test_files_and_functions_stay_readable(package: str, path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= (450 if package == "kernels" else 350)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= (150 if package == "kernels" else 70), f"{node.name} has {length} lines"
