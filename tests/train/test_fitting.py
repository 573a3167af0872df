"""Choosing the batch and the recomputation of blocks by the memory of a device."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ttt.config.errors import RunError, UserError
from ttt.config.identity import run_id
from ttt.config.plan import check_same_batches, plan_steps
from ttt.config.schema import TrainConfig
from ttt.models.count import counted_model
from ttt.models.step_memory import StepMemory
from ttt.train import fitting
from ttt.train import prepare as preparing
from ttt.train.fitting import Room, check_weights, fit, memory_line, naming_the_keys, optimizer_states, with_fit
from ttt.train.opening import open_run
from ttt.train.planning import plan_run

Configure = Callable[..., TrainConfig]

GB = 10**9


def count(config: TrainConfig, batch: int, checkpointed: bool) -> StepMemory:
    """Take 1 GB for each block of width 16 and for each sequence of 64 tokens, a quarter of that if recomputed."""
    states = config.size.blocks * config.size.width // 16 * GB
    activations = batch * config.ctx.length * GB // 64
    return StepMemory(states, 0, 0, activations // 4 if checkpointed else activations, 0)


def room(gigabytes: float) -> Room:
    return Room("a card", gigabytes * GB / 0.9, "cuda", "32-true")


@pytest.mark.parametrize(
    ("gigabytes", "keys", "batch", "checkpointed"),
    [
        (9, [], 8, False),
        (8.9, [], 4, False),
        (8.9, ["trainer.activation_checkpointing=auto"], 8, True),
        (9, ["trainer.activation_checkpointing=auto"], 8, False),
        (2, ["trainer.activation_checkpointing=blocks"], 4, True),
        (9, ["trainer.device_batch=2"], 2, False),
    ],
)
def test_the_largest_batch_that_fits_is_taken(
    configure: Configure, gigabytes: float, keys: list[str], batch: int, checkpointed: bool
) -> None:
    config = configure("recipe.tokens_per_step=512", "trainer.device_tokens=auto", *keys)
    found = fit(config, room(gigabytes), count)
    assert (found.batch, found.checkpointed) == (batch, checkpointed)
    chosen = with_fit(config, found)
    assert plan_steps(chosen).device_batch == batch
    assert chosen.trainer.activation_checkpointing == ("blocks" if checkpointed else "none")
    assert run_id(chosen) == run_id(configure("recipe.tokens_per_step=512"))


@pytest.mark.parametrize(
    ("gigabytes", "keys", "nearest"),
    [
        (1.3, ["trainer.device_tokens=auto"], "trainer.activation_checkpointing=blocks fits"),
        (1.6, [], "trainer.activation_checkpointing=blocks trainer.device_tokens=auto fits"),
        (3, ["ctx.length=1024", "trainer.device_tokens=auto"], "trainer.activation_checkpointing=blocks ctx=512 fits"),
        (0.1, ["trainer.device_tokens=auto"], "no size of conf/size fits; choose a device with more memory"),
    ],
)
def test_a_step_that_does_not_fit_names_the_nearest_that_does(
    configure: Configure, gigabytes: float, keys: list[str], nearest: str
) -> None:
    config = configure("recipe.tokens_per_step=1024", *keys)
    with pytest.raises(UserError, match=r"GB by count, and a card has") as error:
        fit(config, room(gigabytes), count)
    assert str(error.value).endswith(nearest)
    assert "\n" not in str(error.value)


def test_weights_alone_may_be_too_large(configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also without auto, a run is refused before its data are prepared and before it exhausts the memory."""
    plan = plan_run(configure(f"run={tmp_path}/run"), [])
    parameters = counted_model(plan.config).parameters
    whole, half = (Room("a card", part * 16 * parameters, "cuda", "32-true") for part in (1, 0.5))
    check_weights(plan.config, parameters, whole)
    check_weights(configure("trainer.strategy=fsdp", "trainer.devices=2"), parameters, half)
    monkeypatch.setattr(preparing, "room_here", lambda _: half)
    monkeypatch.setattr(fitting, "counting", lambda _: count)
    monkeypatch.setattr(preparing, "load_corpus", lambda *_: pytest.fail("the data are prepared"))
    with pytest.raises(UserError, match=r"^size=w64: .* GB by count, and a card has .* stays free; .* fits") as error:
        preparing.prepare(plan, open_run(plan))
    assert "\n" not in str(error.value)


def test_auto_is_replaced_before_a_run_is_planned(configure: Configure, tmp_path: Path) -> None:
    keys = ["trainer.device_tokens=auto", "trainer.activation_checkpointing=auto", f"run={tmp_path}/run"]
    plan = plan_run(configure(*keys), [])
    assert plan.config.trainer.device_tokens == 256
    assert plan.plain["trainer"]["activation_checkpointing"] == "none"


def test_a_resumed_run_keeps_its_batches(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = configure("trainer.device_tokens=128")
    record = {"config": {"trainer": {"device_tokens": 128}}}
    monkeypatch.setattr("ttt.train.fitting.read_record", lambda _: record)
    (tmp_path / "record.json").write_text("{}")
    resumed = plan_run(configure("trainer.device_tokens=auto", f"run={tmp_path}"), [])
    check_same_batches(resumed.config, former)
    anew = plan_run(configure("trainer.device_tokens=auto", f"run={tmp_path}", "overwrite=true"), [])
    assert anew.config.trainer.device_tokens == 256


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_exhausted_memory_names_three_keys(configure: Configure, error: Exception) -> None:
    with pytest.raises(RunError) as raised, naming_the_keys(configure().trainer):
        raise error
    for key in ("trainer.activation_checkpointing=blocks", "trainer.device_tokens", "trainer.strategy=fsdp"):
        assert key in str(raised.value)


def test_other_errors_pass(configure: Configure) -> None:
    with pytest.raises(RuntimeError, match="shapes"), naming_the_keys(configure().trainer):
        raise RuntimeError("shapes do not match")


def test_the_line_names_parts_and_device(configure: Configure) -> None:
    line = memory_line(configure(), Room("one H100", 80 * GB, "cuda", "bf16-mixed"))
    assert "of 80 GB of one H100 in a step, by count (parameters" in line
    assert "256 tokens at once, blocks not recomputed" in line


def test_adamw_keeps_two_numbers_for_each_parameter(configure: Configure) -> None:
    recipe = replace(configure().recipe, learning_rate=1e-3)
    assert optimizer_states(recipe) == 2
