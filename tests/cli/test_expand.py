"""Expanding sweeps into runs: rules, every file of slurm/, and the errors of invalid sweeps."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ttt.cli.sweep.expand import expand, load_cluster, load_sweep
from ttt.cli.sweep.files import cluster_names, sweep_file
from ttt.cli.sweep.overrides import with_overrides
from ttt.config.assets import assets
from ttt.config.errors import UserError
from ttt.config.sweep import Sweep, read_sweep
from ttt.launch.plan import Plan, SweepFolder, freeze, read_runs

FINETUNING = {
    "base": ["size=w64"],
    "axes": {"model": ["transformer", "mamba"], "recipe": ["paper", "finetune"], "ctx": [256, 512]},
    "rules": [
        {"when": {"model": "mamba", "recipe": "finetune"}, "skip": True},
        {"when": {"recipe": "finetune", "ctx": 256}, "skip": True},
        {"when": {"recipe": "finetune"}, "from": {"recipe": "paper", "ctx": 256}, "add": ["recipe.learning_rate=1e-3"]},
        {"when": {"ctx": [512]}, "resources": {"mem_gb": 12}},
    ],
}


def sweep(plain: dict[str, object] | None = None) -> Sweep:
    return read_sweep("some", FINETUNING if plain is None else plain)


@pytest.mark.parametrize("name", cluster_names())
def test_every_cluster_has_valid_values(name: str) -> None:
    assert load_cluster(name, []).name == name


def test_rules_skip_points_and_name_parents(tmp_path: Path) -> None:
    plan = expand(sweep(), tmp_path)
    transformer = {(run.parent is not None, plan.configs[run.run_id].ctx.length): run for run in plan.runs[:3]}
    assert len(plan.runs) == 5
    assert transformer.keys() == {(False, 256), (False, 512), (True, 512)}
    child, parent = transformer[True, 512], transformer[False, 256]
    assert child.parent == parent.run_id
    assert plan.configs[child.run_id].recipe.learning_rate == 1e-3
    # A fifth of the parent's tokens.
    assert child.steps * child.tokens_per_step == pytest.approx(0.2 * parent.steps * parent.tokens_per_step, rel=0.01)
    assert child.resources == {"mem_gb": 12}
    assert parent.resources == {}


@pytest.mark.parametrize(
    ("rule", "skipped"),
    [
        ({"when": {"model": ["mamba", "gla"]}, "unless": {"seed": 1}}, {("mamba", "0"), ("gla", "0")}),
        ({"unless": {"model": ["transformer", "gla"]}}, {("mamba", "0"), ("mamba", "1")}),
        # All of several keys must match for the exception.
        (
            {"when": {"seed": 1}, "unless": {"model": "gla", "seed": [0]}},
            {(m, "1") for m in ("transformer", "mamba", "gla")},
        ),
    ],
)
def test_a_rule_spares_the_points_of_its_unless(rule: dict[str, object], skipped: set[tuple[str, str]]) -> None:
    axes = {"model": ["transformer", "mamba", "gla"], "seed": [0, 1]}
    runs = read_sweep("some", {"base": ["size=w64"], "axes": axes, "rules": [rule | {"skip": True}]}).runs()
    every = {(model, str(seed)) for model in axes["model"] for seed in axes["seed"]}
    assert {(run.point["model"], run.point["seed"]) for run in runs} == every - skipped


def test_an_unless_names_an_axis() -> None:
    with pytest.raises(UserError, match=r"sweep=some: rules\[0\].unless: ctx: no such key; choose one of model"):
        read_sweep("some", {"axes": {"model": ["mamba"]}, "rules": [{"unless": {"ctx": 256}, "skip": True}]})


def test_a_parent_is_added_before_its_child_if_only_the_child_is_requested(tmp_path: Path) -> None:
    plan = expand(with_overrides(sweep(), ["ctx=512", "recipe=finetune"]), tmp_path)
    assert [run.parent for run in plan.runs] == [None, plan.runs[0].run_id]
    assert plan.configs[plan.runs[0].run_id].ctx.length == 256


def test_overrides_set_a_key_of_every_run_or_the_values_of_an_axis(tmp_path: Path) -> None:
    plan = expand(with_overrides(sweep(), ["model=mamba", "seed=3", "ctx=256,1k"]), tmp_path)
    assert {(config.model.name, config.seed, config.ctx.length) for config in plan.configs.values()} == {
        ("mamba", 3, 256),
        ("mamba", 3, 1024),
    }


ROWS = {"axes": {"+ablation": ["row1", "row2", "row3"], "seed": [0]}}
HIDDEN = {"base": ["model=ttt_mlp"], "axes": {"model.hidden": [[2], [4, 4]]}}


@pytest.mark.parametrize("override", ["ablation=row3", "+ablation=row3"])
def test_a_group_is_an_axis_with_and_without_plus(override: str, tmp_path: Path) -> None:
    (run,) = expand(with_overrides(sweep(ROWS), [override]), tmp_path).runs
    assert run.overrides == ("+ablation=row3", "seed=0")
    assert run.label is not None
    assert run.label["row"] == 3


@pytest.mark.parametrize("base", [[], ["+ablation=row1"], ["ablation=row1"]], ids=str)
@pytest.mark.parametrize("override", ["ablation=row2,row3", "+ablation=row2,row3"])
def test_a_group_that_is_no_axis_replaces_the_sweeps_option(base: list[str], override: str) -> None:
    changed = with_overrides(sweep({"base": base, "axes": {"seed": [0]}}), [override])
    assert (changed.base, changed.axes) == ((), {"seed": ("0",), "+ablation": ("row2", "row3")})
    one = with_overrides(sweep({"base": base}), [override.removesuffix(",row3")])
    assert one.base == ("+ablation=row2",)


def test_a_files_group_needs_no_plus() -> None:
    rule = {"when": {"ablation": "row1"}, "skip": True, "from": {"+ablation": "row3"}, "add": ["ablation=row2"]}
    plain = sweep({"axes": {"ablation": ["row1", "row3"]}, "rules": [rule]})
    plus = {"when": {"+ablation": "row1"}, "skip": True, "from": {"ablation": "row3"}, "add": ["+ablation=row2"]}
    assert plain == sweep({"axes": {"+ablation": ["row1", "row3"]}, "rules": [plus]})


@pytest.mark.parametrize(
    ("override", "axis", "values"),
    [
        ("seed=range(0,3)", "seed", ("0", "1", "2")),
        ("+seed=4,5", "seed", ("4", "5")),
        ("seed=choice(4,5)", "seed", ("4", "5")),
        ("model.hidden=[4],[4,4]", "model.hidden", ("[4]", "[4,4]")),
        ("model.hidden=[4,4]", "model.hidden", ("[4,4]",)),
        ("recipe.clip=1e-3,2.5e-3", "recipe.clip", ("0.001", "0.0025")),
        ("ctx=512,1k", "ctx", ("512", "1k")),
    ],
)
def test_values_are_read_as_in_hydra(override: str, axis: str, values: tuple[str, ...]) -> None:
    axes = {"seed": [0], "model.hidden": [[2]]}
    assert with_overrides(sweep({"axes": axes}), [override]).axes[axis] == values


def test_lists_are_values_of_runs(tmp_path: Path) -> None:
    found = [expand(with_overrides(sweep(HIDDEN), words), tmp_path) for words in ([], ["model.hidden=[2],[4,4]"])]
    for plan in found:
        assert [plan.configs[run.run_id].model.hidden for run in plan.runs] == [[2], [4, 4]]


@pytest.mark.parametrize(
    "values", [["2.5e-3", "[4]"], ["0.0025", "[4,4]"]], ids=["the rule's spelling", "another spelling"]
)
@pytest.mark.parametrize("in_rule", [2.5e-3, "25e-4"], ids=["a number of YAML", "a text of YAML"])
def test_a_rule_matches_a_value_however_it_is_written(values: list[str], in_rule: float | str) -> None:
    axes = {"recipe.learning_rate": [0.1], "model.hidden": [[1]]}
    rule = {"when": {"recipe.learning_rate": in_rule, "model.hidden": [[4], [4, 4]]}, "skip": True}
    rate, hidden = values
    words = [f"recipe.learning_rate={rate}", f"model.hidden={hidden}"]
    assert with_overrides(sweep({"axes": axes, "rules": [rule]}), words).runs() == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=interval(0,3)", "seed=interval(0,3): a sweep takes a list, choice(...) or range(...)"),
        ("seed=shuffle(0,3)", "seed=shuffle(0,3): a sweep takes a list, choice(...) or range(...)"),
        ("size=glob(*)", "size=glob(*): a sweep takes a list, choice(...) or range(...)"),
        ("seed=range(3,0)", "seed=range(3,0): has no values"),
        ("seed=[0", "seed=[0: not a list of values as in Hydra"),
    ],
)
def test_values_that_are_no_list_are_refused_by_name(override: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        with_overrides(sweep(ROWS), [override])
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_points_that_resolve_to_the_same_run_are_one(tmp_path: Path) -> None:
    twice = {"axes": {"seed": [0], "recipe.clip": [1, 1.0, "1.0"]}}
    assert len(expand(sweep(twice), tmp_path).runs) == 1


@pytest.mark.slow
def test_equal_runs_of_two_sweeps_are_one_folder(tmp_path: Path) -> None:
    few = {"axes": {"seed": [0, 1]}}
    folders = [{run.folder for run in expand(read_sweep(name, few), tmp_path).runs} for name in ("one", "other")]
    assert folders[0] == folders[1]


def test_the_value_default_adds_no_override(tmp_path: Path) -> None:
    """The value is for a key that some points do not have."""
    axes = {"model": ["transformer", "mamba"], "model.rope_base": ["default", 5e5]}
    rule = {"when": {"model": "mamba", "model.rope_base": 5e5}, "skip": True}
    plan = expand(sweep({"axes": axes, "rules": [rule]}), tmp_path)
    assert [run.overrides for run in plan.runs] == [
        ("model=transformer",),
        ("model=transformer", "model.rope_base=500000.0"),
        ("model=mamba",),
    ]


@pytest.mark.parametrize(
    ("name", "scale", "found"),
    [
        ("ablation", None, "paper_ablation"),
        ("ablation", "paper", "paper_ablation"),
        ("ablation", "laptop", "laptop_ablation"),
        ("rates", None, "laptop_rates"),
        ("mine/own.yaml", None, "own"),
    ],
)
def test_one_name_has_two_scales(name: str, scale: str | None, found: str) -> None:
    file = sweep_file(name, scale)
    assert file.name == found
    assert file.path.is_file() != name.endswith(".yaml")


@pytest.mark.parametrize(
    ("name", "scale", "line"),
    [
        ("rates", "paper", "scale=paper: sweep=rates has only scale=laptop and scale=gpu"),
        ("rates", "desk", "scale=desk: choose one of paper, laptop"),
        ("own.yaml", "paper", "scale=paper: is for sweeps of the suite; sweep=own.yaml is a file of your own"),
        ("paper", None, "sweep=paper: choose one of ablation, ablation_text, "),
    ],
)
def test_an_unknown_scale_is_refused(name: str, scale: str | None, line: str) -> None:
    with pytest.raises(UserError) as error:
        sweep_file(name, scale)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("plain", "line"),
    [
        ([], "sweep=some: the file is []: must map keys to values"),
        ({"axis": {}}, "sweep=some: the file: axis: no such key; choose one of base, axes, rules"),
        ({"axes": {"seed": 3}}, "sweep=some: axes.seed=3: must be a list of values"),
        ({"base": "size=w64"}, "sweep=some: base=size=w64: must be a list of overrides such as size=125m"),
        ({"rules": {}}, "sweep=some: rules={}: must be a list"),
        (
            {"axes": {"seed": [0]}, "rules": [{"when": {"sed": 0}}]},
            "rules[0].when: sed: no such key; choose one of seed",
        ),
        ({"rules": [{"resources": {"gpus": 1}}]}, "rules[0].resources: gpus: no such key"),
    ],
)
def test_an_invalid_sweep_is_refused_by_its_key(plain: object, line: str) -> None:
    with pytest.raises(UserError) as error:
        read_sweep("some", plain)
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("plain", "line"),
    [
        ({"axes": {"model": ["ttt_lin"]}}, "sweep=some: model=ttt_lin: model=ttt_lin: choose one of"),
        ({"axes": {"seed": [-1]}}, "sweep=some: seed=-1: seed=-1: must be at least 0"),
        ({"axes": {"seed": ["x"]}}, "sweep=some: seed=x: seed=x: "),
        ({"axes": {"sed": [1]}}, "sweep=some: sed=1: sed: no such key"),
        ({"axes": {"runs": ["a", "b"]}}, "runs: a sweep sets runs itself"),
        ({"base": ["overwrite=true"]}, "overwrite=true: a sweep sets overwrite itself"),
        ({"base": ["recipe=finetune"]}, "recipe=finetune: starts from another run; name it in a rule with from:"),
        (
            {"axes": {"seed": [0, 1]}, "rules": [{"when": {"seed": 0}, "skip": True}, {"from": {"seed": 0}}]},
            "sweep=some: seed=1 starts from seed=0, which a rule skips",
        ),
        (
            {"axes": {"seed": [0, 1]}, "rules": [{"when": {"seed": v}, "from": {"seed": 1 - v}} for v in (0, 1)]},
            "starts from it",
        ),
    ],
)
def test_a_value_that_does_not_compose_is_named_with_its_point(
    plain: dict[str, object], line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        expand(sweep(plain), tmp_path)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_frozen_plan_is_accepted_again_and_another_is_refused(tmp_path: Path) -> None:
    folder, few = SweepFolder(tmp_path / "sweep"), with_overrides(sweep(), ["model=mamba"])
    plan = expand(few, tmp_path)
    freeze(plan, folder)
    before = folder.plan.read_bytes()
    freeze(plan, folder)
    assert read_runs(folder) == plan.runs
    content = json.loads(before)
    for run in content["runs"]:
        del run["label"]
        run["newer"] = 1
    folder.plan.write_text(json.dumps(content))
    unlabelled = [replace(run, label=None) for run in plan.runs]
    assert read_runs(folder) == unlabelled, "an earlier version writes no labels, a newer one more keys"
    folder.plan.write_bytes(before)
    assert sorted(path.stem for path in (folder.path / "configs").iterdir()) == sorted(plan.configs)
    for another, line in (
        (expand(with_overrides(few, ["seed=7"]), tmp_path), "2 new runs, 2 gone"),
        (Plan(plan.sweep, plan.runs[:-1], plan.configs), "0 new runs, 1 gone"),
        (expand(with_overrides(few, ["trainer.max_steps=3"]), tmp_path), "steps=3, not 384"),
    ):
        with pytest.raises(UserError, match="contains another plan") as error:
            freeze(another, folder)
        assert line in str(error.value)
    assert folder.plan.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("nowhere", [], "slurm=nowhere: choose one of a100, h100, local, one_machine, or the path of a .yaml file"),
        ("a100", ["partitoin=x"], "slurm.partitoin: no such key; did you mean partition?"),
        ("a100", ["timeout_min=soon"], "slurm.timeout_min=soon: "),
        ("a100", ["executor=pbs"], "slurm.executor=pbs: choose one of slurm, local"),
        ("a100", ["timeout_min=2"], "slurm.timeout_min=2: must exceed slurm.signal_delay_s=120 by 45 s"),
        ("a100", ["mem_gb=0"], "slurm.mem_gb=0.0: must be positive, or null"),
    ],
)
def test_an_invalid_cluster_is_refused_by_its_key(name: str, changes: list[str], line: str) -> None:
    with pytest.raises(UserError) as error:
        load_cluster(name, changes)
    assert str(error.value).startswith(line)


def test_a_file_builds_on_its_defaults(tmp_path: Path) -> None:
    """Mappings such as ``axes`` are merged key by key, all other values are replaced."""
    (tmp_path / "some.yaml").write_text("{base: [size=w64], axes: {seed: [0, 1], ctx: [256]}, rules: [{add: [a=1]}]}")
    (tmp_path / "mine.yaml").write_text("{defaults: some, base: [size=w128], axes: {seed: [2], model: [mamba]}}")
    mine = load_sweep(f"{tmp_path}/mine.yaml")
    assert (mine.base, mine.axes) == (("size=w128",), {"seed": ("2",), "ctx": ("256",), "model": ("mamba",)})
    assert [rule.add for rule in mine.rules] == [("a=1",)]
    (tmp_path / "a100.yaml").write_text("{defaults: a100, partition: mine}")
    here, suite = load_cluster(f"{tmp_path}/a100.yaml", []), load_cluster("a100", [])
    assert here == replace(suite, partition="mine")
    assert load_sweep("pile_scaling", "paper").rules == load_sweep("books_scaling", "paper").rules
    for text in ("defaults: nothing", "defaults: mine"):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(UserError, match=rf"mine.yaml: {text.replace(': ', '=')}: no other file of this name"):
            load_sweep(f"{tmp_path}/mine.yaml")


def test_the_cluster_of_the_readme_is_one_file(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (assets() / "slurm/README.md").read_text(), re.DOTALL)
    (tmp_path / "my_cluster.yaml").write_text(text)
    mine = load_cluster(f"{tmp_path}/my_cluster.yaml", [])
    changes = {"name": "my_cluster", "partition": "long", "account": "my_group", "setup": ["module load cuda"]}
    assert mine == replace(load_cluster("a100", []), **changes)


def test_files_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("axes: {seed: [0, 1]}")
    (tmp_path / "here.yaml").write_text("{executor: local, parallel: 3}")
    assert load_sweep(f"{tmp_path}/mine.yaml").axes == {"seed": ("0", "1")}
    assert load_cluster(f"{tmp_path}/here.yaml", ["parallel=2"]).parallel == 2
    (tmp_path / "mine.yaml").write_text("axes: {seed")
    with pytest.raises(UserError, match=r"mine.yaml: not YAML"):
        load_sweep(f"{tmp_path}/mine.yaml")
