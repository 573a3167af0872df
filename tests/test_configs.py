"""Every YAML file of the configuration composes and matches the schema."""

from dataclasses import replace
from pathlib import Path

import pytest

from ttt.cli.compose import as_object, compose, quote_option
from ttt.config.assets import assets
from ttt.config.errors import UserError
from ttt.config.plan import check
from ttt.config.schema import ContextConfig, EvalConfig, TrainConfig

CONF = assets() / "conf"
OF_OTHERS = ("scale",)
"""Groups of ``conf/`` that are not part of a run of ``ttt-train``."""
OPTIONS = sorted(
    path.relative_to(CONF).with_suffix("") for path in CONF.glob("*/*.yaml") if path.parent.name not in OF_OTHERS
)
PAPER_SIZES = ["125m", "350m", "760m", "1.3b"]


pytestmark = pytest.mark.usefixtures("configure")


def composed(*overrides: str) -> TrainConfig:
    return as_object(compose("train", [quote_option(override) for override in overrides]), TrainConfig)


def devices(option: Path) -> list[str]:
    """Return a size whose batch can be split over the trainer's devices: 8 devices need one of the paper's sizes."""
    return ["size=125m"] if option.parts[0] == "trainer" else []


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_composes(option: Path) -> None:
    group, name = option.parts
    added = "+" if group == "ablation" else ""
    config = composed(f"{added}{group}={name}", *devices(option))
    # The number of steps of this recipe comes from the parent run: tests/train/test_parent.py.
    if name != "finetune":
        check(config)
    if group not in ("ctx", "ablation"):
        assert getattr(config, group).name == name


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_says_what_it_is(option: Path) -> None:
    from ttt.cli.help import comment

    assert comment((CONF / option).with_name(f"{option.name}.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ttt_linear", "ttt_mlp", "linear_attention", "transformer", "mamba"])
@pytest.mark.parametrize("size", PAPER_SIZES)
def test_the_papers_steps_have_the_same_tokens_at_every_context(model: str, size: str) -> None:
    config = composed(f"model={model}", f"size={size}", "ctx=1k")
    for ctx in ("1k", "2k", "4k", "8k", "16k", "32k"):
        length = 1024 * int(ctx.removesuffix("k"))
        plan = check(replace(config, ctx=ContextConfig(length)))
        assert plan.tokens_per_step == 524288
        assert plan.schedule_steps == {"125m": 4800, "350m": 13500, "760m": 29000, "1.3b": 50000}[size]


@pytest.mark.parametrize("ctx", ["1k", "2k", "4k", "8k", "16k", "32k"])
def test_a_context_has_the_length_of_its_name(ctx: str) -> None:
    assert composed(f"ctx={ctx}").ctx.length == 1024 * int(ctx.removesuffix("k"))


@pytest.mark.parametrize(
    ("model", "backbone"),
    [
        ("ttt_linear", "mamba"),
        ("ttt_mlp", "mamba"),
        ("linear_attention", "transformer"),
        ("transformer", "transformer"),
        ("mamba", "own"),
    ],
)
def test_the_default_backbone_is_the_papers(model: str, backbone: str) -> None:
    assert composed(f"model={model}").backbone.name == backbone
    assert composed("backbone=transformer", f"model={model}").backbone.name == "transformer"


def test_the_papers_inner_learning_rates() -> None:
    linear, mlp = composed("model=ttt_linear").model, composed("model=ttt_mlp").model
    assert (linear.eta_base, linear.eta_base_start) == (1.0, 1.0)  # type: ignore[attr-defined]
    assert (mlp.eta_base, mlp.eta_base_start) == (0.1, 0.01)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "eta_base", "start"),
    [("ttt_linear", 0.1, 0.1), ("ttt_linear", 3.0, 3.0), ("ttt_mlp", 0.3, 0.03), ("ttt_mlp", 1e30, 1e29)],
)
def test_a_start_of_the_inner_rate_that_is_not_set_follows_it(model: str, eta_base: float, start: float) -> None:
    layer = composed(f"model={model}", f"model.eta_base={eta_base}").model
    assert layer.eta_base_start == start  # type: ignore[attr-defined]
    layer = composed(f"model={model}", f"model.eta_base={eta_base}", "model.eta_base_start=0.01").model
    assert layer.eta_base_start == 0.01  # type: ignore[attr-defined]


def test_a_row_of_table_1_takes_the_start_of_its_inner_rate_along() -> None:
    layer = composed("+ablation=[row5,paper_text]", "model.eta_base=0.01").model
    assert layer.eta_base_start == 0.01  # type: ignore[attr-defined]


def test_the_learning_rate_is_the_sizes() -> None:
    for backbone in ("mamba", "transformer"):
        chosen = ["size=w128", "model=ttt_linear", f"backbone={backbone}"]
        assert composed(*chosen).recipe.learning_rate == 1e-2
        assert composed(*chosen, "size.learning_rate=5e-3").recipe.learning_rate == 5e-3


def test_eval_composes() -> None:
    config = as_object(compose("eval", ["run=runs/a"]), EvalConfig)
    assert (config.run, config.split, config.ctx, config.data) == ("runs/a", None, None, None)
    config = as_object(compose("eval", ["run=runs/a", "ctx='8k'", "data=local", "data.path=texts"]), EvalConfig)
    assert (config.ctx, config.data and config.data.path) == (ContextConfig(8192), "texts")


def test_numbers_are_quoted_for_groups_alone() -> None:
    assert quote_option("ctx=512,1k,256") == "ctx='512',1k,'256'"
    assert quote_option("trainer=null") == "trainer='null'"
    assert quote_option("seed=512") == "seed=512"
    with pytest.raises(UserError, match="=3: not of the form"):
        quote_option("=3")
