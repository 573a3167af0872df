"""Times that stand out are measured again, by a stated rule, and the file says so."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from ttt.bench.measurement import Measurement, Samples, Workload
from ttt.bench.spikes import FARTHEST, WIDEST, Place, standing_out
from ttt.bench.timing import Spread
from ttt.cli import bench as command

CONTEXTS = (512, 1024, 2048, 4096)


def series(medians: list[float], width: float = 0.0, model: str = "ttt_linear") -> dict[Place, Spread]:
    return {
        Place(Workload(model, tokens, 16, 1), None, "decode"): Spread(value, value * (1 - width), value)
        for tokens, value in zip(CONTEXTS, medians, strict=True)
    }


@pytest.mark.parametrize(
    ("medians", "contexts"),
    [
        ([1.9, 1.87, 2.79, 1.78], [2048]),  # the spike that a figure once showed
        ([2.0, 1.0, 1.9, 1.0], [2048]),
        ([1.0, 2.0, 4.0, 8.0], []),  # the Transformer's growth
        ([4.0, 2.0, 1.0, 0.9], []),
        ([1.0, 1.2, 1.0, 1.2], []),
        ([9.0, 1.0, 1.0, 9.0], []),  # the ends have no neighbours on one side
    ],
)
def test_a_time_between_its_neighbours_is_plausible(medians: list[float], contexts: list[int]) -> None:
    assert sorted(place.workload.tokens for place in standing_out(series(medians))) == contexts


def test_a_wide_spread_stands_out_anywhere() -> None:
    assert standing_out(series([1.0] * 4, width=WIDEST * 0.9)) == {}
    assert len(standing_out(series([1.0] * 4, width=WIDEST * 1.1))) == 4


def test_models_are_not_compared_with_each_other() -> None:
    slow = series([FARTHEST * 2] * 4, model="mamba")
    assert standing_out(series([1.0] * 4) | slow) == {}


TINY = ["width=16", "heads=2", "blocks=1", "mlp_hidden=16", "vocab=16", "tokens=8,16,32", "rounds=2", "device=cpu"]
TINY += ["memory=false", "train=false", "model=ttt_linear,transformer", "kernels=dual", "decode=1", "decode_batch=1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("times_of_spike", "kept"),
    [([5.0, 1.0], 1.0), ([5.0, 6.0, 4.0], 4.0), ([5.0, 6.0, 7.0], 5.0)],
)
def test_the_shortest_time_of_a_spike_is_in_the_file(
    times_of_spike: list[float],
    kept: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    times: Counter[tuple[str, int, str]] = Counter()

    def measured(measurements: list[Measurement], *_: object) -> dict[Measurement, Samples]:
        found = {}
        for one in measurements:
            place = (one.workload.model, one.workload.tokens, one.measure)
            times[place] += 1
            spike = place == ("ttt_linear", 16, "decode")
            seconds = times_of_spike[times[place] - 1] if spike else 1.0
            found[one] = Samples({one.measure: [seconds * one.read] * 2})
        return found

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ttt.bench.run.take_turns", measured)
    monkeypatch.setattr(sys, "argv", ["ttt-bench", "latency", *TINY, f"runs={tmp_path}"])
    command.main()
    (path,) = tmp_path.glob("*/benchmark.json")
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 2 * 3 * 2 * 2
    again = {(row["model"], row["tokens"], row["measure"]): row["remeasured"] for row in rows if "remeasured" in row}
    number = len(times_of_spike) - 1
    measures = ("decode", "decode_tokens_per_second")
    assert again == {("ttt_linear", 16, measure): number for measure in measures}
    values = {row["measure"]: row["value"] for row in rows if "remeasured" in row}
    assert values == {"decode": kept, "decode_tokens_per_second": 1 / kept}
    line = "measured again, because it stands out: ttt_linear, decode, 16 tokens: 5.00 and 5.00 times"
    shown = " ".join(capsys.readouterr().out.split())
    assert line in shown
    assert shown.count("measured again, because it stands out: ") == number
