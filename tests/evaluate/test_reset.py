"""The reset control compared with sums by hand, and the output of ``ttt-eval probe=reset``."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ttt.cli import eval as command
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.data.windows import Windows
from ttt.evaluate.reset import ResetLosses, measure_resets
from ttt.results.metrics import read_metrics

Configure = Callable[..., TrainConfig]

V, CTX = 8, 6


class Counting(nn.Module):
    """Gives the next token the logit t at token index t = 1, 2, ..., and every other token 0."""

    def forward(self, ids: Tensor) -> Tensor:
        index = torch.arange(1, ids.shape[1] + 1, dtype=torch.float64)
        return nn.functional.one_hot((ids + 1) % V, V) * index[None, :, None]


def loss_at(index: int) -> float:
    """Return the loss of ``Counting``."""
    return math.log(math.exp(index) + V - 1) - index


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("device_tokens", [1, 7, 100])
def test_a_reset_begins_the_count_anew(every: int, device_tokens: int) -> None:
    windows = Windows((np.arange(40) % V).astype(np.uint16), np.array([3, 20, 30]), CTX)
    losses = measure_resets(Counting(), windows, every, torch.device("cpu"), device_tokens, False)
    whole = [loss_at(t) for t in range(1, CTX + 1)]
    reset = [loss_at((t - 1) % every + 1) for t in range(1, CTX + 1)]
    torch.testing.assert_close(losses.whole, torch.tensor([whole] * 3, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(losses.reset, torch.tensor([reset] * 3, dtype=torch.float64), rtol=0, atol=1e-6)
    behind = CTX - every
    assert losses.gain == pytest.approx((sum(reset[every:]) - sum(whole[every:])) / behind, abs=1e-6)
    assert losses.gain_error == pytest.approx(0, abs=1e-6)


def test_the_error_is_the_spread_between_documents() -> None:
    whole = torch.zeros(2, 4, dtype=torch.float64)
    losses = ResetLosses(whole, torch.tensor([[9.0, 9.0, 1.0, 3.0], [9.0, 9.0, 4.0, 4.0]]), every=2)
    assert losses.gain == 3
    assert losses.gain_error == pytest.approx(1)  # gains 2 and 4: deviation sqrt 2, of two documents
    assert math.isnan(ResetLosses(whole[:1], whole[:1], every=2).gain_error)


@pytest.fixture
def run(configure: Configure, tmp_path: Path) -> Path:
    """Train a Transformer for two steps at context 64."""
    train(configure(f"run={tmp_path}/run", "model=transformer", "trainer.max_steps=2"), [])
    return tmp_path / "run"


def evaluate(run: Path, **settings: Any) -> None:
    command.evaluate(EvalConfig(run=str(run), device="cpu", **settings), [])


def test_the_command_adds_to_the_runs_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_metrics(run / "metrics.parquet").to_pandas()
    capsys.readouterr()
    evaluate(run, probe="reset", reset_every=16)
    output = capsys.readouterr().out
    rows = read_metrics(run / "metrics.parquet").to_pandas()
    added = rows[rows["metric"].isin(["loss_reset", "context_gain", "context_gain_error", "reset_every"])]
    assert len(rows) == len(before) + len(added) == len(before) + 2 * 64 + 3
    assert set(added["split"]) == {"validation"}
    by_position = added.dropna(subset="position").pivot(index="position", columns="metric", values="value")
    # The same documents as in the loss by token index: without a reset before them, the same losses.
    loss = before[(before["metric"] == "loss") & before["position"].notna() & (before["split"] == "validation")]
    loss_T = loss.set_index("position")["value"]
    np.testing.assert_allclose(by_position["loss_reset"][:16], loss_T[:16], rtol=1e-5)
    np.testing.assert_allclose(by_position["loss_reset"] - by_position["context_gain"], loss_T, rtol=1e-5)
    assert (by_position["context_gain"][16:] != 0).all()
    scalars = added[added["position"].isna()].set_index("metric")["value"]
    assert scalars["reset_every"] == 16
    assert scalars["context_gain"] == pytest.approx(by_position["context_gain"][16:].mean())
    assert f"gains {scalars['context_gain']:+.4f} nats/token" in output
    written = (run / "metrics.parquet").read_bytes()
    evaluate(run, probe="reset", reset_every=16)
    assert (run / "metrics.parquet").read_bytes() == written


@pytest.mark.parametrize("every", [48, 64])
def test_a_length_that_does_not_divide_the_context_is_refused(run: Path, every: int) -> None:
    with pytest.raises(
        UserError, match=rf"reset_every={every}: must divide the run's context of 64 tokens and be less"
    ):
        evaluate(run, probe="reset", reset_every=every)


def test_a_length_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reset_every=0: must be at least 1"):
        evaluate(tmp_path, probe="reset", reset_every=0)


@pytest.mark.parametrize(
    "settings", [{"probe": "reset"}, {"reset_every": 8}, {"probe": "inner_loss", "reset_every": 8}]
)
def test_a_length_goes_with_the_probe(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reset_every=(null|8): probe=reset requires a number of tokens"):
        evaluate(tmp_path, **settings)
