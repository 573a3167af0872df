"""Every file of sweeps/ at every scale composes, and the laptop's sweeps cost what sweeps/README.md states."""

import re
from functools import cache
from pathlib import Path

import pytest

from ttt.cli.sweep.expand import expand, load_sweep
from ttt.cli.sweep.files import SCALES, sweep_names
from ttt.cli.sweep.overrides import with_overrides
from ttt.config.assets import assets
from ttt.config.layers import TTTConfig
from ttt.config.schema import TrainConfig
from ttt.launch.cost import run_costs
from ttt.launch.plan import Plan, PlannedRun

pytestmark = pytest.mark.slow

FILES = [(scale, name) for scale in SCALES for name in sweep_names(scale)]
README = (assets() / "sweeps" / "README.md").read_text(encoding="utf-8")
REPRODUCE = (assets() / "REPRODUCE.md").read_text(encoding="utf-8")
MAKEFILE = (assets() / "Makefile").read_text(encoding="utf-8")

OVERHEAD = 8
"""Seconds to start and evaluate a run."""

FULL = {"w64": 384 * 4096, "w128": 1024 * 4096, "w192": 2048 * 4096}
"""Training tokens of the timed runs."""

CONTEXT_FACTOR = {512: 0.8, 1024: 1.0, 2048: 1.4, 4096: 2.2, 8192: 4.0}
"""Time per token of the Transformer relative to context 1k; for other methods it does not depend on the context."""

ONLINE_FACTOR, WHOLE_FACTOR = 2.0, 1.4
"""Time of b = 1 and of b = T relative to b = 16."""


@cache
def plan(scale: str, name: str) -> Plan:
    sweep = load_sweep(name, scale)
    if scale == "gpu" and "seed" in sweep.axes:
        # One seed composes as the others do, in a third of the time.
        sweep = with_overrides(sweep, ["seed=0"])
    return expand(sweep, Path("runs"), labels=scale != "gpu")


@pytest.mark.parametrize(("scale", "name"), FILES)
def test_every_sweep_composes(scale: str, name: str) -> None:
    found = plan(scale, name)
    assert found.sweep == f"{scale}_{name}"
    ids = [run.run_id for run in found.runs]
    assert len(ids) == len(set(ids))
    assert set(ids) == found.configs.keys()
    for number, run in enumerate(found.runs):
        assert run.parent is None or run.parent in ids[:number]


@pytest.mark.parametrize(("scale", "name"), FILES)
def test_every_sweep_has_a_price(scale: str, name: str) -> None:
    found = plan(scale, name)
    costs = run_costs(found, "h100", 0.4)
    assert [cost.run for cost in costs] == found.runs
    assert all(one.flops > 1e11 and one.parameters > 1e5 for one in costs)


def test_a_figure_of_the_paper_has_both_scales() -> None:
    """But for the Pile, in whose place a laptop would have the text that it has in the place of Books."""
    laptop_only = ("rates", "context_gain", "mqar")
    both = [name for name in sweep_names("laptop") if name not in laptop_only]
    assert [name for name in sweep_names("paper") if name != "pile_scaling"] == both


def test_every_figure_has_the_scale_of_one_gpu() -> None:
    """But for the recall task, which is made for small models."""
    assert {*sweep_names("paper"), *sweep_names("laptop")} - {"mqar"} == {*sweep_names("gpu")}


@pytest.mark.parametrize("name", [name for name in sweep_names("gpu") if name not in ("books_scaling", "pile_scaling")])
def test_a_comparison_on_a_gpu_is_fair(name: str) -> None:
    """Methods of one size and context see the same tokens of the same data, with heads of the paper's width."""
    tokens: dict[tuple[str, int, bool], set[int]] = {}
    for run in plan("gpu", name).runs:
        config = plan("gpu", name).configs[run.run_id]
        tokens.setdefault((config.size.name, config.ctx.length, run.parent is not None), set()).add(
            run.steps * run.tokens_per_step
        )
        assert config.size.width == 64 * config.size.heads
        assert (config.trainer.device, config.trainer.device_tokens) == ("cuda", "auto")
        assert (config.data.name, config.data.vocab_size) == ("pyrepo_4k", 4096)
    assert all(len(counts) == 1 for counts in tokens.values())


def test_the_search_on_one_gpu_lies_around_the_rate_of_each_size() -> None:
    tried: dict[tuple[str, str, str], set[float]] = {}
    for config in plan("gpu", "rates").configs.values():
        assert 4 * config.recipe.steps == config.size.steps
        share = round(config.recipe.learning_rate / config.size.learning_rate, 6)
        tried.setdefault((config.size.name, config.model.name, config.backbone.name), set()).add(share)
    assert len(tried) == 2 * 6
    assert all(shares == {0.25, 0.5, 1, 2} for shares in tried.values())


def test_the_papers_books_have_everything() -> None:
    """Six contexts and four sizes of four methods; three finetuning rates; another RoPE base from 4k on for both."""
    runs, configs = plan("paper", "books_complete").runs, plan("paper", "books_complete").configs
    of = [configs[run.run_id] for run in runs]
    pretrained = [config for config in of if config.recipe.name == "paper"]
    base = [config for config in pretrained if getattr(config.model, "rope_base", 1e4) == 1e4]
    assert len(base) == 4 * 6 * 4
    other_base = {(config.size.name, config.ctx.length) for config in pretrained if config not in base}
    assert len(other_base) == len(pretrained) - len(base) == 4 * 4
    assert min(length for _, length in other_base) == 4096
    finetuned = [(run, configs[run.run_id]) for run in runs if run.parent]
    assert len(finetuned) == 4 * 4 * 3 * 2
    assert {config.model.rope_base for _, config in finetuned} == {1e4, 5e5}  # type: ignore[attr-defined]
    assert {config.recipe.learning_rate for _, config in finetuned} == {1e-5, 1e-4, 1e-3}
    for run, config in finetuned:
        assert run.parent is not None
        parent = configs[run.parent]
        assert (parent.ctx.length, parent.size.name, parent.model.name) == (2048, config.size.name, "transformer")
        assert parent.model.rope_base == 1e4  # type: ignore[attr-defined]


def test_the_transformer_by_token_index_is_finetuned() -> None:
    """Appendix C: the best of three rates and two RoPE bases; at 32k no other Transformer is trained."""
    found = plan("paper", "per_token")
    methods = {(found.configs[run.run_id].model.name, run.parent is not None): run for run in found.runs}
    assert methods.keys() == {("transformer", False), ("transformer", True)} | {
        (model, False) for model in ("ttt_linear", "ttt_mlp", "mamba")
    }
    of = [(run.parent, found.configs[run.run_id]) for run in found.runs]
    transformers = [(parent, config) for parent, config in of if config.model.name == "transformer"]
    assert [config.ctx.length for parent, config in transformers if parent is None] == [2048]
    tried = [
        (config.ctx.length, config.model.rope_base, config.recipe.learning_rate)  # type: ignore[attr-defined]
        for parent, config in transformers
        if parent is not None
    ]
    assert sorted(tried) == [(32768, base, rate) for base in (1e4, 5e5) for rate in (1e-5, 1e-4, 1e-3)]
    assert {config.ctx.length for _, config in of if config.model.name != "transformer"} == {32768}


def test_the_later_layers_by_token_index_cost_what_mamba_costs() -> None:
    """``ttt/models/FLOPS.md`` has these widths."""
    sweep = with_overrides(load_sweep("per_token", "paper"), ["model=deltanet,gated_deltanet,gla,mamba2"])
    configs = expand(sweep, Path("runs"), labels=False).configs.values()
    found = {config.model.name: (config.size.width, config.size.mlp_hidden) for config in configs}
    widths = {"deltanet": 5729, "gated_deltanet": 5811, "gla": 5897, "mamba2": 5504}
    assert found == {name: (2048, width) for name, width in widths.items()}


def test_another_rope_base_is_for_books_alone() -> None:
    def bases(name: str) -> set[float]:
        configs = plan("paper", name).configs.values()
        return {config.model.rope_base for config in configs if config.model.name == "transformer"}  # type: ignore[attr-defined]

    assert (bases("pile_scaling"), bases("books_scaling")) == ({1e4}, {1e4, 5e5})


@pytest.mark.parametrize(("name", "contexts"), [("pile_scaling", {2048, 8192}), ("books_scaling", {2048, 32768})])
def test_the_papers_scaling_has_both_backbones(name: str, contexts: set[int]) -> None:
    configs = plan("paper", name).configs.values()
    points = {(c.size.name, c.ctx.length, c.model.name, c.backbone.name) for c in configs}
    methods = {(model, backbone) for *_, model, backbone in points}
    ttt = {(model, backbone) for model in ("ttt_linear", "ttt_mlp") for backbone in ("mamba", "transformer")}
    assert methods == ttt | {("transformer", "transformer"), ("mamba", "own")}
    assert len(points) == 4 * 2 * 6
    assert {length for _, length, *_ in points} == contexts


def seconds(run: PlannedRun, config: TrainConfig) -> float:
    """Estimate the seconds of a run on one core from the table of timed runs in sweeps/README.md."""
    row = re.search(rf"^\| `{config.model.name}` \|(.*)\|$", README, re.MULTILINE)
    assert row, config.model.name
    columns = dict(zip(FULL, map(str.strip, row[1].split("|")), strict=True))
    time = float(columns[config.size.name]) * run.steps * run.tokens_per_step / FULL[config.size.name]
    if config.model.name == "transformer":
        time *= CONTEXT_FACTOR[config.ctx.length]
    b = getattr(config.model, "mini_batch_size", None)
    return OVERHEAD + time * {1: ONLINE_FACTOR, config.ctx.length: WHOLE_FACTOR}.get(b, 1)


def minutes(runs: dict[str, float]) -> tuple[int, int]:
    """Return the number of runs, and their CPU minutes."""
    return len(runs), round(sum(runs.values()) / 60)


def timed(*names: str) -> dict[str, float]:
    """Return run id -> seconds of the distinct runs of these laptop sweeps."""
    return {
        run.run_id: seconds(run, found.configs[run.run_id]) for found in map(of_laptop, names) for run in found.runs
    }


def parts(of: str) -> dict[str, float]:
    """Return run id -> seconds of the parts of sweeps that the Makefile chooses in ``quick_*`` or ``night_*``."""
    found: dict[str, float] = {}
    for name, chosen in re.findall(rf"^{of}_(\w+) := (.*)$", MAKEFILE, re.MULTILINE):
        part = expand(with_overrides(load_sweep(name, "laptop"), chosen.split()), Path("runs"))
        assert {run.run_id for run in part.runs} < {run.run_id for run in of_laptop(name).runs}
        found |= {run.run_id: seconds(run, part.configs[run.run_id]) for run in part.runs}
    assert found
    return found


def of_make(variable: str) -> list[str]:
    found = re.search(rf"^{variable} := (.*)$", MAKEFILE, re.MULTILINE)
    assert found
    return found[1].split()


def of_laptop(name: str) -> Plan:
    return plan("laptop", name)


@pytest.mark.parametrize("name", sweep_names("laptop"))
def test_a_laptop_sweep_costs_the_stated_time(name: str) -> None:
    stated = re.search(rf"^\| `{name}` \| (\d+) \| (\d+) \|", README, re.MULTILINE)
    assert stated, name
    assert minutes(timed(name)) == (int(stated[1]), int(stated[2]))
    row = re.search(rf"^.*sweep={name} scale=laptop.*$", REPRODUCE, re.MULTILINE)
    assert row, name
    assert f"{stated[1]} runs, {stated[2]} min" in row[0]


def test_the_laptop_sets_fit_into_two_hours_and_a_half_and_ten_of_two_cores() -> None:
    quick = parts("quick")
    runs, cost = minutes(quick)
    assert f"| `make laptop` | {runs} | {cost} |" in README
    assert f"`make laptop` takes {cost} core minutes" in REPRODUCE
    assert cost < 2 * 140
    night = quick | timed(*of_make("NIGHT_SWEEPS")) | parts("night")
    runs, cost = minutes(night)
    assert f"| `make night` | {runs} | {cost} |" in README
    # The probes of contexts take two more hours of a core, which are not calculated here.
    assert cost < 2 * 600 - 130
    runs, cost = minutes(timed(*sweep_names("laptop")))
    assert f"| `make whole` | {runs} | {cost} |" in README


def test_the_sets_share_runs_with_other_sweeps_as_stated() -> None:
    """All runs of per_token are of context_gain, and those of inner_loss of mini_batch_size."""
    assert timed("per_token").keys() < timed("context_gain").keys()
    assert timed("inner_loss").keys() < timed("mini_batch_size").keys()
    others = timed(*(name for name in sweep_names("laptop") if name not in ("books_complete", "rates")))
    shared = timed("books_complete").keys() & timed("books_scaling").keys()
    configs = of_laptop("books_complete").configs
    assert {configs[run].ctx.length for run in timed("books_complete").keys() & others.keys()} == {512, 1024, 2048}
    assert len(shared) == 2 * 2 * 4


def test_a_longer_context_is_probed_on_equal_steps() -> None:
    """Runs of context_gain have 8.4M tokens in equal steps; only what was finetuned has fewer."""
    found = of_laptop("context_gain")
    for run in found.runs:
        assert run.tokens_per_step == 8192
        assert run.steps == (205 if run.parent else 1024)
    finetuned = [found.configs[run.run_id] for run in found.runs if run.parent]
    assert {config.ctx.length for config in finetuned} == {2048, 8192}
    assert {config.recipe.learning_rate for config in finetuned} == {1e-4, 5e-4, 2.5e-3}


def test_the_inner_rate_is_searched_beside_each_layers_own() -> None:
    tried: dict[tuple[str, str], set[tuple[float, float]]] = {}
    for config in of_laptop("rates").configs.values():
        if isinstance(config.model, TTTConfig):
            rates = (config.model.eta_base, config.model.eta_base_start)
            tried.setdefault((config.model.name, config.backbone.name), set()).add(rates)
    linear, mlp = {(0.3, 0.3), (1.0, 1.0), (3.0, 3.0)}, {(0.03, 0.003), (0.1, 0.01), (0.3, 0.03)}
    assert tried["ttt_linear", "transformer"] == linear
    # One step further where the highest was the best.
    assert tried["ttt_linear", "mamba"] == linear | {(10.0, 10.0)}
    assert tried["ttt_mlp", "transformer"] == tried["ttt_mlp", "mamba"] == mlp | {(1.0, 0.1)}


@pytest.mark.parametrize("name", sweep_names("laptop"))
def test_a_comparison_on_a_laptop_is_fair(name: str) -> None:
    """Methods of one size and context see the same tokens of the same data in the same order."""
    found = plan("laptop", name)
    tokens: dict[tuple[str, int, bool], set[int]] = {}
    for run in found.runs:
        config = found.configs[run.run_id]
        key = (config.size.name, config.ctx.length, run.parent is not None)
        tokens.setdefault(key, set()).add(run.steps * run.tokens_per_step)
    assert all(len(counts) == 1 for counts in tokens.values())
    assert len({config.data.name for config in found.configs.values()}) == 1


def test_every_method_has_the_same_search_for_rates() -> None:
    """Three rates for all at the smallest size; a fourth if the best was the lowest or the highest."""
    tried: dict[tuple[str, str, str], set[float]] = {}
    for config in of_laptop("rates").configs.values():
        method = config.size.name, config.model.name, config.backbone.name
        tried.setdefault(method, set()).add(config.recipe.learning_rate)
    assert all(rates >= {5e-3, 1e-2, 2e-2} for rates in tried.values())
    trained = {
        (config.size.name, config.model.name, config.backbone.name)
        for name in sweep_names("laptop")
        if name != "mqar"
        for config in of_laptop(name).configs.values()
    }
    assert tried.keys() == {method for method in trained if method[0] == "w64"}


def test_associative_recall_searches_its_rates_alike() -> None:
    """With one seed at one setting; elsewhere each method has one rate, with three seeds at every setting."""
    searched: dict[str, set[tuple[float, float | None]]] = {}
    others: dict[str, set[tuple[int, int, int, float, float | None]]] = {}
    for config in of_laptop("mqar").configs.values():
        pairs, heads = config.data.pairs, config.size.heads  # type: ignore[attr-defined]
        rates = config.recipe.learning_rate, getattr(config.model, "eta_base", None)
        if (pairs, heads, config.seed) == (16, 4, 0):
            searched.setdefault(config.model.name, set()).add(rates)
        else:
            others.setdefault(config.model.name, set()).add((pairs, heads, config.seed, *rates))
    inner = {(5e-3, 1.0), (1e-2, 1.0), (2e-2, 1.0), (1e-2, 0.1)}
    assert searched == {
        "ttt_mlp": inner,
        "ttt_linear": inner,
        # The best of three was the highest.
        "linear_attention": {(5e-3, None), (1e-2, None), (2e-2, None), (4e-2, None)},
    }
    settings = {
        (pairs, heads, seed) for pairs, heads in ((8, 4), (16, 1), (16, 2), (16, 8), (24, 4)) for seed in range(3)
    }
    best = {"ttt_mlp": (1e-2, 1.0), "ttt_linear": (1e-2, 1.0), "linear_attention": (2e-2, None)}
    for model, rates in best.items():
        assert others[model] == {(*setting, *rates) for setting in settings | {(16, 4, 1), (16, 4, 2)}}


def test_every_row_of_table_1_has_the_rate_of_its_size() -> None:
    configs = of_laptop("ablation").configs.values()
    assert {config.recipe.learning_rate for config in configs} == {config.size.learning_rate for config in configs}
