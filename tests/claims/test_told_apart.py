"""Runs that copy from context are told apart from runs that do not."""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from ttt.analysis.store import load_results
from ttt.claims.context import against_mamba
from ttt.claims.quality import backbones, smaller_mini_batches, table_1
from ttt.claims.table import as_csv, as_markdown, as_text, judge_all
from ttt.claims.verdict import Part, Verdict, corrected

synthetic = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))
make_copying, make_context_gain = (synthetic[name] for name in ("make_copying", "make_context_gain"))
make_run, make_ladder = (synthetic[name] for name in ("make_run", "make_ladder"))
SEEDS = (0, 1, 2)


def judged(folder: Path, claim: Callable[..., list[Part]]) -> list[Part]:
    return corrected(claim(load_results(folder)))


def test_a_step_to_a_row_that_copies_is_not_resolved(tmp_path: Path) -> None:
    make_ladder(tmp_path, SEEDS, own_noise=0.001)
    before = judged(tmp_path, table_1)[-1]
    assert (before.name[:5], before.verdict, before.copying) == ("row 8", Verdict.HELD, "")
    make_copying(tmp_path, lambda name: name.startswith("ttt_linear-mamba"))
    *others, after = judged(tmp_path, table_1)
    assert (after.verdict, after.needed) == (Verdict.UNRESOLVED, None)
    assert (after.effect, after.low, after.high) == (before.effect, before.low, before.high)
    assert after.copying == "row 8 copies from context, row 7 does not"
    assert not any(part.copying for part in others)
    found = judge_all(load_results(tmp_path))
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [row["copying"] for row in rows if row["copying"]] == [after.copying]
    (line,) = [line for line in as_markdown(found).splitlines() if after.copying in line]
    assert "| not resolved |" in line
    assert f"; {after.copying}: not resolved" in " ".join(as_text(found).split())


def test_a_step_within_a_tolerance_is_not_resolved_either(tmp_path: Path) -> None:
    make_ladder(tmp_path, SEEDS, own_noise=0.001)
    make_copying(tmp_path, lambda name: name.startswith("ttt_linear"))
    (part,) = [part for part in judged(tmp_path, table_1) if part.name.startswith("row 3 ")]
    assert (part.verdict, part.copying) == (Verdict.UNRESOLVED, "row 3 copies from context, row 2 does not")


@pytest.mark.parametrize(
    ("copies", "words", "verdict"),
    [
        ((), "", Verdict.HELD),
        (("-16", "-64"), "b = 16, b = 64 copy from context, b = 1 does not", Verdict.UNRESOLVED),
        (("0-64",), "b = 64 copies from context in 1 of 3 seeds, b = 1, b = 16 do not", Verdict.UNRESOLVED),
        (
            ("-1", "-16", "0-64", "2-64"),
            "b = 1, b = 16 copy from context, b = 64 in 2 of 3 seeds",
            Verdict.UNRESOLVED,
        ),
        # Pairs of equal runs compare, also where seeds differ.
        (
            ("0-1", "0-16", "0-64"),
            "b = 1 copies from context in 1 of 3 seeds, b = 16 in 1 of 3 seeds, b = 64 in 1 of 3 seeds",
            Verdict.HELD,
        ),
        (("-1", "-16", "-64"), "", Verdict.HELD),
    ],
)
def test_the_seeds_that_copy_are_counted(copies: tuple[str, ...], words: str, verdict: Verdict, tmp_path: Path) -> None:
    for b in (1, 16, 64):
        for seed in SEEDS:
            loss = 3.5 + 0.05 * math.log2(b) * (1 + 0.01 * seed)
            more = {"seed": seed, "steps": 1, "evaluated": False, "mini_batch_size": b}
            make_run(tmp_path, perplexity=math.exp(loss), **more)
    make_copying(tmp_path, lambda name: name.endswith(copies))
    (part,) = judged(tmp_path, smaller_mini_batches)
    assert (part.copying, part.verdict) == (words, verdict)


def test_methods_that_copy_are_named(tmp_path: Path) -> None:
    for model in ("ttt_linear", "ttt_mlp"):
        for seed in SEEDS:
            loss = 3.5 - 0.1 * (model == "ttt_mlp") * (1 + 0.01 * seed)
            make_run(tmp_path, model, "transformer", seed=seed, steps=1, perplexity=math.exp(loss), evaluated=False)
    make_copying(tmp_path, lambda name: name.startswith("ttt_mlp"))
    (part,) = judged(tmp_path, backbones)
    assert part.verdict == Verdict.UNRESOLVED
    assert part.copying == "TTT-MLP (T) copies from context, TTT-Linear (T) does not"


@pytest.mark.parametrize(
    ("copies", "words", "verdict"),
    [
        (("ttt",), "TTT-Linear (M) copies from context, Mamba does not", Verdict.UNRESOLVED),
        (("ttt", "mamba"), "", Verdict.HELD),
    ],
)
def test_contexts_of_runs_that_copy(copies: tuple[str, ...], words: str, verdict: Verdict, tmp_path: Path) -> None:
    for ctx in (512, 1024, 2048):
        for model, backbone, gain in (("ttt_linear", "mamba", 0.05), ("mamba", "own", 0.01)):
            for seed in SEEDS:
                loss = 3.5 - gain * math.log2(ctx) * (1 + 0.01 * seed)
                run = make_run(tmp_path, model, backbone, "s2", ctx, seed, steps=8, perplexity=33.0, evaluated=False)
                make_context_gain(run, ctx, loss, longest=2048)
    make_copying(tmp_path, lambda name: name.startswith(copies))
    (part,) = judged(tmp_path, against_mamba)
    assert (part.copying, part.verdict) == (words, verdict)
