"""A new run says once, when it prepares its text, that the text is little."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ttt.config.schema import TrainConfig
from ttt.train.opening import open_run
from ttt.train.planning import plan_run
from ttt.train.prepare import prepare


def test_little_text_is_said_when_it_is_prepared(
    configure: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text {number} has so many words " * 60)
    own = ["data=local", f"data.path={tmp_path}/texts", f"data.cache_dir={tmp_path}/cache", f"run={tmp_path}/run"]
    said = []
    for changed in ([], [], ["data.validation_fraction=0.2"]):
        plan = plan_run(configure(*own, *changed), [])
        prepare(plan, open_run(plan))
        said.append([line for line in capsys.readouterr().err.splitlines() if line.startswith("little data: ")])
    assert [len(lines) for lines in said] == [1, 0, 1]
    assert "validation documents" in said[2][0]
