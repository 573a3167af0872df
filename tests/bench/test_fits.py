"""``ttt-bench memory``: the tables agree with the count, and the smallest GPU that is enough is named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ttt.bench import fits
from ttt.bench.fits import MARKERS, bench_memory
from ttt.config.assets import assets
from ttt.config.bench import MemoryBenchConfig
from ttt.config.gpus import GIGA
from ttt.config.schema import TrainConfig
from ttt.config.text_table import WIDTH
from ttt.models.step_memory import StepMemory, step_memory

Configure = Callable[..., TrainConfig]


def config(**changes: object) -> MemoryBenchConfig:
    values: dict[str, object] = {"models": ["ttt_linear"], "sizes": ["w64"], "contexts": ["64"], "vocab": 400}
    return MemoryBenchConfig(**values | changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_count_of_a_step_decides(
    configure: Configure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = configure()
    expected = [step_memory(run, 1, "cuda", "bf16-mixed", recomputed).total for recomputed in (False, True)]
    monkeypatch.setattr(fits, "GIGA", 1e6)
    bench_memory(config(gigabytes=[1, 10**6]), {("w64", "ttt_linear", "64"): run})
    assert f" {expected[0] / 1e6:.1f}/{expected[1] / 1e6:.1f}\n" in capsys.readouterr().out


def test_the_smallest_gpu_that_is_enough(
    configure: Configure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A tenth of a GPU's memory stays free: 36 GB fit into 40, 36.1 do not.
    totals = iter([21, 5, 36.1, 36, 200, 126.9])
    monkeypatch.setattr(fits, "step_memory", lambda *_: StepMemory(int(next(totals) * GIGA), 0, 0, 0, 0))
    document = tmp_path / "table.md"
    document.write_text("\n".join(["before", *MARKERS, "after"]))
    contexts = ["1k", "2k", "4k"]
    bench = config(contexts=contexts, gigabytes=[141, 80, 40, 24], markdown=str(document))
    bench_memory(bench, {("w64", "ttt_linear", ctx): configure() for ctx in contexts})
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in printed if line.startswith("w64")]
    assert [line[2:] for line in lines] == [["21/5.0", "36/36", "200/127"], ["24/24", "80/40", "-/141"]]
    assert max(map(len, printed)) <= WIDTH
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after")
    assert "| w64 | ttt_linear | 24/24 | 80/40 | -/141 |" in text


def test_the_document_has_every_size_for_a_gpu() -> None:
    begin, end = MARKERS
    table = (assets() / "docs/memory.md").read_text().partition(begin)[2].partition(end)[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "size" not in line]
    for size in ("g1", "g2", "125m", "350m", "760m", "1.3b"):
        assert sum(row.startswith(f"| {size} |") for row in rows) == 2 * 4
