"""``ttt-bench step``: every operator of a step belongs to a part, also in the backward pass."""

from collections.abc import Callable

import pytest
import torch

from ttt.bench.step import bench_step, scaled
from ttt.bench.step_parts import (
    CONVOLUTION,
    DATA,
    INNER,
    MATMUL,
    MIXER,
    OPTIMIZER,
    OTHER,
    PARTS,
    POINTWISE,
    Seconds,
    phase,
    ranges,
    seconds_of,
)
from ttt.config.errors import UserError
from ttt.config.schema import TrainConfig
from ttt.config.text_table import WIDTH
from ttt.models.build import build_model
from ttt.models.checkpointing import checkpoint_blocks
from ttt.models.language_model import token_losses

Configure = Callable[..., TrainConfig]

CPU = torch.device("cpu")

CASES = {
    "compiled inner loop": (["model=ttt_linear"], {INNER, CONVOLUTION}),
    "inner loop in PyTorch": (["model=ttt_mlp", "kernel=dual", "backbone=transformer"], {INNER}),
    "attention": (["model=transformer"], {MIXER}),
    "compiled scan": (["model=mamba"], {MIXER, CONVOLUTION}),
    "recomputed": (["model=ttt_linear", "trainer.activation_checkpointing=blocks"], {INNER, CONVOLUTION}),
}


def parts_of(config: TrainConfig) -> Seconds:
    model = build_model(config.model, config.size, config.backbone, config.kernel, 50)
    if config.trainer.activation_checkpointing == "blocks":
        checkpoint_blocks(model)
    ids = torch.zeros(2, config.ctx.length + 1, dtype=torch.long)

    def step() -> None:
        with phase("forward"):
            loss = token_losses(model, ids).mean()
        with phase("backward"):
            loss.backward()

    with ranges(model):
        seconds = seconds_of(step, CPU)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return seconds


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "own"), CASES.values(), ids=CASES)
def test_both_passes_are_divided(configure: Configure, changes: list[str], own: set[str]) -> None:
    seconds = parts_of(configure(*changes))
    for within in ("forward", "backward"):
        assert {part for part, found in seconds if found == within} == {MATMUL, POINTWISE, OTHER, *own}
    assert all(value >= 0 for value in seconds.values())


@pytest.mark.slow
def test_an_inner_loop_in_pytorch_takes_its_own_products(configure: Configure) -> None:
    config = configure(*CASES["inner loop in PyTorch"][0], "size.mlp_hidden=2")
    seconds = parts_of(config)
    for within in ("forward", "backward"):
        assert seconds[INNER, within] > seconds[MATMUL, within]


def test_the_parts_of_a_step_are_its_time() -> None:
    profiled: list[Seconds] = [{(MATMUL, "forward"): 2.0, (DATA, "data"): 2.0}, {(MATMUL, "forward"): 4.0}]
    on_host = scaled(profiled, 1.0, idles=False)
    assert [line.part for line in on_host] == list(PARTS)
    assert sum(line.total for line in on_host) == pytest.approx(1.0)
    assert on_host[0].share == on_host[0].total == pytest.approx(0.75)
    behind = {line.part: line for line in scaled(profiled, 10.0, idles=True)}
    assert (behind[MATMUL].total, behind[DATA].total, behind[OTHER].total) == (3.0, 1.0, 6.0)


@pytest.mark.slow
def test_a_step_of_a_run_is_printed(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    bench_step(configure("trainer.device_batch=2"), rounds=1)
    title, table, notes = capsys.readouterr().out.split("\n\n")
    assert title.replace("\n", " ").startswith(
        "model=ttt_linear backbone=mamba size=w64, 64 tokens, 256 in a step (2 times 2 sequences); cpu: "
    )
    lines = table.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        MATMUL, INNER, CONVOLUTION, POINTWISE, OPTIMIZER, DATA, OTHER, "step",
    ]  # fmt: skip
    assert lines[-1].split()[-1] == "100.0"
    assert max(map(len, [*lines, *notes.splitlines()])) <= WIDTH


def test_several_devices_are_refused(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"^trainer\.strategy=ddp: a step is timed on one device; choose single$"):
        bench_step(configure("trainer.strategy=ddp", "trainer.devices=2"), rounds=1)
