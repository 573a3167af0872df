"""All runs and benchmarks below a folder, as tables. Figures and claims read nothing else."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ttt.analysis.benchmarks import benchmarks_table
from ttt.analysis.run_rows import ReadRun, named_apart, read_run, runs_table
from ttt.analysis.scores import scores_table
from ttt.config.errors import UserError, bad_value, counted
from ttt.config.label import Label, names_only
from ttt.config.schema import Resolved
from ttt.results.benchmarks import BENCHMARK_FILE, read_benchmark
from ttt.results.context_gain import SCHEMA as CONTEXT_GAIN_SCHEMA
from ttt.results.context_gain import TEXT_COLUMNS as CONTEXT_GAIN_TEXT
from ttt.results.context_gain import read_context_gain
from ttt.results.document_losses import SCHEMA as DOCUMENTS_SCHEMA
from ttt.results.document_losses import TEXT_COLUMNS as DOCUMENTS_TEXT
from ttt.results.document_losses import read_document_losses
from ttt.results.inner_loss import LOSSES, per_dimension, read_inner_loss
from ttt.results.inner_loss import SCHEMA as INNER_LOSS_SCHEMA
from ttt.results.inner_loss import TEXT_COLUMNS as INNER_LOSS_TEXT
from ttt.results.metrics import SCHEMA, TEXT_COLUMNS, Split, read_metrics
from ttt.results.needle import SCHEMA as NEEDLE_SCHEMA
from ttt.results.needle import TEXT_COLUMNS as NEEDLE_TEXT
from ttt.results.needle import read_needle
from ttt.results.record import RECORD_FILE, Evaluation, Record, RunFolder

T = TypeVar("T")

EVALUATION_COLUMNS = ["run_id", "evaluation", "data", "split", "judged_ctx", "position", "loss", "sequences"]


@dataclass(frozen=True)
class Results:
    """Every run and every benchmark below a folder.

    Attributes:
        runs: one row per run, indexed from 0: ``RUN_COLUMNS``; the ``measurements`` of any record, missing in the
            others; ``data`` has the digest besides the name where a name stands for several texts; ``run_dir``, the
            run's folder; ``copies``, whether the run has learned to copy repeated text
            (``ttt.results.copying``), missing if it was not measured; ``start``, empty or ``FINETUNED``; and
            ``changed``, the settings, as text, in which runs of one ``METHOD`` at the same data, size and context
            differ. Runs that agree in all settings differ only in seed.
        metrics: the rows of all ``metrics.parquet`` (columns of ``ttt.results.metrics``); text is categorical,
            ``position`` nullable.
        inner_loss: the rows of all ``inner_loss.parquet`` (columns of ``ttt.results.inner_loss``); text is categorical,
            losses are mean squared errors per dimension.
        context_gain: the rows of all ``context_gain.parquet`` (columns of ``ttt.results.context_gain``); text is
            categorical.
        needle: the rows of all ``needle.parquet`` (columns of ``ttt.results.needle``); text is categorical.
        documents: the rows of all ``documents.parquet`` (columns of ``ttt.results.document_losses``) that belong to a
            result in the run's record; text is categorical.
        left_out: folder of a run that is left out as a duplicate -> folder of the same run in the tables.
        benchmarks: one row per measurement: ``BENCHMARK_COLUMNS`` and ``MEASUREMENT_COLUMNS``.
        settings: run_id -> every setting that affects what the run learns, see ``ttt.analysis.seeds.settings_of``.
        labels: run_id -> label.
        evaluations: losses by token index at other contexts and on other texts: run_id; ``evaluation``, its name;
            ``data``, with the digest as in ``runs``, ``split`` and ``judged_ctx`` of the evaluation; position, ``loss``
            (nats/token) and ``sequences``.
        elsewhere_documents: losses by document of these evaluations, columns as in ``documents`` and ``evaluation``;
            those of earlier versions have none.
        scores: one row per run, task of lm-evaluation-harness and metric: ``ttt.analysis.scores.SCORE_COLUMNS``.
        unreadable: one line for each file that was left out because it could not be read.
        stopped: run_id of each run that ``trainer.max_steps`` has stopped early -> its steps: "3 of 300 steps".
        chosen: whether the user has named these runs, so that a figure draws all of them where it can.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    inner_loss: pd.DataFrame
    context_gain: pd.DataFrame
    needle: pd.DataFrame
    documents: pd.DataFrame
    left_out: dict[Path, Path]
    benchmarks: pd.DataFrame
    settings: dict[str, dict[str, str]]
    labels: dict[str, Label]
    evaluations: pd.DataFrame
    elsewhere_documents: pd.DataFrame
    scores: pd.DataFrame
    unreadable: list[str]
    stopped: dict[str, str]
    chosen: bool = False

    def select(self, split: Split, metric: str, by_position: bool = False) -> pd.DataFrame:
        """Return the finite values of one metric, in their order: run_id, step, position, value.

        Args:
            split: the split.
            metric: the metric's name.
            by_position: take the rows with a token index instead of the rows without one.
        """
        rows = self.metrics
        chosen = (rows["split"] == split) & (rows["metric"] == metric) & (rows["position"].notna() == by_position)
        finite = np.isfinite(rows["value"])
        return rows.loc[chosen & finite, ["run_id", "step", "position", "value"]].reset_index(drop=True)

    def describe_stopped(self, run_ids: Iterable[str]) -> str:
        """Return sentences about those of the runs that were trained less than planned, or an empty text.

        One is about runs that ``trainer.max_steps`` has stopped early, one about runs that have not come to their end.
        """
        chosen = set(run_ids)
        stopped = Counter((self.stopped[run_id], "") for run_id in chosen & self.stopped.keys())
        short = self.runs["run_id"].isin(chosen - self.stopped.keys())
        short &= (self.runs["steps"] < self.runs["steps_planned"]).fillna(False)
        columns = self.runs.loc[short, ["steps", "steps_planned", "status"]]
        others = Counter(
            (f"{done:,} of {planned:,} steps", f", {status}")
            for done, planned, status in columns.itertuples(index=False, name=None)
        )
        sentences = (("Stopped early by trainer.max_steps", stopped), ("Trained less than planned", others))
        return " ".join(f"{what}: {_steps(counts)}." for what, counts in sentences if counts)

    def select_inner_loss(self) -> pd.DataFrame:
        """Return the inner losses on validation, or on test for a run that was probed only there."""
        rows = self.inner_loss
        on_validation = rows["split"] == "validation"
        validated = rows["run_id"].isin(rows.loc[on_validation, "run_id"].unique())
        return rows[on_validation | ~validated]


def _steps(counts: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{text} ({counted(counts[text, state], 'run')}{state})" for text, state in sorted(counts))


@dataclass
class _Reader:
    """Reads files. In ``strict`` mode an unreadable file raises an error; otherwise it is listed and left out."""

    strict: bool
    unreadable: list[str] = field(default_factory=list)

    def read(self, read: Callable[[Path], T], paths: Iterable[Path]) -> dict[Path, T]:
        """Read each path; return the contents of the readable ones."""
        contents = {}
        for path in paths:
            try:
                contents[path] = read(path)
            except UserError as error:
                if self.strict:
                    raise
                self.unreadable.append(str(error))
        return contents


def load_results(
    folder: Path | Sequence[Path],
    label: Callable[[Resolved], Label] = names_only,
    strict: bool = True,
    stopped: bool = False,
) -> Results:
    """Read every run and benchmark below ``folder``, at any depth, sorted by path.

    A run without metrics yet has only its row in ``runs``. If several folders have the same run_id (the same
    configuration), the folder with the most steps is used.

    Args:
        folder: the folder of runs, or several.
        label: labels a configuration whose record has no label.
        strict: raise an error at the first unreadable file instead of leaving it out.
        stopped: count runs that ``trainer.max_steps`` has stopped early as if their schedules had ended there.

    Raises:
        UserError: no such folder; if ``strict``, a file in it that no run or benchmark wrote.
    """
    folders = [folder] if isinstance(folder, Path) else folder
    for each in folders:
        if not each.is_dir():
            raise bad_value("runs", each, "no such folder; give one that holds runs of ttt-train")
    reader = _Reader(strict)
    by_path = reader.read(lambda path: read_run(path, label, stopped), _below(folders, RECORD_FILE))
    longest: dict[str, Path] = {}
    for path in sorted(by_path, key=lambda path: by_path[path].record["steps"]):
        longest[by_path[path].record["run_id"]] = path
    runs = {path.parent: run for path, run in by_path.items() if longest[run.record["run_id"]] == path}
    left_out = {path.parent: longest[run.record["run_id"]].parent for path, run in by_path.items()}
    paths = [RunFolder(path) for path in runs]
    metrics = reader.read(read_metrics, (run.metrics for run in paths if run.metrics.exists()))
    inner_loss = reader.read(
        lambda path: _read_probe(path, runs[path.parent].record),
        (run.inner_loss for run in paths if run.inner_loss.exists()),
    )
    gains = reader.read(read_context_gain, (run.context_gain for run in paths if run.context_gain.exists()))
    needles = reader.read(read_needle, (run.needle for run in paths if run.needle.exists()))
    benchmarks = reader.read(read_benchmark, _below(folders, BENCHMARK_FILE))
    return Results(
        runs=runs_table(runs),
        metrics=_metrics(list(metrics.values())),
        inner_loss=_probed(list(inner_loss.values()), INNER_LOSS_SCHEMA, INNER_LOSS_TEXT),
        context_gain=_probed(list(gains.values()), CONTEXT_GAIN_SCHEMA, CONTEXT_GAIN_TEXT),
        needle=_probed(list(needles.values()), NEEDLE_SCHEMA, NEEDLE_TEXT),
        documents=_documents(runs, reader),
        left_out={path: used for path, used in left_out.items() if path != used},
        benchmarks=benchmarks_table(benchmarks.values()),
        settings={run.record["run_id"]: run.settings for run in runs.values()},
        labels={run.record["run_id"]: run.label for run in runs.values()},
        evaluations=_evaluations(runs, reader),
        elsewhere_documents=_elsewhere_documents(runs, reader),
        scores=scores_table(run.record for run in runs.values()),
        unreadable=reader.unreadable,
        stopped={run.record["run_id"]: run.stopped for run in runs.values() if run.stopped},
    )


def _below(folders: Sequence[Path], name: str) -> list[Path]:
    """Return the files of this name below the folders, at any depth, sorted."""
    return sorted({path for folder in folders for path in folder.rglob(name)})


def _metrics(tables: list[pa.Table]) -> pd.DataFrame:
    metrics = _concatenated(tables, SCHEMA).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return metrics.astype({"step": "int64"} | dict.fromkeys(TEXT_COLUMNS, "category"))


def _read_probe(path: Path, record: Record) -> pa.Table:
    """Read the inner losses of a run as mean squared errors per dimension.

    Raises:
        UserError: the file is not a table of inner losses, or the record lacks a setting that converts them.
    """
    table = read_inner_loss(path)
    try:
        factor = per_dimension(record["config"])
    except (KeyError, TypeError, ZeroDivisionError) as error:
        reason = f"its record lacks a setting that converts inner losses ({type(error).__name__}: {error})"
        raise UserError(f"{path}: {reason}; restore or remove the run's folder") from error
    for name in LOSSES:
        table = table.set_column(table.schema.get_field_index(name), name, pc.multiply(table[name], factor))
    return table


def _probed(tables: list[pa.Table], schema: pa.Schema, text_columns: list[str]) -> pd.DataFrame:
    return _concatenated(tables, schema).to_pandas().astype(dict.fromkeys(text_columns, "category"))


def _documents(found: dict[Path, ReadRun], reader: _Reader) -> pd.DataFrame:
    folders = [RunFolder(path) for path in found]
    tables = reader.read(read_document_losses, (run.documents for run in folders if run.documents.exists()))
    kept = []
    for path, table in tables.items():
        record = found[path.parent].record
        for split, result in record["results"].items():
            chosen = pc.and_(
                pc.equal(table["split"], split), pc.equal(table["step"], result.get("step", record["steps"]))
            )
            kept.append(table.filter(chosen))
    return _probed(kept, DOCUMENTS_SCHEMA, DOCUMENTS_TEXT)


def _concatenated(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables(tables).unify_dictionaries() if tables else schema.empty_table()


def _elsewhere_documents(found: dict[Path, ReadRun], reader: _Reader) -> pd.DataFrame:
    kept = []
    for path, run in found.items():
        judged = _judged_elsewhere(run)
        named = {RunFolder(path).evaluation_documents(name): name for name in judged}
        for file, table in reader.read(read_document_losses, filter(Path.exists, named)).items():
            own = table.filter(pc.equal(table["step"], judged[named[file]]["step"]))
            kept.append(own.append_column("evaluation", pa.array([named[file]] * len(own), pa.string())))
    return _probed(kept, DOCUMENTS_SCHEMA.append(pa.field("evaluation", pa.string())), DOCUMENTS_TEXT)


def _judged_elsewhere(run: ReadRun) -> dict[str, Evaluation]:
    """Return the evaluations of a run elsewhere; those of earlier or averaged weights are in the record only."""
    evaluations = run.record.get("evaluations", {})
    return {name: result for name, result in evaluations.items() if "weights" not in result}


def _evaluations(found: dict[Path, ReadRun], reader: _Reader) -> pd.DataFrame:
    tables = [pd.DataFrame(columns=[*EVALUATION_COLUMNS, "digest"])]
    for path, run in found.items():
        evaluations = _judged_elsewhere(run)
        named = {RunFolder(path).evaluation(name): name for name in evaluations}
        for file, table in reader.read(read_metrics, filter(Path.exists, named)).items():
            result = evaluations[named[file]]
            rows = table.to_pandas()
            rows = rows[rows["position"].notna() & (rows["step"] == result["step"])]
            losses = rows.pivot_table("value", "position", "metric", observed=True).reset_index()
            judged = {"data": result["data"], "split": result["split"], "judged_ctx": result["judged"]["ctx"]}
            judged |= {"run_id": run.record["run_id"], "evaluation": named[file], "digest": result["judged"]["digest"]}
            tables.append(losses.assign(**judged)[[*EVALUATION_COLUMNS, "digest"]])
    found_rows = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    return found_rows.assign(data=named_apart(found_rows["data"], found_rows["digest"]))[EVALUATION_COLUMNS]
