"""Finding the files of sweeps: ``sweeps/SCALE/NAME.yaml``, where a figure has the same NAME at both scales."""

from dataclasses import dataclass
from pathlib import Path

from ttt.config.assets import assets
from ttt.config.errors import UserError, bad_value

SCALES = ("paper", "laptop")
"""Without ``scale=``, the first of these that has the sweep is used."""


@dataclass(frozen=True)
class SweepFile:
    """The YAML file of a sweep, and the name of the sweep in its folder, its jobs and its runs' records."""

    path: Path
    name: str


def sweep_file(name: str, scale: str | None = None) -> SweepFile:
    """Return the file of a sweep of ``sweeps/``, or of the user's own .yaml file.

    Args:
        name: value of ``sweep=``.
        scale: value of ``scale=``; None: the paper's scale, or the laptop's if the sweep has only that.

    Raises:
        UserError: no such sweep or scale, or a scale for a user's own file.
    """
    if scale is not None and scale not in SCALES:
        raise bad_value("scale", scale, f"choose one of {', '.join(SCALES)}")
    if name.endswith((".yaml", ".yml")):
        if scale is not None:
            raise bad_value("scale", scale, f"is for sweeps of the suite; sweep={name} is a file of your own")
        return SweepFile(Path(name), Path(name).stem)
    scales = [each for each in SCALES if name in sweep_names(each)]
    if not scales:
        known = sorted({known for each in SCALES for known in sweep_names(each)})
        raise bad_value("sweep", name, f"choose one of {', '.join(known)}, or the path of a .yaml file")
    if scale is not None and scale not in scales:
        raise UserError(f"scale={scale}: sweep={name} has only scale={scales[0]}")
    chosen = scale or scales[0]
    return SweepFile(assets() / "sweeps" / chosen / f"{name}.yaml", f"{chosen}_{name}")


def sweep_names(scale: str) -> list[str]:
    """Return the names of all sweeps of a scale."""
    return sorted(path.stem for path in (assets() / "sweeps" / scale).glob("*.yaml"))
