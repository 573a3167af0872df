"""Unsupported versions of Python and torch are named before anything is installed or imported."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ttt.bench.gpu import __main__ as gpu
from ttt.cli import claims, main, plot, runs
from ttt.config import supported
from ttt.config.assets import assets

FILE = Path(supported.__file__)


def test_versions_come_from_pyproject() -> None:
    project = tomllib.loads((assets() / "pyproject.toml").read_text())["project"]
    (torches,) = (line.removeprefix("torch") for line in project["dependencies"] if line.startswith("torch"))
    assert supported.declared() == (project["version"], project["requires-python"], torches)


def test_an_installed_package_declares_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    in_checkout = supported.declared()
    monkeypatch.setattr(supported, "PROJECT", Path("no such file"))
    installed = supported.declared()
    assert installed[0] == in_checkout[0]
    assert [sorted(bounds.split(",")) for bounds in installed] == [sorted(bounds.split(",")) for bounds in in_checkout]


@pytest.mark.parametrize(
    ("version", "within"),
    [("3.11.0", True), ("3.14.9", True), ("3.10.14", False), ("3.15.0", False), ("4.0", False), ("3.15.0a1", False)],
)
def test_bounds_are_of_numbers(version: str, within: bool) -> None:
    assert supported.is_within(version, ">=3.11,<3.15") == within
    assert supported.is_within(f"{version}+cpu", "<3.15,>=3.11") == within


@pytest.mark.parametrize("command", [runs, claims, plot], ids=lambda module: module.__name__)
def test_an_unsupported_torch_is_named(
    command: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.9.1+cpu")
    with pytest.raises(SystemExit, match="2"):
        command.main([])  # type: ignore[attr-defined]
    torches = supported.declared()[2]
    line = f"error: torch 2.9.1+cpu is not supported; install torch{torches}: pip install 'torch{torches}'\n"
    assert capsys.readouterr() == ("", line)


def test_an_unsupported_torch_is_named_by_the_measurements_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.9.1")
    assert gpu.main(["stages=machine"]) == 2
    assert capsys.readouterr().err.startswith("error: torch 2.9.1 is not supported; install torch>=")


def test_an_unsupported_torch_is_named_before_the_python_interface_imports_it() -> None:
    code = "from importlib import metadata; metadata.version = lambda _: '2.9.1'\nimport sys, ttt\n"
    code += "try: ttt.load\nexcept ImportError as error: print(error, 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    torches = supported.declared()[2]
    assert shown.stdout == (
        f"torch 2.9.1 is not supported; install torch{torches}: pip install 'torch{torches}' False\n"
    ), shown.stderr


def test_an_unsupported_python_is_named_by_make() -> None:
    """Run the file as the Makefile does, with a Python that says that it is an old one."""
    code = f"import sys, runpy; sys.version_info = (3, 9, 2); runpy.run_path({str(FILE)!r}, run_name='__main__')"
    shown = subprocess.run([sys.executable, "-I", "-c", code, "python3.9"], capture_output=True, text=True)
    # runpy leaves the arguments as they are: -c and the command.
    assert shown.returncode == 1
    needed = supported.declared()[1]
    line = f"make: python3.9: Python 3.9.2 is not supported, {needed} is needed; try: make PYTHON=python3.12 ...\n"
    assert shown.stderr == line
    assert "-E -s ttt/config/supported.py $(PYTHON)" in (assets() / "Makefile").read_text()


@pytest.mark.parametrize("module", ["ttt", "ttt.cli.train", "ttt.bench.gpu", "ttt.config.building"])
def test_an_unsupported_python_is_named_by_every_import(module: str) -> None:
    """Modules that are run from the sources, and the build backend, through which pip gets there."""
    needed = supported.declared()[1]
    line = f"{sys.executable}: Python 3.10.4 is not supported, {needed} is needed"
    for prompt, code, errors in (("", 2, f"error: {line}\n"), ("sys.ps1 = '>>> '", 1, f"ImportError: {line}\n")):
        program = f"import sys; sys.version_info = (3, 10, 4); {prompt}\nimport {module}"
        shown = subprocess.run([sys.executable, "-c", program], cwd=assets(), capture_output=True, text=True)
        assert (shown.returncode, shown.stdout) == (code, "")
        assert shown.stderr.endswith(errors)
        assert ("Traceback" in shown.stderr) == bool(prompt)
    system = tomllib.loads((assets() / "pyproject.toml").read_text())["build-system"]
    assert (system["build-backend"], system["backend-path"]) == ("ttt.config.building", ["."])
    assert all(requirement.endswith("; python_version >= '3.9'") for requirement in system["requires"])


@pytest.mark.parametrize("name", ["ttt/__init__.py", "ttt/config/__init__.py", "ttt/config/supported.py"])
def test_the_files_that_name_a_python_are_valid_for_old_ones(name: str) -> None:
    """Python 2.7, 3.6, 3.8 and 3.10 have read them; no parser of theirs is at hand, so the new forms are named."""
    tree = ast.parse((assets() / name).read_text(encoding="ascii"), feature_version=(3, 3))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.AsyncFunctionDef | ast.Nonlocal)
        if isinstance(node, ast.FunctionDef):
            names = [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]
            assert not node.returns
            assert not node.args.kwonlyargs
            assert not any(name.annotation for name in names)
        if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict | ast.Assign):
            assert not any(isinstance(child, ast.Starred) for child in ast.iter_child_nodes(node))


def test_every_command_prints_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    version = f"ttt-suite {supported.declared()[0]}\n"
    for name in main.COMMANDS:
        monkeypatch.setattr(sys, "argv", ["ttt", name, "--version"])
        main.main()
        assert capsys.readouterr() == (version, "")
    monkeypatch.setattr(sys, "argv", ["ttt", "--version"])
    main.main()
    assert capsys.readouterr() == (version, "")
