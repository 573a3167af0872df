"""The version of the code and of the packages of a run."""

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from ttt.results.record import GitState

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]

DISTRIBUTIONS = (
    "ttt-suite",
    "torch",
    "triton",
    "lightning",
    "hydra-core",
    "omegaconf",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "pandas",
    "pyarrow",
    "mamba-ssm",
    "causal-conv1d",
    "flash-linear-attention",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of installed packages that can change a result, without importing them."""
    found = ((name, _version(name)) for name in DISTRIBUTIONS)
    return {"python": platform.python_version()} | {name: version for name, version in found if version is not None}


@cache
def _version(name: str) -> str | None:
    """Return the version of a package, if it is installed; read once, for processes that train many runs."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def git_state(folder: Path = PACKAGE_FOLDER) -> GitState | None:
    """Return the commit of the checkout that contains ``folder``, and whether any file differs from it.

    None if git is missing or no repository tracks ``folder``, such as a package installed inside another project's
    checkout.
    """
    if not _git(folder, "ls-files", "--", "."):
        return None
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    return None if commit is None or changes is None else {"commit": commit, "dirty": changes != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    # Without the option, runs that start together would compete for the repository's lock to refresh its index.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
