"""``ttt-import``: released weights become a run, with which every command works."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from released_files import (
    LINEAR,
    PLANTED,
    imported,
    write_standard,
    write_tokenizer,
    write_torch,
    write_word_pieces,
    write_words,
)

from ttt.analysis.store import load_results
from ttt.cli.eval import evaluate
from ttt.cli.export import export
from ttt.cli.generate import generate
from ttt.cli.importing import import_weights
from ttt.cli.label import label_of_plain
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.exchange import ExportConfig, ImportConfig
from ttt.config.generation import GenerateConfig
from ttt.config.schema import ContextConfig, EvalConfig, TrainConfig
from ttt.evaluate.run import load_run
from ttt.models.released_files import read_released
from ttt.models.released_meta import config_of, settings_of
from ttt.plots.registry import figures
from ttt.results.record import RunFolder, read_record

Configure = Callable[..., TrainConfig]


@pytest.mark.usefixtures("configure")
def test_the_run_has_the_weights_and_their_origin(tmp_path: Path) -> None:
    out = imported(tmp_path / "run", tokenizer=write_tokenizer(tmp_path / "words" / "tokenizer.json"))
    model = load_run(RunFolder(out), torch.device("cpu")).model.double()
    expected = np.load(LINEAR / "expected.npz")
    # The stored weights are in float64, those of a run in float32.
    assert np.abs(model(torch.tensor(expected["ids"])).detach().numpy() - expected["logits"]).max() < 1e-5
    record = read_record(out / "record.json")
    assert record["imported"]["layout"] == "flax"
    assert record["imported"]["source"] == str(LINEAR)
    assert [len(digest) for digest in record["imported"]["files"].values()] == [64]
    assert (record["config"]["ctx"]["length"], record["status"], record["steps"]) == (12, "finished", 0)
    assert record["config"]["model"]["mini_batch_size"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"run", "words"}


@pytest.mark.slow
@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("layout", ["flax", "safetensors"])
def test_every_probe_and_figure_works_on_it(tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = write_words(tmp_path / "texts", documents=8, length=2300, words=PLANTED)
    data = ["data=local", f"data.path={texts}", "data.validation_fraction=0.5", f"data.cache_dir={tmp_path}/cache"]
    tokenizer = write_word_pieces(tmp_path / "words" / "tokenizer.json")
    source = write_standard(tmp_path / "model", layout)
    run = imported(tmp_path / "runs" / "a", *data, "steps=50", source=source, tokenizer=tokenizer)
    for probe in (None, "inner_loss", "context_gain", "needle", "copy"):
        longest = 512 if probe == "needle" else None  # texts of four contexts take seconds
        evaluate(EvalConfig(run=str(run), device="cpu", probe=probe, eval_tokens=2048, longest=longest), [])
    evaluate(EvalConfig(run=str(run), device="cpu", ctx=ContextConfig(64), eval_tokens=2048), [])
    generate(GenerateConfig(run=str(run), prompt="worda wordb", tokens=3, device="cpu"), [])
    record = read_record(run / "record.json")
    assert record["imported"]["layout"] == layout
    assert len(record["evaluations"]) == 1
    results = load_results(run.parent, label_of_plain)
    assert results.runs["steps"].tolist() == [50]
    by_index = results.select("validation", "loss", by_position=True)
    assert by_index["position"].tolist() == [*range(1, 1025)]
    assert set(results.context_gain["context"]) == {256, 768}
    for name in ("per_token", "inner_loss", "context_gain", "needle", "elsewhere"):
        assert set(figures()[name].table(results)["run_id"]) == {record["run_id"]}, name
    assert "assumed" not in capsys.readouterr().err


@pytest.mark.usefixtures("configure")
def test_what_was_exported_is_imported_again(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "words" / "tokenizer.json")
    run = imported(tmp_path / "runs" / "a", tokenizer=tokenizer)
    export(ExportConfig(run=str(run), out=f"{tmp_path}/out", released=True), [])
    again = imported(tmp_path / "runs" / "b", source=tmp_path / "out")
    models = [load_run(RunFolder(path), torch.device("cpu")).model for path in (run, again)]
    assert all(torch.equal(a, b) for a, b in zip(*(model.state_dict().values() for model in models), strict=True))


@pytest.mark.slow
def test_another_run_starts_from_it(configure: Configure, tmp_path: Path) -> None:
    texts = write_words(tmp_path / "texts", documents=40, length=300)
    tokenizer = write_tokenizer(tmp_path / "words" / "tokenizer.json")
    run = imported(tmp_path / "run", tokenizer=tokenizer)
    line = "the weights were imported, their training cannot go on; start a new run with from=FOLDER"
    record = read_record(run / "record.json")
    with pytest.raises(UserError, match=line):
        train(configure(f"run={run}", f"recipe.imported={record['config']['recipe']['imported']}"), [])
    settings = ["size.width=16", "size.blocks=2", "size.heads=2", "size.mlp_hidden=24", "model.mini_batch_size=4"]
    data = ["data=local", f"data.path={texts}", "data.validation_fraction=0.5", f"data.tokenizer={tokenizer}"]
    train(configure(f"parent.run={run}", f"run={tmp_path}/child", "trainer.max_steps=1", *settings, *data), [])
    child = read_record(tmp_path / "child" / "record.json")
    assert child["config"]["parent"]["run_id"] == record["run_id"]


def write_bare(folder: Path) -> None:
    shutil.copytree(LINEAR, folder)


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (None, "tokenizer=null: no tokenizer is beside the weights; give the model's tokenizer.model or"),
        (36, "tokenizer={folder}/tokenizer.json: has 36 tokens, the model's embedding 37; give its own"),
        (0, "tokenizer={folder}/tokenizer.json: cannot be used"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_named(tmp_path: Path, words: int | None, line: str) -> None:
    folder = tmp_path / "model"
    write_bare(folder)
    if words is not None:
        write_tokenizer(folder / "tokenizer.json", words) if words else (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError) as caught:
        imported(tmp_path / "runs" / "run", source=folder)
    assert str(caught.value).startswith(line.format(folder=folder))
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("nowhere", "from=nowhere: no such file or folder; give one, or OWNER/NAME of a model on the hub"),
        (
            "owner/name",
            "from=owner/name: is no file or folder here, and cannot be read from the hub (ConnectionError: ",
        ),
    ],
)
def test_weights_that_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, line: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError) as caught:
        import_weights(ImportConfig(source=source, out=str(tmp_path / "run")), [])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("configure")
def test_a_model_of_the_hub_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = tmp_path / "snapshots" / "0123abc"
    write_bare(commit)
    write_tokenizer(commit / "tokenizer.json")
    asked = SimpleNamespace()

    def snapshot_download(name: str, **options: object) -> str:
        asked.name, asked.options = name, options
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    import_weights(ImportConfig(source="owner/name", out=str(tmp_path / "run"), revision="v1"), [])
    origin = read_record(tmp_path / "run" / "record.json")["imported"]
    assert (asked.name, asked.options["revision"]) == ("owner/name", "v1")
    assert not any("pkl" in pattern or pattern == "*" for pattern in asked.options["allow_patterns"])
    assert (origin["source"], origin["revision"]) == ("owner/name", "0123abc")


@pytest.mark.usefixtures("configure")
def test_the_papers_sizes_have_their_names(tmp_path: Path) -> None:
    """Only the label and the plan are made: no weights of this size."""
    from ttt.cli.importing import _plan, _steps

    weights = read_released(LINEAR)
    settings = settings_of(weights.state, LINEAR, None, None, 2048)
    meta = settings.meta | {"num_heads": 12, "head_dim": 64, "num_layers": 12, "intermediate_size": 2048}
    meta |= {"mini_batch_size": 16}
    config = ImportConfig(source="a", out=str(tmp_path / "run"))
    plan = _plan(config, type(settings)(meta, 2048, {}), {"a": "0" * 64}, Path("tokenizer.json"), [])
    assert plan.config.size.name == "125m"
    assert plan.label is not None
    assert plan.label["departures"] == {}
    assert _steps(config, weights, plan.config) == (4800, "recipe of the paper's size")
    other = _plan(config, type(settings)(meta, 2048, {}), {"a": "1" * 64}, Path("tokenizer.json"), [])
    assert other.run_id != plan.run_id


@pytest.mark.usefixtures("configure")
def test_a_run_without_data_says_so(tmp_path: Path) -> None:
    state = read_released(LINEAR).state
    config = config_of(settings_of(state, LINEAR, None, None, None).meta, 12)
    folder = write_torch(tmp_path / "model", state, config)
    write_tokenizer(folder / "tokenizer.json")
    run = imported(tmp_path / "run", source=folder)
    with pytest.raises(UserError, match="was imported without data, so that no text is its own; name one with data="):
        evaluate(EvalConfig(run=str(run), device="cpu"), [])
    with pytest.raises(UserError, match=r"run: contains other files; choose a new folder$"):
        imported(run, source=folder)
