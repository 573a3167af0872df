from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttt.config.errors import UserError
from ttt.results.metrics import SCHEMA, MetricLog, read_metrics


def filled(path: Path, steps: range = range(1, 11)) -> MetricLog:
    log = MetricLog("run", path)
    train(log, steps)
    return log


def train(log: MetricLog, steps: range) -> None:
    for step in steps:
        log.add("train", step, "loss", 1 / step, "nats/token")
        if step % 5 == 0:
            log.add("validation", step, "loss", 2 / step, "nats/token")
            log.add_many("validation", step, "loss", [3.0, 2.0, 1.0], "nats/token", positions=range(1, 4))


def test_the_file_has_the_schema_and_sorted_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.parquet"
    filled(path).write()
    table = pq.read_table(path)
    assert table.schema == SCHEMA
    assert table.num_rows == 10 + 2 + 6
    assert table.column("split").to_pylist() == ["train"] * 10 + ["validation"] * 8
    assert table.column("position").to_pylist() == [None] * 10 + [None, 1, 2, 3] * 2
    assert set(table.column("run_id").to_pylist()) == {"run"}


def test_bytes_do_not_depend_on_the_order_of_adding(tmp_path: Path) -> None:
    forward, backward = tmp_path / "forward", tmp_path / "backward"
    filled(forward).write()
    filled(backward, range(10, 0, -1)).write()
    assert forward.read_bytes() == backward.read_bytes()


@pytest.mark.parametrize("last_checkpoint", [0, 4, 5, 10])
def test_a_resumed_run_leaves_the_bytes_of_an_uninterrupted_one(tmp_path: Path, last_checkpoint: int) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    filled(whole).write()
    filled(resumed).write()
    log = MetricLog.resume(resumed, "run", last_checkpoint)
    log.write()
    assert max(pq.read_table(resumed).column("step").to_pylist(), default=0) == last_checkpoint
    train(log, range(last_checkpoint + 1, 11))
    log.write()
    assert resumed.read_bytes() == whole.read_bytes()


def test_all_rows_are_kept_unless_a_step_is_given(tmp_path: Path) -> None:
    log = filled(tmp_path / "metrics.parquet")
    log.write()
    written = log.path.read_bytes()
    MetricLog.resume(log.path, "run", None).write()
    assert log.path.read_bytes() == written


def test_a_repeated_evaluation_replaces_the_former(tmp_path: Path) -> None:
    log = MetricLog("run", tmp_path / "metrics.parquet")
    log.add("test", 5, "loss", 2.0, "nats/token")
    log.add("test", 5, "loss", 1.0, "nats/token")
    log.write()
    assert pq.read_table(log.path).column("value").to_pylist() == [1.0]


def test_positions_and_values_must_have_equal_lengths(tmp_path: Path) -> None:
    log = MetricLog("run", tmp_path / "metrics.parquet")
    with pytest.raises(ValueError, match="shorter"):
        log.add_many("validation", 1, "loss", [1.0, 2.0], "nats/token", positions=[1])


def test_files_that_are_no_metrics_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "metrics.parquet"
    with pytest.raises(UserError, match=r"metrics\.parquet"):
        MetricLog.resume(path, "run", 0)
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"metrics\.parquet: not a table"):
        read_metrics(path)
    pq.write_table(pa.table({"loss": [1.0]}), path)
    with pytest.raises(UserError, match=r"metrics\.parquet: not a table of metrics \(columns loss"):
        read_metrics(path)
