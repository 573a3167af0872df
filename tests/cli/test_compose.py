"""``compose`` gives what Hydra gives, values and errors, and composes a combination of groups once."""

from collections.abc import Callable

import hydra
import pytest
from hydra.errors import HydraException

from ttt.cli import compose
from ttt.config.schema import TrainConfig

pytestmark = pytest.mark.usefixtures("configure")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=ttt_mlp", "model.hidden=[4,2]", "size=w128", "++ctx.length=128", "recipe.steps=3"],
        ["seed=7", "model=transformer", "recipe.learning_rate=${recipe.final_learning_rate}", "runs='a b'"],
        ["size=125m", "ctx=32k", "size.steps=3", "+ablation=row8", "recipe=finetune"],
        ["ctx=2k", "ctx=4k"],
        ["+ablation=row3", "ctx='512'", "parent.run=null", "data.packages=[a,'b c']"],
    ],
)
def test_a_composition_is_hydras(overrides: list[str]) -> None:
    for _ in range(2):
        found = compose.compose("train", overrides)
        assert found == hydra.compose("train", overrides)
        found.size.width = 1


@pytest.mark.parametrize(
    "override",
    [
        "seed=a",
        "size=s9",
        "ctx=2k,4k",
        "sed=1",
        "seed=1,2",
        "model.dekay=1",
        "model=none",
        "+seed=3",
        "~sed",
        "seed",
        "seed=[",
        "seed=?",
    ],
)
def test_an_error_is_hydras(override: str) -> None:
    with pytest.raises(HydraException) as expected:
        hydra.compose("train", [override])
    with pytest.raises(type(expected.value)) as found:
        compose.compose("train", [override])
    assert str(found.value) == str(expected.value)


def test_groups_are_composed_once(configure: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    first = configure("model=ttt_mlp", "seed=1")
    monkeypatch.delattr(hydra, "compose")
    second = configure("model=ttt_mlp", "seed=2", "size=w192", "ctx=8k")
    assert (first.seed, second.seed) == (1, 2)
    assert first.model == second.model
