"""Which code and which versions a run was made with."""

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
)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed distributions that can change a result; imports none of them."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path = PACKAGE_FOLDER) -> GitState | None:
    """Commit of the checkout that ``folder`` belongs to, and whether any file differs from it.

    None where there is no commit to name: git is missing, or ``folder`` is not tracked by a repository (an
    installed package that merely lies inside another project's checkout is not).
    """
    if not _git(folder, "ls-files", "--", "."):
        return None
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    return None if commit is None or changes is None else {"commit": commit, "dirty": changes != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    # Runs of one sweep start together: without the option each would take the repository's lock to refresh its index.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
