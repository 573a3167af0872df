"""Each row of Table 1 differs from the previous row only in the settings that the table lists."""

from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch

from ttt.config.identity import differences
from ttt.config.schema import Resolved, TrainConfig
from ttt.layers.registry import LayerSpec, build_layer

Configure = Callable[..., TrainConfig]

STEPS: dict[str, list[str]] = {
    "row2": ["model.feature_map=none, not elu", "model.normaliser=False, not True"],
    "row4": ["model.W_init=learnable, not zero"],
    "row5": ["model.learnable_norm=True, not False", "model.norm=True, not False", "model.residual=True, not False"],
    "row6": ["model.mini_batch_size=16, not 64"],
    "row7": ["model.learnable_eta=True, not False", "model.token_scale=learned, not fixed"],
    "row8": ["backbone.name=mamba, not transformer"],
}
"""Row -> differences between its resolved configuration and the previous row's."""


@pytest.fixture
def row(configure: Configure) -> Callable[[str], Resolved]:
    """Return a function that composes and resolves an ablation, with one learning rate for all backbones."""

    def resolved(name: str) -> Resolved:
        plain = asdict(configure(f"+ablation={name}", "recipe.learning_rate=0.01"))
        return plain

    return resolved


@pytest.mark.parametrize("name", STEPS)
def test_a_row_differs_from_the_row_before_as_in_the_table(row: Callable[[str], Resolved], name: str) -> None:
    before = f"row{int(name[3:]) - 1}"
    assert differences(row(name), row(before)) == STEPS[name]


def test_only_the_model_changes_from_row_2_to_row_3(row: Callable[[str], Resolved]) -> None:
    assert all(difference.startswith("model.") for difference in differences(row("row3"), row("row2")))


def test_the_last_row_is_ttt_linear(row: Callable[[str], Resolved], configure: Configure) -> None:
    assert differences(row("row8"), asdict(configure("model=ttt_linear", "recipe.learning_rate=0.01"))) == []


def test_the_papers_text_changes_four_switches(configure: Configure) -> None:
    text, released = asdict(configure("+ablation=paper_text")), asdict(configure())
    switches = ("eta_over_dim", "halved_loss", "inner_bias")
    expected = [f"model.{key}=False, not True" for key in switches]
    assert differences(text, released) == [*expected, "model.token_scale=none, not learned"]


def test_row_3_in_the_form_of_the_text_computes_row_2(configure: Configure) -> None:
    """Check Theorem 1 for the whole layer, with RoPE, projections and norm."""
    layers = []
    for name in ("row2", "[row3,paper_text]"):
        config = configure(f"+ablation={name}", "ctx.length=150")
        torch.manual_seed(0)
        layers.append(build_layer(config.model, LayerSpec(width=16, heads=2, init_std=0.3)).double())
    linear_attention, ttt = layers
    missing = ttt.load_state_dict(linear_attention.state_dict(), strict=False).missing_keys
    assert missing == ["eta_warmup"]
    x = torch.randn(2, 150, 16, dtype=torch.float64)
    torch.testing.assert_close(ttt(x)[0], linear_attention(x)[0], rtol=1e-10, atol=1e-10)
