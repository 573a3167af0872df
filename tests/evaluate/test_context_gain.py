"""Losses by context compared with sums by hand, the two controls, and the output of ``ttt-eval probe=context_gain``."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from ttt.analysis.store import load_results
from ttt.cli import eval as command
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.evaluate.context_gain import describe, measure_contexts, with_foreign_context, with_shuffled_context
from ttt.evaluate.run import Reading, TrainedRun
from ttt.evaluate.targets import TargetWindows
from ttt.launch.collect import copy_results
from ttt.launch.plan import PlannedRun
from ttt.launch.status import RunStatus
from ttt.results.context_gain import TARGETS, read_context_gain

Configure = Callable[..., TrainConfig]

V = 8
"""Size of the vocabulary of ``Counting``."""


class Counting(nn.Module):
    """Gives the next token a logit of t / 500 at token index t = 1, 2, ..., and every other token 0."""

    def forward(self, ids: Tensor) -> Tensor:
        index = torch.arange(1, ids.shape[1] + 1, dtype=torch.float64) / 500
        return nn.functional.one_hot((ids + 1) % V, V) * index[None, :, None]


def expected_loss(width: int) -> float:
    logits = np.arange(width - TARGETS + 1, width + 1) / 500
    return float(np.mean(np.log(np.exp(logits) + V - 1) - logits))


def run_of(model: nn.Module, ctx: int, device_tokens: int = 3000) -> TrainedRun:
    reading = Reading(ctx, 1, torch.device("cpu"), device_tokens, show_progress=False)
    return cast(TrainedRun, SimpleNamespace(model=model, reading=reading))


def counting_windows(documents: list[int], longest: int = 2048) -> TargetWindows:
    """Return windows that count modulo V from other starts."""
    starts = np.arange(len(documents))[:, None]
    return TargetWindows((np.arange(longest + 1) + starts) % V, np.array(documents))


@pytest.mark.parametrize(("ctx", "contexts"), [(700, [256]), (1024, [256, 768]), (9000, [256, 768, 1792])])
def test_each_context_is_that_many_tokens_before_the_targets(ctx: int, contexts: list[int]) -> None:
    gain = measure_contexts(run_of(Counting(), ctx), counting_windows([3, 3, 5]))
    rows = pd.DataFrame(gain.losses)
    assert sorted(rows["context"].unique()) == contexts
    assert not gain.lonely
    for row in rows.itertuples():
        # Where ``Counting`` counts on, it does not notice another context before the last tokens.
        assert row.loss == pytest.approx(expected_loss(row.context + TARGETS), abs=1e-6)
    assert rows.groupby("document")["windows"].first().to_dict() == {3: 2, 5: 1}
    controls = rows.groupby("context")["control"].unique().map(sorted).to_dict()
    assert controls == {c: ["own"] if c == 256 else ["foreign", "own", "shuffled"] for c in contexts}


def test_windows_of_a_document_are_averaged_first() -> None:
    """The second window counts backwards, which the model does not expect."""
    windows = counting_windows([3, 3, 5])
    windows.ids[1] = windows.ids[1, ::-1]
    rows = measure_contexts(run_of(Counting(), 512), windows).losses
    losses = {row.document: row.loss for row in rows}
    logits = np.arange(TARGETS + 1, 513) / 500
    wrong = float(np.mean(np.log(np.exp(logits) + V - 1)))
    assert losses[3] == pytest.approx((expected_loss(512) + wrong) / 2, abs=1e-6)
    assert losses[5] == pytest.approx(expected_loss(512), abs=1e-6)


def test_one_document_has_no_foreign_context() -> None:
    gain = measure_contexts(run_of(Counting(), 1024), counting_windows([3, 3]))
    assert gain.lonely
    assert {row.control for row in gain.losses} == {"own", "shuffled"}
    assert "foreign" not in describe(gain)


def test_a_foreign_context_is_in_its_place_before_the_last_512_inputs() -> None:
    ids = np.arange(3 * 1025).reshape(3, 1025)
    foreign = with_foreign_context(ids, np.array([1, 2, 0]))
    assert (foreign[:, 512:] == ids[:, 512:]).all()
    assert (foreign[:, :512] == ids[[1, 2, 0], :512]).all()


def test_a_shuffled_context_keeps_pieces_of_64_tokens_and_the_last_512_inputs() -> None:
    ids = np.arange(3 * 2049).reshape(3, 2049)
    shuffled = with_shuffled_context(ids)
    assert (shuffled[:, 1536:] == ids[:, 1536:]).all()
    pieces = shuffled[:, :1536].reshape(3, 24, 64)
    assert (np.diff(pieces, axis=2) == 1).all()
    order = pieces[:, :, 0] % 2049 // 64
    assert (np.sort(order) == np.arange(24)).all()
    assert (order != np.arange(24)).mean() > 0.8
    assert (order[0] != order[1]).any()
    assert (with_shuffled_context(ids) == shuffled).all()


def evaluate(run: Path, **settings: Any) -> None:
    command.evaluate(EvalConfig(run=str(run), device="cpu", **settings), [])


@pytest.mark.slow
def test_runs_of_two_contexts_are_judged_on_the_same_tokens(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {ctx: tmp_path / f"runs/{ctx}" for ctx in (512, 1024)}
    for ctx, run in runs.items():
        settings = [f"ctx.length={ctx}", "recipe.tokens_per_step=1024", "trainer.max_steps=1", "model=transformer"]
        train(configure(f"run={run}", *settings), [])
        record = (run / "record.json").read_bytes()
        capsys.readouterr()
        evaluate(run, probe="context_gain", longest=1024, eval_tokens=6000)
        assert (run / "record.json").read_bytes() == record
    first, header, *rows, last = capsys.readouterr().out.splitlines()
    assert "the last 256 tokens of 5 windows of 5 validation documents, at step 1" in first
    assert header.split("  ")[0] == "context"
    assert [row.split()[0] for row in rows] == ["256", "768"]
    assert last == f"{runs[1024]}/context_gain.parquet"
    tables = {ctx: read_context_gain(run / "context_gain.parquet").to_pandas() for ctx, run in runs.items()}
    assert len(set(tables[512]["targets"]) | set(tables[1024]["targets"])) == 1
    for table in tables.values():
        assert table.query("control == 'own' and context == 256")["document"].is_unique
    assert sorted(tables[512]["context"].unique()) == [256]
    assert sorted(tables[1024]["context"].unique()) == [256, 768]
    written = (runs[1024] / "context_gain.parquet").read_bytes()
    evaluate(runs[1024], probe="context_gain", longest=1024, eval_tokens=6000)
    assert (runs[1024] / "context_gain.parquet").read_bytes() == written
    planned = [PlannedRun(run.name, str(run), (), None, 1, 1024) for run in runs.values()]
    copy_results([RunStatus(run, "finished", None, 1, None) for run in planned], tmp_path / "collected")
    collected = load_results(tmp_path / "collected").context_gain
    assert len(collected) == sum(map(len, tables.values()))
    assert np.isfinite(collected["loss"]).all()
    assert math.isclose(collected["loss"].iloc[0], math.log(400), rel_tol=0.1)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"probe": "context_gain", "longest": 600}, "longest=600: must be a power of two"),
        ({"probe": "context_gain", "longest": 256}, "longest=256: must be a power of two, at least 512"),
        ({"probe": "inner_loss", "longest": 512}, "longest=512: belongs to probe=context_gain and probe=needle"),
        ({"longest": 512}, "longest=512: belongs to probe=context_gain and probe=needle"),
    ],
)
def test_mistakes_get_one_line(settings: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        evaluate(tmp_path, **settings)


def test_a_context_below_the_shortest_window_is_refused(configure: Configure, tmp_path: Path) -> None:
    train(configure(f"run={tmp_path}/run", "model=transformer", "trainer.max_steps=1"), [])
    with pytest.raises(UserError, match="probe=context_gain: the run's context of 64 tokens is shorter than 512"):
        evaluate(tmp_path / "run", probe="context_gain")
