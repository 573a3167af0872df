"""Evaluation at another context and on another text: stored beside the run's own results, never in their place."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from written_texts import write_texts

from ttt.analysis.store import load_results
from ttt.cli.compose import as_object, quote_option, register_schemas
from ttt.cli.eval import COMMAND, evaluate
from ttt.config.assets import assets
from ttt.config.errors import UserError
from ttt.config.schema import ContextConfig, DataConfig, EvalConfig
from ttt.evaluate.elsewhere import on_other_text
from ttt.launch.collect import copy_results
from ttt.launch.plan import PlannedRun
from ttt.launch.status import RunStatus
from ttt.plots.elsewhere import FIGURE
from ttt.plots.files import drawn
from ttt.results.document_losses import read_document_losses
from ttt.results.metrics import read_metrics


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "record.json").read_text())


def evaluated(run: Path, *overrides: str) -> None:
    """Run ``ttt-eval`` with overrides, in this process."""
    GlobalHydra.instance().clear()
    register_schemas()
    with initialize_config_dir(str(assets() / "conf"), version_base="1.3"):
        composed = compose("eval", [f"run={run}", "device=cpu", *map(quote_option, overrides)])
        evaluate(as_object(composed, EvalConfig), [])


def test_another_context_and_another_text_are_stored_beside_the_runs_own(
    run_of_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, metrics = record(run_of_texts)["results"], (run_of_texts / "metrics.parquet").read_bytes()
    write_texts(tmp_path / "other", seed=1, documents=5, words=400)
    evaluate(EvalConfig(run=str(run_of_texts), device="cpu", ctx=ContextConfig(96)), [])
    data = ["data=local", f"data.path={tmp_path}/other", f"data.cache_dir={tmp_path}/cache", "data.name=letters"]
    evaluated(run_of_texts, *data, "ctx=256")
    assert (record(run_of_texts)["results"], (run_of_texts / "metrics.parquet").read_bytes()) == (own, metrics)
    context, text = record(run_of_texts)["evaluations"].values()
    assert (context["data"], context["split"], context["judged"]["ctx"]) == ("local", "validation", 96)
    assert context["judged"]["digest"] == own["validation"]["judged"]["digest"]
    assert (text["data"], text["split"], text["judged"]["ctx"]) == ("letters", "all", 256)
    # Each of the five documents has two windows.
    assert (text["judged"]["documents"], text["per_token_sequences"]) == (5, 10)
    captured = capsys.readouterr()
    printed, told = captured.out, captured.err.splitlines()
    tokens, of_tokens = text["tokens"], text["judged"]["of_tokens"]
    line = f"judged: 5 of 5 documents (100%), {tokens:,} of {of_tokens:,} tokens ({tokens / of_tokens:.1%})"
    assert line in told
    for name, result in record(run_of_texts)["evaluations"].items():
        rows = read_metrics(run_of_texts / f"evaluations/{name}.parquet").to_pandas()
        by_index = rows[(rows.metric == "loss") & rows.position.notna()]
        assert by_index.position.tolist() == list(range(1, result["judged"]["ctx"] + 1))
        assert f"evaluations/{name}.parquet" in printed
    planned = PlannedRun("run", str(run_of_texts), (), None, 2, 256)
    copy_results([RunStatus(planned, "finished", None, 2, None)], tmp_path / "out")
    results = load_results(tmp_path / "out")
    table = FIGURE.table(results)
    assert set(zip(table["data"], table["judged_ctx"], strict=True)) == {("local", 96), ("letters", 256)}
    assert set(table["ctx"]) == {64}
    # Both texts are little, so that the picture has intervals over documents.
    assert set(table["judged_documents"]) == {context["judged"]["documents"], 5}
    assert (table["half_width"] > 0).all()
    losses = read_document_losses(
        tmp_path / f"out/{run_of_texts.name}/evaluations/{name}-documents.parquet"
    ).to_pandas()
    assert losses["loss"].sum() / losses["tokens"].sum() == pytest.approx(text["loss"], rel=1e-6)
    assert "Little data: bars: 95% intervals over" in FIGURE.draw(table).get_supxlabel().replace("\n", " ")
    assert drawn(FIGURE, table, ["png"])["png"]


@pytest.mark.slow
def test_what_cannot_be_evaluated_gets_a_line(run_of_texts: Path) -> None:
    before = record(run_of_texts)
    with pytest.raises(UserError, match=r"ctx=4096: no validation document of data=local has 4097 tokens"):
        evaluated(run_of_texts, "ctx=4k")
    with pytest.raises(UserError, match=r"split=all: the run's own data has training text"):
        evaluated(run_of_texts, "split=all")
    with pytest.raises(UserError, match=r"data.tokenizer=mine.json: must be left out"):
        evaluated(run_of_texts, "data=local", "data.path=.", "data.tokenizer=mine.json")
    evaluated(run_of_texts, "ctx=256", "ctx.length=96", "probe=inner_loss", "eval_tokens=96")
    with pytest.raises(UserError, match=r"data.path: belongs to an option of data; choose that too, data=OPTION"):
        COMMAND.for_hydra(["run=R", "data.path=texts"])
    assert record(run_of_texts) == before
    assert not (run_of_texts / "inner_loss.parquet").exists()


def test_values_of_another_text_that_contradict_each_other_are_refused() -> None:
    run = SimpleNamespace(tokenizer=lambda: Path("tokenizer.json"))
    text = DataConfig("mine", "local", path="texts", min_chars=5, max_chars=4)
    with pytest.raises(UserError, match=r"^data\.min_chars=5: must be at most data\.max_chars=4"):
        on_other_text(run, text, whole=False, eval_tokens=None)  # type: ignore[arg-type]
