import subprocess
import sys
from pathlib import Path

import pytest

from ttt.results.provenance import git_state, versions


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("")
    git(tmp_path, "init")
    return tmp_path


def test_versions_name_python_and_what_is_installed() -> None:
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"numpy", "pandas", "pyarrow"} <= found.keys()


def test_a_checkout_is_clean_until_a_file_changes(checkout: Path) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    state = git_state(checkout / "package")
    assert state is not None
    assert len(state["commit"]) == 40
    assert not state["dirty"]
    (checkout / "package" / "new.py").write_text("")
    assert git_state(checkout / "package") == {"commit": state["commit"], "dirty": True}


def test_no_commit_is_no_state(checkout: Path) -> None:
    git(checkout, "add", ".")
    assert git_state(checkout / "package") is None


def test_an_untracked_package_in_another_checkout_has_no_state(checkout: Path) -> None:
    git(checkout, "commit", "--allow-empty", "-m", "another project")
    assert git_state(checkout / "package") is None


def test_without_git_there_is_no_state(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state(checkout / "package") is None
