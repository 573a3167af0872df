"""A run on joined documents: what is read and what is judged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttt.cli.train import train
from ttt.config.schema import TrainConfig

Configure = Callable[..., TrainConfig]


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


@pytest.mark.slow
def test_the_record_has_the_share_and_the_judged_text(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = {}
    for join in ("false", "true"):
        run = tmp_path / join
        train(configure(f"run={run}", f"data.join={join}", "trainer.max_steps=1"), [])
        written = record(run)
        read[join] = written["data"]["used"]
        line = "windows of the train text have {documents:,} of {of_documents:,} documents".format(**read[join])
        assert line in capsys.readouterr().err
        judged, digest = written["results"]["validation"]["judged"], written["data"]["digest"]
        rule = "all documents joined" if join == "true" else "none across documents"
        assert judged.pop("windows") == f"evenly spaced windows{' of' if join == 'true' else ','} {rule}"
        assert 1 <= judged.pop("documents") <= 8 <= judged.pop("of_documents")
        assert judged.pop("of_tokens") > written["results"]["validation"]["tokens"]
        assert judged == {"digest": digest, "ctx": 64}
    assert read["false"]["tokens"] < read["true"]["tokens"] <= read["true"]["of_tokens"]
