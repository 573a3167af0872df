"""How often runs read their training text: in the plan of a sweep, and at the start of a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttt.cli.sweep.epochs import repeated_reading
from ttt.config.identity import identity
from ttt.config.schema import TrainConfig
from ttt.data.cache import prepared_digest
from ttt.data.corpus import load_corpus
from ttt.data.windows import windows_within
from ttt.launch.plan import Plan, PlannedRun
from ttt.train.planning import plan_run
from ttt.train.start import _report_start

Configure = Callable[..., TrainConfig]


def planned(configs: list[TrainConfig], tokens: list[int]) -> Plan:
    runs = [PlannedRun(str(number), "", (), None, steps, 1) for number, steps in enumerate(tokens)]
    return Plan("some", runs, dict(zip((run.run_id for run in runs), configs, strict=True)))


def test_an_estimate_is_called_one(configure: Configure, tmp_path: Path) -> None:
    here = f"data.cache_dir={tmp_path}"
    books = [configure("data=books", here, f"size.name={size}") for size in ("small", "large", "larger")]
    pile = configure("data=pile", here)
    assert prepared_digest(pile.data) is None
    (line,) = repeated_reading(planned([*books, pile], [2 * 10**9, 287 * 10**8, 5740 * 10**7, 10**15]))
    assert line == (
        "data=books has about 2.87G training tokens (data.tokens_estimate, not counted). "
        "Runs read it more than once: large 10 times (28.7G); larger 20 times (57.4G)."
    )


def test_a_prepared_text_is_counted(configure: Configure) -> None:
    config = configure("data.tokens_estimate=1")
    corpus = load_corpus(config.data, show_progress=False)
    tokens = len(corpus.splits["train"].tokens)
    assert prepared_digest(config.data) == corpus.digest
    assert list(repeated_reading(planned([config], [tokens]))) == []
    (line,) = repeated_reading(planned([config], [3 * tokens]))
    assert f"M training tokens. Runs read it more than once: {config.size.name} 3 times (" in line


def test_an_estimate_is_no_part_of_a_run(configure: Configure) -> None:
    assert identity(configure("data.tokens_estimate=7")) == identity(configure())
    assert configure("data=books").data.tokens_estimate == 2_900_000_000


def test_a_run_says_at_its_start_that_it_reads_text_again(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure()
    corpus = load_corpus(config.data, show_progress=False)
    windows = windows_within(corpus.splits["train"], config.ctx.length)
    plan = plan_run(config, [])
    prepared: Any = SimpleNamespace(plan=plan, newest=None, corpus=corpus, windows=windows)
    _report_start(prepared)
    assert "times" not in capsys.readouterr().err
    steps = 1 + 5 * len(windows) // 2 // plan.step_plan.sequences
    prepared.plan = replace(plan, step_plan=replace(plan.step_plan, steps=steps))
    _report_start(prepared)
    assert f"the {steps} steps read these windows 2.5 times\n" in capsys.readouterr().err
