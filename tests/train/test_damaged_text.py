"""A bit that flips in a prepared corpus ends a training with one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ttt.cli.errors import exit_with_one_line
from ttt.cli.train import train
from ttt.config.schema import TrainConfig


@pytest.mark.slow
def test_a_flipped_bit_in_a_shard(
    configure: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"run={tmp_path}/run", f"data.cache_dir={tmp_path}/cache", "trainer.max_steps=1"]
    train(configure(*options), [])
    (shard,) = tmp_path.glob("cache/*/train-00000.npy")
    content = bytearray(shard.read_bytes())
    for place in range(1000, len(content), 2**14):
        content[place] ^= 64
    shard.write_bytes(content)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended, exit_with_one_line():
        train(configure(*options, "overwrite=true"), [])
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {shard}: damaged (block ")
    assert "delete its folder and prepare it again; no checkpoint had been written" in line
    assert json.loads((tmp_path / "run/record.json").read_text())["status"] == "failed"
