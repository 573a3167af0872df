"""Expanding a sweep's file into runs: compose and check the configuration of every grid point."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ttt.cli.compose import as_object, compose, quote_option, quote_text, register_schemas, spelled_out
from ttt.cli.errors import describe
from ttt.cli.heads import check_width_and_heads
from ttt.cli.label import label_of
from ttt.cli.match import with_matched_size
from ttt.cli.parent import inherited
from ttt.cli.sweep.files import cluster_file, read_yaml, sweep_file
from ttt.config.assets import assets
from ttt.config.cluster import ClusterConfig
from ttt.config.errors import UserError, bad_value
from ttt.config.identity import run_id
from ttt.config.keys import RENAMED, free_text_keys
from ttt.config.plain import to_plain
from ttt.config.plan import check
from ttt.config.schema import TrainConfig
from ttt.config.sweep import Sweep, SweepRun, describe_point, key_of, read_sweep
from ttt.launch.plan import Plan, PlannedRun
from ttt.results.folders import folder_of
from ttt.train.optimizers.registry import check_optimizer
from ttt.train.planning import planned_parent, with_parent

SET_BY_SWEEP = ("runs", "run", "ckpt", "overwrite", "parent.run", "from")
"""Keys that the sweep sets for its runs; a sweep's file must not."""


def load_sweep(name: str, scale: str | None = None) -> Sweep:
    """Load a sweep of ``sweeps/`` at a scale, or from the path of a .yaml file; see ``sweep_file``.

    Raises:
        UserError: no such file or scale, or a file that is not a sweep.
    """
    file = sweep_file(name, scale)
    return read_sweep(file.name, read_yaml(file.path))


def load_cluster(name: str, changes: list[str]) -> ClusterConfig:
    """Load a cluster of ``slurm/``, or from the path of a .yaml file, and apply changes ``key=value``.

    Raises:
        UserError: no such file or key, or an invalid value.
    """
    path = cluster_file(name)
    return change_cluster(ClusterConfig(), changes, {"name": path.stem, **read_yaml(path)})


def change_cluster(cluster: ClusterConfig, changes: list[str], plain: object = None) -> ClusterConfig:
    """Return ``cluster`` updated by the content of a YAML file and then by ``key=value``; free text is taken as typed.

    Raises:
        UserError: an unknown key or an invalid value.
    """
    pairs = [change.split("=", 1) for change in changes if key_of(change) in free_text_keys(ClusterConfig)]
    texts = {key: value for key, value in pairs if value != "null"}
    others = [change for change in changes if key_of(change) not in texts]
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(cluster), plain or {}, OmegaConf.from_dotlist(others), OmegaConf.create(texts)
        )
        changed = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(f"slurm.{describe(error)}") from error
    assert isinstance(changed, ClusterConfig)
    changed.check()
    return changed


def expand(
    sweep: Sweep, runs_folder: Path, report: Callable[[int, int], None] = lambda *_: None, labels: bool = True
) -> Plan:
    """Compose every run of the sweep; grid points with equal configurations are one run.

    Args:
        sweep: the sweep.
        runs_folder: folder of all run folders.
        report: called after each grid point with the number done and the total.
        labels: whether to describe the runs for the records; to show a plan it is not needed, and takes half the time.

    Raises:
        UserError: an override that does not compose or an invalid value; the message names the grid point.
    """
    for override in (*sweep.base, *sweep.axes):
        key = key_of(override)
        key = RENAMED.get(key, key)
        if key in SET_BY_SWEEP:
            raise UserError(f"{override}: a sweep sets {key} itself; runs=FOLDER chooses the folder of its runs")
    register_schemas()
    planned: dict[str, PlannedRun] = {}
    configs: dict[tuple[str, ...], TrainConfig] = {}
    by_id: dict[str, TrainConfig] = {}
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(assets() / "conf")):
        runs = sweep.runs()
        for number, run in enumerate(runs):
            parent = configs[tuple(run.parent.values())] if run.parent else None
            try:
                config = compose_run(run, runs_folder, parent)
                planned_run = _planned_run(run, config, runs_folder, labels)
            except (HydraException, OmegaConfBaseException, UserError) as error:
                reason = str(error) if isinstance(error, UserError) else describe(error)
                raise UserError(f"sweep={sweep.name}: {describe_point(run.point)}: {reason}") from error
            configs[tuple(run.point.values())] = by_id[planned_run.run_id] = config
            planned.setdefault(planned_run.run_id, planned_run)
            report(number + 1, len(runs))
    return Plan(sweep.name, list(planned.values()), by_id)


def compose_run(run: SweepRun, runs_folder: Path, parent: TrainConfig | None) -> TrainConfig:
    """Compose the configuration of one run; its parent may be a run that has not been trained yet.

    Raises:
        UserError: an unknown key, or a model other than the parent's.
        HydraException: an unknown option.
        OmegaConfBaseException: a value of another type.
    """
    overrides = [quote_text(quote_option(spelled_out(override))) for override in run.overrides]
    if parent is not None:
        chosen = set(map(key_of, overrides))
        overrides = [*inherited(to_plain(parent), chosen), *overrides]
    config = as_object(compose("train", overrides), TrainConfig)
    check_width_and_heads(config, run.overrides)
    config = with_matched_size(config)
    config = replace(config, runs=str(runs_folder), ckpt="last")
    if parent is not None:
        return with_parent(config, planned_parent(parent, folder_of(parent, runs_folder)))
    if config.recipe.parent_share:
        raise bad_value("recipe", config.recipe.name, "starts from another run; name it in a rule with from:")
    return config


def _planned_run(run: SweepRun, config: TrainConfig, runs_folder: Path, labels: bool) -> PlannedRun:
    plan, name = check(config), run_id(config)
    check_optimizer(config.recipe)
    return PlannedRun(
        run_id=name,
        folder=str(folder_of(config, runs_folder)),
        overrides=run.overrides,
        parent=config.parent.run_id,
        steps=plan.steps,
        tokens_per_step=plan.tokens_per_step,
        nodes=config.trainer.nodes,
        devices=config.trainer.devices,
        resources=run.resources,
        label=label_of(config).to_plain() if labels else None,
    )
