"""From a sweep's file to its runs: every point composed, checked and frozen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import hydra
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ttt.cli.compose import as_object, quote_option, register_schemas, spelled_out
from ttt.cli.errors import describe
from ttt.cli.label import label_of
from ttt.cli.parent import inherited
from ttt.cli.sweep.files import sweep_file
from ttt.config.assets import assets
from ttt.config.cluster import ClusterConfig
from ttt.config.errors import UserError, bad_value
from ttt.config.identity import run_id
from ttt.config.plain import to_plain
from ttt.config.plan import check
from ttt.config.schema import TrainConfig
from ttt.config.sweep import Point, Sweep, Wanted, read_sweep
from ttt.launch.plan import Plan, PlannedRun
from ttt.train.planning import planned_parent, with_parent

OWNED = ("runs_dir", "run_dir", "ckpt", "overwrite", "parent.run", "from")
"""Keys of a run that its sweep sets."""


def load_sweep(name: str, scale: str | None = None) -> Sweep:
    """The sweep of a file of ``sweeps/`` at a scale, or of any file that ends in .yaml; see ``sweep_file``.

    Raises:
        UserError: no such file or scale, or a file that describes no sweep.
    """
    file = sweep_file(name, scale)
    return read_sweep(file.name, _read_yaml(file.path))


def load_cluster(name: str, changes: list[str]) -> ClusterConfig:
    """The cluster of a file of ``slurm/``, or of any file that ends in .yaml, with ``key=value`` changed.

    Raises:
        UserError: no such file or key, or a value that cannot be.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else assets() / "slurm" / f"{name}.yaml"
    if not path.is_file():
        raise bad_value("slurm", name, f"choose one of {', '.join(clusters())}, or the path of a .yaml file")
    plain = _read_yaml(path) or {}
    if not isinstance(plain, dict):
        raise UserError(f"{path}: must map the keys of a cluster to values; slurm/README.md lists them")
    plain = {"name": path.stem, **plain}
    return change_cluster(ClusterConfig(), changes, plain)


def change_cluster(cluster: ClusterConfig, changes: list[str], plain: object = None) -> ClusterConfig:
    """``cluster`` with the content of a YAML and then ``key=value`` in the place of its own.

    Raises:
        UserError: a key that does not exist, or a value that cannot be.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cluster), plain or {}, OmegaConf.from_dotlist(changes))
        changed = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(f"slurm.{describe(error)}") from error
    assert isinstance(changed, ClusterConfig)
    changed.check()
    return changed


def expand(sweep: Sweep, runs_dir: Path, report: Callable[[int, int], None] = lambda *_: None) -> Plan:
    """Composes every run of the sweep; points that resolve to the same run are one.

    Args:
        sweep: what to expand.
        runs_dir: where runs go.
        report: told after each how many are done, and of how many.

    Raises:
        UserError: an override that does not compose or a value that cannot be, with the point that has it.
    """
    for override in sweep.base:
        key = override.lstrip("+").partition("=")[0]
        if key in OWNED:
            raise UserError(f"{override}: a sweep sets {key} itself; runs_dir=FOLDER chooses where runs go")
    register_schemas()
    runs: dict[str, PlannedRun] = {}
    configs: dict[tuple[str, ...], TrainConfig] = {}
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(assets() / "conf")):
        wanted = sweep.wanted()
        for number, one in enumerate(wanted):
            parent = configs[tuple(one.parent.values())] if one.parent else None
            with _naming(sweep, one.point):
                config = compose_run(one, runs_dir, parent)
                planned = _planned(one, config)
            configs[tuple(one.point.values())] = config
            runs.setdefault(planned.run_id, planned)
            report(number + 1, len(wanted))
    return Plan(sweep.name, list(runs.values()), {run_id(config): config for config in configs.values()})


def compose_run(wanted: Wanted, runs_dir: Path, parent: TrainConfig | None) -> TrainConfig:
    """The configuration of one run, which may start from a run that is only planned.

    Raises:
        UserError: a key that does not exist, or a model other than the parent's.
        HydraException: an option that does not exist.
        OmegaConfBaseException: a value of another type.
    """
    overrides = [quote_option(spelled_out(override)) for override in wanted.overrides]
    if parent is not None:
        chosen = {override.lstrip("+").partition("=")[0] for override in overrides}
        overrides = [*inherited(to_plain(parent), chosen), *overrides]
    config = as_object(hydra.compose("train", overrides), TrainConfig)
    config = replace(config, runs_dir=str(runs_dir), ckpt="last")
    if parent is not None:
        return with_parent(config, planned_parent(parent, runs_dir / run_id(parent)))
    if config.recipe.parent_share:
        raise bad_value("recipe", config.recipe.name, "starts from another run; a rule with from: says which")
    return config


def _planned(wanted: Wanted, config: TrainConfig) -> PlannedRun:
    plan, name = check(config), run_id(config)
    return PlannedRun(
        run_id=name,
        folder=str(Path(config.runs_dir) / name),
        overrides=wanted.overrides,
        parent=config.parent.run_id,
        steps=plan.steps,
        tokens_per_step=plan.tokens_per_step,
        nodes=config.trainer.nodes,
        devices=config.trainer.devices,
        resources=wanted.resources,
        label=label_of(config).to_plain(),
    )


@contextmanager
def _naming(sweep: Sweep, point: Point) -> Iterator[None]:
    """Adds to an error which point of the sweep has it."""
    where = f"sweep={sweep.name}: {' '.join(f'{axis}={value}' for axis, value in point.items())}"
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{where}: {describe(error)}") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def clusters() -> list[str]:
    """All clusters of ``slurm/``."""
    return sorted(path.stem for path in (assets() / "slurm").glob("*.yaml"))


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
