"""The version of the code and of the packages of a run."""

import platform
import subprocess
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
    installed = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


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
