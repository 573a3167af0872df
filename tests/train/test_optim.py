"""Schedule, weight decay and clipping of the recipe."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from ttt.config.errors import UserError
from ttt.config.identity import identity
from ttt.config.plan import plan_steps
from ttt.config.schema import TrainConfig
from ttt.models.build import build_model
from ttt.models.language_model import LanguageModel
from ttt.train.module import TrainingModule
from ttt.train.optim import FSDP_PREFIX, clip_gradients, decayed_parameters, learning_rate, make_optimizer
from ttt.train.optimizers.registry import build_optimizer
from ttt.train.planning import plan_run

Configure = Callable[..., TrainConfig]
STEPS = 100


def model_of(config: TrainConfig) -> LanguageModel:
    torch.manual_seed(0)
    return build_model(config.model, config.size, config.backbone, config.kernel, vocab_size=50)


def test_the_rate_rises_over_a_tenth_and_falls_to_its_end(configure: Configure) -> None:
    recipe = configure().recipe
    rates = [learning_rate(step, recipe, STEPS) for step in range(STEPS)]
    assert rates[:10] == pytest.approx([recipe.learning_rate * (i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(recipe.learning_rate)
    assert rates[-1] == pytest.approx(1e-5)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    middle = 10 + (STEPS - 1 - 10) // 2
    assert rates[middle] == pytest.approx((recipe.learning_rate + 1e-5) / 2, rel=0.02)


@pytest.mark.parametrize("model", ["ttt_linear", "ttt_mlp", "linear_attention", "transformer", "mamba"])
def test_only_matrices_decay(configure: Configure, model: str) -> None:
    config = configure(f"model={model}")
    built = model_of(config)
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    decayed, kept = make_optimizer(built, decayed_parameters(built), config.recipe).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    decayed_names, kept_names = ({names[id(p)] for p in group["params"]} for group in (decayed, kept))
    assert decayed_names | kept_names == set(names.values())
    for word in ("norm", "bias", "W_init.b", "token_delta", "A_log", ".D"):
        assert not [name for name in decayed_names if word in name]
    for name in kept_names:
        assert any(word in name for word in ("norm", "bias", "W_init.b", "token_delta", "A_log", ".D")), name
    assert "embedding.weight" in decayed_names


def test_all_parameters_decay_as_in_the_authors_jax_code(configure: Configure) -> None:
    config = configure("recipe.decay=all")
    module = TrainingModule(model_of(config), config.recipe, plan_steps(config))
    optimizer = module.configure_optimizers()["optimizer"]
    decayed, kept = optimizer.param_groups
    assert len(decayed["params"]) == len(list(module.model.parameters()))
    assert (decayed["weight_decay"], kept["params"]) == (0.1, [])


def test_an_unknown_optimizer_is_refused_by_name(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"^recipe\.optimizer=adam: choose one of adamw$"):
        plan_run(configure("recipe.optimizer=adam"), [])


def test_an_optimizer_is_part_of_a_runs_identity_off_its_default(configure: Configure) -> None:
    usual, other = identity(configure()), identity(configure("recipe.optimizer=sgd"))
    assert "optimizer" not in usual["recipe"]
    assert other["recipe"] == usual["recipe"] | {"optimizer": "sgd"}


def test_adamw_is_torchs(configure: Configure) -> None:
    """Its methods are torch's without what hides them from torch.compile; its state can be saved and loaded."""
    recipe = configure().recipe
    ours, theirs = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizers = (
        build_optimizer([{"params": [ours]}], recipe),
        torch.optim.AdamW([theirs], lr=recipe.learning_rate, betas=recipe.betas),
    )
    for step in range(3):
        for optimizer, parameter in zip(optimizers, (ours, theirs), strict=True):
            optimizer.zero_grad()
            assert parameter.grad is None
            (parameter**2 * torch.tensor([1.0, -2.0, 3.0 + step])).sum().backward()
            optimizer.step()
        optimizers[0].load_state_dict(optimizers[0].state_dict())
    assert torch.equal(ours, theirs)
    assert isinstance(optimizers[0], torch.optim.AdamW)
    state, expected = (optimizer.state_dict()["state"][0] for optimizer in optimizers)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def test_a_sharded_model_clips_itself() -> None:
    """FSDP needs a GPU; it has this method."""
    sharded = torch.nn.Linear(2, 2)
    sharded.clip_grad_norm_ = lambda limit: torch.tensor(limit)  # type: ignore[assignment]
    assert clip_gradients(sharded, 0.5).item() == 0.5
    assert clip_gradients(sharded, 0).item() == float("inf")


def test_clipping_returns_the_norm_before_clipping(configure: Configure) -> None:
    model = model_of(configure())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert clip_gradients(model, 0).item() == pytest.approx(count**0.5)
    assert clip_gradients(model, 1.0).item() == pytest.approx(count**0.5)
    assert clip_gradients(model, 1.0).item() == pytest.approx(1.0, rel=1e-4)


def test_decay_is_the_same_once_parameters_are_flat_shards(configure: Configure) -> None:
    """Change names and shapes as FSDP does, because FSDP needs a GPU."""
    config = configure()
    built = model_of(config)
    decayed = decayed_parameters(built)
    sharded = torch.nn.Module()
    for name, parameter in built.named_parameters():
        *path, last = name.split(".")
        place = sharded
        for part in path:
            if not hasattr(place, part):
                setattr(place, part, torch.nn.Module())
                getattr(place, part).add_module(FSDP_PREFIX.rstrip("."), torch.nn.Module())
            place = getattr(getattr(place, part), FSDP_PREFIX.rstrip("."))
        place.register_parameter(last, torch.nn.Parameter(parameter.detach().flatten()))
    groups = [len(group["params"]) for group in make_optimizer(sharded, decayed, config.recipe).param_groups]
    assert groups == [len(decayed), len(list(built.parameters())) - len(decayed)]
