"""Finding and reading YAML files of sweeps and clusters.

``sweeps/SCALE/NAME.yaml`` is a sweep; a figure has the same NAME at every scale. ``slurm/NAME.yaml`` is a cluster.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ttt.config.assets import assets
from ttt.config.errors import UserError, bad_value
from ttt.config.system import user_path

SCALES = ("paper", "laptop", "gpu")
"""Without ``scale=``, the first of these that has the sweep is used."""

BUDGETS = "budgets"
"""The folder of ``sweeps/`` with budgets, which ``ttt-sweep run`` takes."""


@dataclass(frozen=True)
class SweepFile:
    """The YAML file of a sweep, and the name of the sweep in its folder, its jobs and its runs' records."""

    path: Path
    name: str


def sweep_file(name: str, scale: str | None = None) -> SweepFile:
    """Return the file of a sweep of ``sweeps/``, or of the user's own .yaml file.

    Args:
        name: value of ``sweep=``.
        scale: value of ``scale=``; None: the paper's scale, or the laptop's if the sweep lacks it.

    Raises:
        UserError: no such sweep or scale, or a scale for a user's own file.
    """
    if scale is not None and scale not in SCALES:
        raise bad_value("scale", scale, f"choose one of {', '.join(SCALES)}")
    if name.endswith((".yaml", ".yml")):
        if scale is not None:
            raise bad_value("scale", scale, f"is for sweeps of the suite; sweep={name} is a file of your own")
        return SweepFile(user_path(name), Path(name).stem)
    scales = [scale for scale in SCALES if name in sweep_names(scale)]
    if not scales:
        known = sorted({name for scale in SCALES for name in sweep_names(scale)})
        raise bad_value("sweep", name, f"choose one of {', '.join(known)}, or the path of a .yaml file")
    if scale is not None and scale not in scales:
        raise UserError(f"scale={scale}: sweep={name} has only scale={' and scale='.join(scales)}")
    chosen = scale or scales[0]
    return SweepFile(assets() / "sweeps" / chosen / f"{name}.yaml", f"{chosen}_{name}")


def sweep_names(scale: str) -> list[str]:
    """Return the names of all sweeps of a scale."""
    return sorted(path.stem for path in (assets() / "sweeps" / scale).glob("*.yaml"))


def budget_file(name: str) -> SweepFile:
    """Return the file of a budget of ``sweeps/budgets/``, or of the user's own .yaml file.

    Raises:
        UserError: no such budget.
    """
    if name.endswith((".yaml", ".yml")):
        return SweepFile(user_path(name), Path(name).stem)
    path = assets() / "sweeps" / BUDGETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise bad_value("budget", name, f"choose one of {known}, or the path of a .yaml file")
    return SweepFile(path, name)


def cluster_file(name: str) -> Path:
    """Return the file of a cluster of ``slurm/``, or the user's own .yaml file.

    Raises:
        UserError: no such file.
    """
    path = user_path(name) if name.endswith((".yaml", ".yml")) else assets() / "slurm" / f"{name}.yaml"
    if not path.is_file():
        raise bad_value("slurm", name, f"choose one of {', '.join(cluster_names())}, or the path of a .yaml file")
    return path


def cluster_names() -> list[str]:
    """Return the names of all clusters of ``slurm/``."""
    return sorted(path.stem for path in (assets() / "slurm").glob("*.yaml"))


def read_yaml(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the content of a YAML file, merged over the file that its key ``defaults`` names.

    ``defaults: NAME`` is ``NAME.yaml`` in the same folder, else in ``slurm/`` or ``sweeps/``. The file's own values
    replace those of the defaults; ``axes`` and other mappings are merged key by key.

    Args:
        path: the file.
        including: files that led here through ``defaults``, to detect cycles.

    Raises:
        UserError: the file cannot be read or is not a mapping, or there is no such file of defaults.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must map keys to values")
    if "defaults" not in content:
        return content
    name, including = content.pop("defaults"), (*including, path.resolve())
    files = [folder / f"{name}.yaml" for folder in (path.parent, assets() / "slurm", assets() / "sweeps")]
    files = [file for file in files if file.is_file() and file.resolve() not in including]
    if not files:
        raise UserError(f"{path}: defaults={name}: no other file of this name beside it, in slurm/ or in sweeps/")
    merged = read_yaml(files[0], including)
    for key, value in content.items():
        both_map = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both_map else value
    return merged
