"""A signal ends a preparation with one line and the exit code that shells expect; the next start resumes."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from starter import Starter

from ttt.cli.errors import exit_with_one_line
from ttt.config.schema import DataConfig
from ttt.data import partial_shards, prepare
from ttt.data.corpus import load_corpus
from ttt.data.partial_shards import PartialShard, write_partial_shard

PROGRAM = """
from ttt.data import partial_shards
partial_shards.PARTIAL_SHARD_CHARS = 20_000
from ttt.cli.data import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_is_one_line_and_the_next_start_resumes(
    config: DataConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    monkeypatch.setattr(partial_shards, "PARTIAL_SHARD_CHARS", 2000)
    former, written = signal.getsignal(number), []

    def write(shard: PartialShard) -> None:
        if len(written) == 3:
            written.append("stopped")
            os.kill(os.getpid(), number)
        written.append(shard.folder.name)
        write_partial_shard(shard)

    monkeypatch.setattr(prepare, "write_partial_shard", write)
    with pytest.raises(SystemExit) as ended, exit_with_one_line():
        load_corpus(config, show_progress=False)
    assert ended.value.code == 128 + number
    line = f"error: data=tiny: the preparation was stopped by {number.name}; the same command resumes\n"
    assert capsys.readouterr().err == line
    assert signal.getsignal(number) == former
    load_corpus(config, show_progress=False)
    assert len(written) == len(set(written)) > 5


@pytest.mark.slow
def test_a_signal_to_all_processes(starter: Starter, tmp_path: Path) -> None:
    """Ctrl-C reaches the worker processes too, which print nothing."""
    number = signal.SIGINT
    options = ["data=pycode", "data.packages=[networkx]", "data.vocab_size=300", "data.workers=2"]
    command = ["prepare", *options, f"data.cache_dir={tmp_path}/cache", "progress=false"]
    started = starter.start(PROGRAM, command)
    while not list(tmp_path.glob("cache/*.partial/partial_shards/000005")):
        assert started.poll() is None, started.communicate()
        time.sleep(0.05)
    os.killpg(started.pid, number)
    assert started.wait(30) == 128 + number
    line = rf"error: data=pycode: the preparation was stopped by {number.name}; the same command resumes\n"
    assert re.fullmatch(line, started.communicate()[1])
