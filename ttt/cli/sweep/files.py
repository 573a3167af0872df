"""Where sweeps are: ``sweeps/SCALE/NAME.yaml``, one name for a figure at the paper's scale and on a laptop."""

from dataclasses import dataclass
from pathlib import Path

from ttt.config.assets import assets
from ttt.config.errors import UserError, bad_value

SCALES = ("paper", "laptop")
"""In the order in which they are taken where none is asked for."""


@dataclass(frozen=True)
class SweepFile:
    """A sweep's YAML, and the name under which its folder, its jobs and its runs' records know it."""

    path: Path
    name: str


def sweep_file(name: str, scale: str | None = None) -> SweepFile:
    """The file of a sweep: of ``sweeps/``, or any that ends in .yaml.

    Args:
        name: what ``sweep=`` says.
        scale: what ``scale=`` says; None: the paper's scale, or the laptop's where the sweep has no other.

    Raises:
        UserError: no such sweep or scale, or a scale for a file of one's own.
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
        raise UserError(f"scale={scale}: sweep={name} has scale={scales[0]} alone")
    chosen = scale or scales[0]
    return SweepFile(assets() / "sweeps" / chosen / f"{name}.yaml", f"{chosen}_{name}")


def sweep_names(scale: str) -> list[str]:
    """All sweeps of a scale."""
    return sorted(path.stem for path in (assets() / "sweeps" / scale).glob("*.yaml"))
