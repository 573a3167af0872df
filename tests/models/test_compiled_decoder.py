"""Decoding by compiled steps against the primal form, token by token in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ttt.config.schema import TrainConfig
from ttt.evaluate.generate import Sampling, continuation
from ttt.kernels.cpu.decode import TokenSteps
from ttt.layers.state import State
from ttt.models.build import build_model
from ttt.models.compiled_decoder import CompiledDecoder
from ttt.models.decoder import PlainDecoder, decoder_after
from ttt.models.language_model import LanguageModel

V = 50
IDS = torch.randint(V, (1, 24), generator=torch.Generator().manual_seed(0))
LINEAR, MLP = ("model=ttt_linear", "model.mini_batch_size=4"), ("model=ttt_mlp", "model.mini_batch_size=4")

Build = Callable[..., LanguageModel]


@pytest.fixture
def build(configure: Callable[..., TrainConfig]) -> Build:
    def build(*options: str) -> LanguageModel:
        # Widths that are no multiple of a vector's.
        size = ("size.width=48", "size.heads=3", "size.blocks=2", "size.mlp_hidden=44", "size.init_std=0.3")
        config = configure(*size, *options)
        torch.manual_seed(0)
        model = build_model(config.model, config.size, config.backbone, config.kernel, V)
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))  # no norm, gate or bias is the identity
        return model.double().eval()

    return build


def differs(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def assert_same_state(found: State, expected: State, b: int) -> None:
    for name, x in found.items():
        if name.endswith("place"):
            assert int(x) % b == int(expected[name.replace("place", "offset")])
        elif "grad_sum" not in name or int(found[f"{name.split('grad_sum')[0]}place"]) % b:
            assert differs(x, expected[name]) < 1e-9, name
        # At the start of a mini-batch nothing reads the sum.


@pytest.mark.parametrize(
    "options",
    [
        (*LINEAR, "backbone=mamba"),
        (*LINEAR, "backbone=transformer"),
        (*LINEAR, "backbone=mamba", "model.inner_bias=false", "model.rope_period=2", "model.token_scale=fixed"),
        ("model=ttt_linear", "model.mini_batch_size=1", "model.halved_loss=false", "model.conv_kernel=1"),
        (*MLP, "backbone=mamba"),
        (*MLP, "backbone=transformer"),
        (*MLP, "model.inner_bias=false", "model.learnable_eta=false", "model.learnable_norm=false"),
        ("model=mamba", "backbone=own", "model.state_size=5"),
        ("model=mamba", "backbone=transformer"),
    ],
    ids=lambda options: " ".join(word.rpartition(".")[2] for word in options),
)
@torch.no_grad()
def test_outputs_and_states_are_those_of_the_primal_form(build: Build, options: tuple[str, ...]) -> None:
    model, reference = build(*options, "kernel=cpu"), build(*options, "kernel=primal")
    b = getattr(model.blocks[0].layer.config, "mini_batch_size", 1) if "mamba" not in options[0] else 1
    for prompt in (1, 6, 7, 8):  # every place in a mini-batch
        _, state = reference(IDS[:, :prompt], {})
        decoder = decoder_after(model, state, 1)
        assert isinstance(decoder, CompiledDecoder)
        assert decoder.compiled == len(model.blocks)
        addresses = {name: x.data_ptr() for name, x in decoder.state.items()}
        for t, ids_B1 in enumerate(IDS[:, prompt:].split(1, dim=1)):
            expected, state = reference(ids_B1, state)
            assert differs(decoder(ids_B1), expected[:, -1]) < 1e-9
            # Reading the state changes what the next token reads.
            if t % 7 in (0, 2, 3):
                assert_same_state(decoder.state, state, b)
        assert {name: x.data_ptr() for name, x in decoder.state.items()} == addresses


@torch.no_grad()
def test_a_block_without_steps_is_called(build: Build) -> None:
    options = ("model=hybrid", "model.pattern=[ttt_linear,attention]")
    model, reference = build(*options), build(*options, "kernel=primal")
    _, start = reference(IDS[:, :5], {})
    decoder = decoder_after(model, start, 1)
    assert isinstance(decoder, CompiledDecoder)
    assert decoder.compiled == 1
    for _ in range(2):
        state = start
        for ids_B1 in IDS[:, 5:].split(1, dim=1):
            expected, state = reference(ids_B1, state)
            assert differs(decoder(ids_B1), expected[:, -1]) < 1e-9
        assert decoder.state.keys() >= {name for name in state if ".layer.k" in name}
        decoder.restart(start)


@pytest.mark.parametrize(
    ("options", "batch"),
    [
        ((*LINEAR, "kernel=dual"), 1),
        ((*LINEAR, "kernel=primal"), 1),
        (LINEAR, 2),
        ((*LINEAR, "model.forget_gate=true"), 1),
        ((*LINEAR, "model.momentum=0.5"), 1),
        ((*MLP, "model.activation=relu"), 1),
        (("model=ttt_linear", "size.heads=6"), 1),
        (("model=transformer",), 1),
        (("model=mamba", "kernel=dual"), 1),
    ],
)
@torch.no_grad()
def test_the_model_decodes_what_the_steps_do_not(build: Build, options: tuple[str, ...], batch: int) -> None:
    model = build(*options)
    ids_BT = IDS.expand(batch, -1)
    expected, _ = model(ids_BT, {})
    _, state = model(ids_BT[:, :7], {})
    decoder = decoder_after(model, state, batch)
    assert isinstance(decoder, PlainDecoder)
    for t in range(7, 12):
        torch.testing.assert_close(decoder(ids_BT[:, t : t + 1]), expected[:, t])


@torch.no_grad()
def test_no_steps_in_half_precision_or_without_a_compiler(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(*LINEAR).bfloat16()
    assert isinstance(decoder_after(model, model(IDS, {})[1], 1), PlainDecoder)
    monkeypatch.setattr("ttt.kernels.dispatch._why_no_compiler", lambda: "no compiler")
    model = build(*LINEAR)
    assert isinstance(decoder_after(model, model(IDS, {})[1], 1), PlainDecoder)


@pytest.mark.parametrize("options", [LINEAR, MLP, ("model=mamba",)], ids=["linear", "mlp", "mamba"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_writes_the_same_tokens(build: Build, options: tuple[str, ...], temperature: float) -> None:
    written = []
    for kernel in ("auto", "dual"):
        tokens = continuation(build(*options, f"kernel={kernel}").float(), [1, 2, 3], Sampling(temperature, None, 0))
        written.append([token for _, token in zip(range(40), tokens, strict=False)])
    assert written[0] == written[1]
    assert temperature == 0 or len(set(written[0])) > 2


@torch.no_grad()
def test_a_diverged_state_stays_visible(build: Build) -> None:
    model = build(*MLP)
    _, state = model(IDS, {})
    decoder = decoder_after(model, {name: x * float("nan") if ".W." in name else x for name, x in state.items()}, 1)
    assert decoder(IDS[:, :1]).isnan().all()


def test_wrong_tensors_are_refused() -> None:
    steps, x = TokenSteps(), torch.ones(4)
    with pytest.raises(RuntimeError, match=r"the shape \[3, 5\] instead of \[3, 4\]"):
        steps.linear(x, torch.ones(3, 5))
    with pytest.raises(RuntimeError, match="differ in type"):
        steps.linear(x, torch.ones(3, 4).double())
    with pytest.raises(RuntimeError, match="contiguous"):
        steps.linear(x, torch.ones(4, 3).mT)
    ids = torch.tensor([5])
    steps.embed(ids, torch.ones(5, 4))
    with pytest.raises(RuntimeError, match="token 5 is not in a vocabulary of 5"):
        steps.run()


def test_any_number_of_threads_gives_the_same_bytes() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(301), torch.randn(2003, 301)
    steps, threads = TokenSteps(), torch.get_num_threads()
    y = steps.linear(x, weight)
    results = []
    for number in (1, 3):
        torch.set_num_threads(number)
        steps.run()
        results.append(y.clone())
    torch.set_num_threads(threads)
    assert torch.equal(*results)
    torch.testing.assert_close(y, weight @ x)
