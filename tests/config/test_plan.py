"""Steps, batches and accumulation; tests/cli/test_train.py tests refused values."""

from collections.abc import Callable

import pytest

from ttt.config.errors import UserError
from ttt.config.plan import plan_steps
from ttt.config.schema import TrainConfig

Configure = Callable[..., TrainConfig]


@pytest.mark.parametrize("length", [64, 128, 256])
def test_tokens_per_step_do_not_depend_on_the_context(configure: Configure, length: int) -> None:
    plan = plan_steps(configure(f"ctx.length={length}"))
    assert (plan.tokens_per_step, plan.sequences, plan.steps) == (256, 256 // length, 12)


def test_a_context_longer_than_a_step_takes_fewer_steps_of_one_sequence(configure: Configure) -> None:
    plan = plan_steps(configure("ctx.length=1024"))
    assert (plan.sequences, plan.tokens_per_step, plan.schedule_steps) == (1, 1024, 3)


def test_a_step_is_split_over_devices_and_time(configure: Configure) -> None:
    shared = ["recipe.tokens_per_step=1024", "trainer.strategy=ddp", "trainer.devices=2"]
    plan = plan_steps(configure(*shared, "trainer.device_batch=2"))
    assert (plan.sequences, plan.device_batch, plan.accumulate) == (16, 2, 4)
    assert plan.sequences == plan.device_batch * plan.accumulate * 2


def test_the_device_batch_is_the_largest_divisor_that_fits(configure: Configure) -> None:
    plan = plan_steps(configure("recipe.tokens_per_step=768", "trainer.device_tokens=320"))
    assert (plan.sequences, plan.device_batch, plan.accumulate) == (12, 4, 3)


def test_max_steps_ends_a_run_and_leaves_its_schedule(configure: Configure) -> None:
    plan = plan_steps(configure("trainer.max_steps=5"))
    assert (plan.steps, plan.schedule_steps) == (5, 12)
    assert plan_steps(configure("trainer.max_steps=500")).steps == 12


def test_a_batch_that_does_not_divide_is_refused(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"trainer.device_batch=3: must divide the 4 sequences"):
        plan_steps(configure("trainer.device_batch=3"))
