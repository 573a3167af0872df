"""The counted memory of a training step, held against what torch's allocator has given out during a real one."""

import gc
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ttt.config.schema import TrainConfig
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec
from ttt.inner.models.mlp import InnerMLP
from ttt.kernels.on_gpu import inner_loop
from ttt.layers.mamba import plain_scan
from ttt.layers.on_gpu import _gated_scan
from ttt.layers.registry import layer_types
from ttt.layers.rope import mini_batch_rotations
from ttt.models import step_memory as counting
from ttt.models.build import build_model
from ttt.models.checkpointing import checkpoint_blocks
from ttt.models.language_model import mean_loss
from ttt.models.step_memory import step_memory

Configure = Callable[..., TrainConfig]

MEDIUM = ["size.width=32", "size.blocks=4", "size.mlp_hidden=96", "ctx.length=256", "data.vocab_size=500"]
CASES = [(name, False) for name in (*layer_types(), "hybrid")] + [("ttt_linear", True), ("transformer", True)]
B, H, D = 2, 2, 16


def allocated(step: Callable[[], object]) -> int:
    """Return the most bytes that torch's allocator has given out at once during ``step``, without earlier ones."""
    step()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def counted(
    config: TrainConfig, batch: int, kind: str = "cpu", precision: str = "32-true", blocks: bool = False
) -> int:
    memory = step_memory(config, batch, kind, precision, blocks)
    return memory.activations + memory.kernels


def real_step(config: TrainConfig, batch: int, checkpointed: bool, precision: str) -> Callable[[], object]:
    model = build_model(config.model, config.size, config.backbone, config.kernel, config.data.vocab_size)
    if checkpointed:
        checkpoint_blocks(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ids_BS = torch.zeros(batch, config.ctx.length + 1, dtype=torch.long)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext():
            loss = mean_loss(model, ids_BS)
        loss.backward()

    return step


@pytest.mark.slow
@pytest.mark.parametrize(("name", "checkpointed"), CASES)
def test_the_count_is_what_a_step_on_a_cpu_allocates(configure: Configure, name: str, checkpointed: bool) -> None:
    config = configure(*MEDIUM, f"model={name}")
    expected = allocated(real_step(config, 4, checkpointed, "32-true"))
    assert counted(config, 4, blocks=checkpointed) == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [["kernel=dual"], ["model.mini_batch_size=4"], ["kernel.checkpoint_group=0"]])
def test_kernels_count_too(configure: Configure, changes: list[str]) -> None:
    config = configure(*MEDIUM, "model=ttt_mlp", "size.blocks=1", "ctx.length=64", *changes)
    assert counted(config, 4) == pytest.approx(allocated(real_step(config, 4, False, "32-true")), rel=0.1)


@pytest.mark.slow
def test_mixed_precision_counts_copies_of_the_weights(configure: Configure) -> None:
    config = configure(*MEDIUM, "model=transformer")
    expected = allocated(real_step(config, 4, False, "bf16-mixed"))
    assert counted(config, 4, precision="bf16-mixed") == pytest.approx(expected, rel=0.1)


def test_counting_leaves_no_fake_tensor_behind(configure: Configure) -> None:
    config = configure("model=ttt_linear")
    before = torch.get_rng_state()
    counted(config, 2)
    assert torch.equal(torch.get_rng_state(), before)
    mini_batch_rotations(16, 16, 8, 10000.0, torch.float32, torch.device("cpu")) + torch.ones(1)
    real_step(config, 2, False, "32-true")()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "checkpointed"), [("cpu", True), ("cuda", False)])
def test_blocks_and_tokens_are_extrapolated(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, kind: str, checkpointed: bool
) -> None:
    config = configure(*MEDIUM, "size.blocks=5", "ctx.length=2048", "data.vocab_size=5000")
    count = partial(counted, config, 1, kind, blocks=checkpointed)
    monkeypatch.setattr(counting, "COUNTED_BLOCKS", 5)
    whole = count()
    monkeypatch.setattr(counting, "COUNTED_BLOCKS", 3)
    monkeypatch.setattr(counting, "COUNTED_TOKENS", 1024)
    assert count() == pytest.approx(whole, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ttt_mlp", "mamba"])
def test_recomputed_blocks_take_less(configure: Configure, name: str) -> None:
    config = configure(*MEDIUM, f"model={name}")
    for kind, precision in (("cpu", "32-true"), ("cuda", "bf16-mixed")):
        assert counted(config, 4, kind, precision, blocks=True) < 0.8 * counted(config, 4, kind, precision)


def test_strategies_share_the_parameters(configure: Configure) -> None:
    def memory(strategy: str, devices: int) -> counting.StepMemory:
        config = configure(f"trainer.strategy={strategy}", f"trainer.devices={devices}", "size.blocks=40")
        return step_memory(config, 1, "cuda", "32-true", checkpointed=False)

    single, ddp, fsdp = memory("single", 1), memory("ddp", 4), memory("fsdp", 4)
    assert (
        (single.parameters, single.optimizer)
        == (ddp.parameters, ddp.optimizer)
        == (single.gradients, 4 * 2 * fsdp.optimizer // 2)
    )
    assert ddp.gradients == 2 * single.gradients
    assert single.parameters // 4 < fsdp.parameters < single.parameters
    assert single.total == sum(vars(single).values())


@pytest.fixture
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Triton operators allocate and not compute."""
    from ttt.kernels.triton.configurations import Layer

    nothing = SimpleNamespace(launch=lambda *_, **__: None)
    for name in ("forward", "backward", "recompute"):
        monkeypatch.setattr(Layer, name, lambda *_, **__: nothing)


@pytest.mark.usefixtures("not_launched")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("hidden", "bias", "T", "group"), [((), True, 160, 0), ((), False, 800, 3), ((4,), True, 1600, 0)]
)
def test_the_stand_in_allocates_what_the_triton_operators_do(
    dtype: torch.dtype, hidden: tuple[int, ...], bias: bool, T: int, group: int
) -> None:
    from ttt.kernels.triton import op

    model = InnerMLP(hidden, "gelu", bias)
    W = tuple(torch.zeros(B, H, *shape, requires_grad=True) for shape in model.shapes(D).values())
    norm = LayerNormParams(*(torch.zeros(H, 1, D, requires_grad=True) for _ in range(2)))
    # q is in another memory order.
    views = [
        torch.zeros(B, H, T, D, dtype=dtype),
        *(torch.zeros(B, T, H, D, dtype=dtype).mT.mT.transpose(1, 2) for _ in "kv"),
    ]
    inputs = InnerInputs(*(view.requires_grad_() for view in views), torch.zeros(B, H, T, requires_grad=True))
    loop = InnerLoop(InnerSpec(model), norm, torch.zeros(16, requires_grad=True))

    def step(run: Callable[[], tuple[Tensor, tuple[Tensor, ...]]]) -> None:
        z, W_last = run()
        (z.sum() + sum(w.sum() for w in W_last)).backward()

    real = allocated(partial(step, lambda: op.inner_loop(W, *norm, *inputs[:4], loop.tau, group)))
    assert allocated(partial(step, lambda: inner_loop(nullcontext, group, loop, W, inputs))) == pytest.approx(
        real, rel=0.02
    )


@pytest.mark.slow
@pytest.mark.parametrize(("T", "E"), [(256, 64), (700, 2048)])
def test_the_stand_in_allocates_what_the_scan_does(T: int, E: int) -> None:
    N = 16
    shapes = [(B, T, E), (B, T, E), (E, N), (B, T, N), (B, T, N), (E,), (B, T, E), (E,)]
    inputs = [torch.rand(shape, requires_grad=True) for shape in shapes]

    def step(scan: Callable[..., tuple[Tensor, Tensor]]) -> None:
        y, _ = scan(*inputs, None)
        y.sum().backward()

    stand_in = allocated(partial(step, partial(_gated_scan, nullcontext)))
    assert stand_in == pytest.approx(allocated(partial(step, plain_scan)), rel=0.1)
