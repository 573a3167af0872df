"""Claims select on validation, report on test, and count documents where there are fewer than three seeds."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest

from ttt.analysis.store import load_results
from ttt.claims.quality import backbones, smaller_mini_batches
from ttt.claims.table import as_csv, judge_all, numbers
from ttt.claims.verdict import Part, Verdict, corrected
from ttt.results.record import RunFolder

synthetic = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))
make_run, make_documents = synthetic["make_run"], synthetic["make_documents"]

SIZES = (1, 16, 64)


def mini_batches(
    folder: Path, seeds: tuple[int, ...] = (0,), test: bool = False, size: str = "w128", slope: float = 0.05
) -> dict[tuple[int, int], RunFolder]:
    """Write runs whose loss rises by ``slope`` per octave of b, on test twice as fast; return them by b and seed."""
    runs = {}
    for b in SIZES:
        for seed in seeds:
            rise = slope * math.log2(b) * (1 + 0.1 * seed)
            runs[b, seed] = make_run(
                folder,
                size=size,
                seed=seed,
                steps=1,
                evaluated=False,
                perplexity=math.exp(3.5 + rise),
                test=math.exp(3.6 + 2 * rise) if test else None,
                mini_batch_size=b,
            )
    return runs


def trend(folder: Path) -> Part:
    (part,) = corrected(smaller_mini_batches(load_results(folder)))
    return part


def test_test_is_reported_where_all_runs_have_it(tmp_path: Path) -> None:
    runs = mini_batches(tmp_path, (0, 1), test=True)
    part = trend(tmp_path)
    assert (part.split, part.effect) == ("test", pytest.approx(0.105, rel=0.01))
    assert part.name.endswith("pycode w128 at 512, test")
    assert ",test\n" in as_csv(judge_all(load_results(tmp_path)))
    change(runs[16, 1], lambda record: record["results"].pop("test"))
    part = trend(tmp_path)
    assert (part.split, part.effect) == ("validation", pytest.approx(0.0525, rel=0.01))
    assert part.name.endswith("pycode w128 at 512")


def test_a_test_on_fewer_tokens_is_not_compared(tmp_path: Path) -> None:
    runs = mini_batches(tmp_path, (0, 1), test=True)
    change(runs[16, 1], lambda record: record["results"]["test"].update(tokens=64))
    assert trend(tmp_path).split == "validation"


def test_a_setting_that_is_best_on_test_only_is_not_selected(tmp_path: Path) -> None:
    for seed in (0, 1):
        other = {"seed": seed, "steps": 1, "evaluated": False}
        make_run(tmp_path, "ttt_linear", "transformer", perplexity=40, test=41 + seed, **other)
        make_run(tmp_path, "ttt_mlp", "transformer", perplexity=30, test=50 + seed, **other)
        make_run(tmp_path, "ttt_mlp", "transformer", perplexity=31, test=20, learning_rate=1e-2, **other)
    (part,) = backbones(load_results(tmp_path))
    assert part.effect == pytest.approx(np.mean([math.log(50 / 41), math.log(51 / 42)]))


def test_documents_are_the_units_of_one_seed(tmp_path: Path) -> None:
    for run in mini_batches(tmp_path, test=True).values():
        make_documents(run, "test")
    part = trend(tmp_path)
    assert part.name.endswith("pycode w128 at 512, test, one seed, 12 documents")
    assert (part.pairs, part.counted, part.split, part.verdict) == (12, "document", "test", Verdict.HELD)
    # Documents have different lengths, and the effect is that of the losses per token.
    assert part.effect == pytest.approx(0.1)
    assert part.low < part.effect < part.high


@pytest.mark.parametrize(
    ("changed", "counted"),
    [({"windows": "other"}, ("pair", 1)), ({"documents": 9}, ("document", 9)), ({"split": "test"}, ("pair", 1))],
    ids=["other windows", "few documents", "another split"],
)
def test_losses_that_do_not_compare_resolve_nothing(
    changed: dict[str, object], counted: tuple[str, int], tmp_path: Path
) -> None:
    runs = mini_batches(tmp_path, test=True)
    change(runs[1, 0], lambda record: record["results"].pop("test"))
    for (b, _), run in runs.items():
        if b == 1:
            make_documents(run, **({} if "split" in changed or "windows" in changed else changed))
        else:
            make_documents(run, **changed)
    part = trend(tmp_path)
    assert (part.counted, part.pairs, part.verdict) == (*counted, Verdict.UNRESOLVED)


def test_losses_by_document_of_other_weights_are_left_out(tmp_path: Path) -> None:
    runs = mini_batches(tmp_path)
    for run in runs.values():
        make_documents(run)
    change(runs[1, 0], lambda record: record["results"]["validation"].update(step=0))
    assert trend(tmp_path).counted == "pair"


def test_the_spread_of_seeds_elsewhere_is_stated(tmp_path: Path) -> None:
    for run in mini_batches(tmp_path).values():
        make_documents(run)
    mini_batches(tmp_path, (0, 1), size="w64")
    parts = judge_all(load_results(tmp_path))[1].parts
    alone = next(part for part in parts if part.counted == "document")
    # Slopes of 0.05 and 0.055.
    assert alone.spread == pytest.approx(0.005 / math.sqrt(2))
    assert numbers(alone).endswith("; seeds elsewhere: SD 0.004")


def test_two_seeds_are_judged_by_their_documents(tmp_path: Path) -> None:
    for run in mini_batches(tmp_path, (0, 1)).values():
        make_documents(run)
    part = trend(tmp_path)
    assert part.name.endswith(", 2 seeds, 12 documents")
    assert (part.counted, part.pairs) == ("document", 12)
    # Slopes of 0.05 and 0.055.
    assert part.effect == pytest.approx(0.0525)


def test_three_seeds_are_the_units_in_spite_of_documents(tmp_path: Path) -> None:
    for run in mini_batches(tmp_path, (0, 1, 2)).values():
        make_documents(run)
    part = trend(tmp_path)
    assert (part.counted, part.pairs) == ("pair", 3)
    assert "documents" not in part.name


def change(run: RunFolder, edit: Callable[[dict], object]) -> None:
    record = json.loads(run.record.read_text())
    edit(record)
    run.record.write_text(json.dumps(record))
