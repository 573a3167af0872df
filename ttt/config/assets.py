"""Location of ``conf/``, ``sweeps/`` and ``slurm/``, in a checkout and in an installed wheel."""

from functools import cache
from pathlib import Path


@cache
def assets() -> Path:
    """Return the folder of ``conf/``, ``sweeps/`` and ``slurm/``: the package, or the checkout around it.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package, package.parent):
        if (folder / "conf" / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"conf/train.yaml is neither in {package} nor beside it: reinstall ttt-suite")
