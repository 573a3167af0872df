"""``ttt-eval tasks=``: scores of a run on tasks of lm-evaluation-harness, from local task files."""

import csv
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pytest
import torch
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from lm_eval.api.instance import Instance
from released_files import imported, write_tokenizer

from ttt.analysis.store import load_results
from ttt.cli.compose import as_object, compose
from ttt.cli.eval import evaluate
from ttt.cli.label import label_of_plain
from ttt.cli.sweep.commands import table_of_runs
from ttt.config.errors import UserError
from ttt.config.schema import ContextConfig, EvalConfig
from ttt.data.vocabulary import open_vocabulary
from ttt.evaluate import harness
from ttt.evaluate.elsewhere import on_other_text
from ttt.evaluate.generate import Sampling, continuation
from ttt.evaluate.harness_model import HarnessModel
from ttt.evaluate.perplexity import evaluate_split
from ttt.evaluate.run import TrainedRun, load_run
from ttt.plots.registry import figures
from ttt.results.checkpoints import Choice, checkpoint_path
from ttt.results.record import RunFolder
from ttt.train.checkpoint import save_whole

pytestmark = pytest.mark.slow

CTX = 12
"""Context of the golden model."""

CHOICES = ["w1 w2", "w3", "w4 w5 w6"]
DOCUMENTS = [{"before": f"w{number} w2", "next": f"w{number + 3}", "gold": number % 3} for number in range(5)]
LONG = " ".join(f"w{number * number % 35}" for number in range(3 * CTX))

TASKS: dict[str, dict[str, Any]] = {
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{before}} {{next}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{before}}",
        "doc_to_choice": CHOICES,
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "last": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{before}}",
        "doc_to_target": " {{next}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "answer": {
        "output_type": "generate_until",
        "doc_to_text": "{{before}}",
        "doc_to_target": "{{next}}",
        "generation_kwargs": {"until": ["w9"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="session")
def made(hydra: Hydra, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the run of the golden model and the task files above."""
    folder = tmp_path_factory.mktemp("tasks")
    GlobalHydra.instance().hydra = hydra
    tokenizer = write_tokenizer(folder / "words" / "tokenizer.json")
    imported(folder / "runs" / "run", "steps=50", tokenizer=tokenizer)
    GlobalHydra.instance().clear()
    lines = "\n".join(json.dumps(document) for document in DOCUMENTS)
    (folder / "documents.jsonl").write_text(lines)
    source = {"data_files": {"test": str(folder / "documents.jsonl")}, "cache_dir": str(folder / "cache")}
    (folder / "files").mkdir()
    for name, task in TASKS.items():
        common = {"task": name, "dataset_path": "json", "dataset_kwargs": source, "test_split": "test"}
        (folder / "files" / f"{name}.yaml").write_text(yaml.safe_dump(common | task))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    """Return a copy of the run; the index of tasks has those of the folder only, which is read at once."""
    local = partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", local)
    yield RunFolder(shutil.copytree(made / "runs" / "run", tmp_path / "runs" / "run"))
    GlobalHydra.instance().clear()


@pytest.fixture
def run(folder: RunFolder) -> TrainedRun:
    return load_run(folder, torch.device("cpu"), show_progress=False)


def scored(folder: RunFolder, made: Path, *names: str, **keys: Any) -> dict[str, Any]:
    """Score the run on tasks and return its record."""
    keys = {"task_path": str(made / "files"), "device": "cpu"} | keys
    evaluate(EvalConfig(run=str(folder.path), tasks=[*names], **keys), [])
    record: dict[str, Any] = json.loads(folder.record.read_text())
    return record


def likelihood(run: TrainedRun, ids: list[int], count: int) -> tuple[float, bool]:
    """Return the log likelihood of the last ``count`` tokens, and whether greedy decoding writes them."""
    with torch.no_grad():
        logits = run.model(torch.tensor([ids[:-1]]))[0, -count:].double()
    last = torch.tensor(ids[-count:])
    return float(logits.log_softmax(-1).gather(1, last[:, None]).sum()), bool((logits.argmax(-1) == last).all())


def request(*arguments: Any) -> Instance:
    return Instance("loglikelihood", {}, arguments, 0)


def test_rolling_perplexity_is_that_of_ttt_eval(run: TrainedRun, hydra: Hydra, tmp_path: Path) -> None:
    """In a joined stream whose windows begin at the end of the document before, as a text does in the harness."""
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "0.txt").write_text(" ".join(["w7"] * CTX))
    (texts / "1.txt").write_text(LONG)
    GlobalHydra.instance().hydra = hydra
    data = [f"data.path={texts}", "data.join=true", f"data.cache_dir={tmp_path}/cache"]
    config = as_object(compose("eval", ["run=x", "data=local", *data]), EvalConfig)
    assert config.data is not None
    documents = on_other_text(run, config.data, whole=True, eval_tokens=None).documents("all")
    judged = evaluate_split(run.model, documents, CTX, 10**6, torch.device("cpu"), 10**6, show_progress=False)
    (own,) = HarnessModel(run).loglikelihood_rolling([request(LONG)])
    place = judged.document.tolist().index(int(documents.lengths.argmax()))
    assert judged.document_tokens[place] == len(LONG.split())
    assert -own == pytest.approx(judged.document_loss[place], rel=1e-6)


@pytest.mark.parametrize("device_tokens", [1, 40, 10**6])
def test_likelihoods_are_those_of_single_sequences(run: TrainedRun, device_tokens: int) -> None:
    run = replace(run, reading=replace(run.reading, device_tokens=device_tokens))
    vocabulary = open_vocabulary(run.tokenizer().parent)
    pairs = [("w1 w2", " w3"), ("", "w5 w6"), (LONG, " w1 w2 w3"), ("w4", " w4"), ("w1 w2 w3", " w4 w5 w6 w7")]
    found = HarnessModel(run).loglikelihood([request(*pair) for pair in pairs])
    for (before, text), (value, greedy) in zip(pairs, found, strict=True):
        ids = [*vocabulary.encode([before + text])[0][:-1].tolist()]
        ids = (ids if before else [vocabulary.end, *ids])[-CTX - 1 :]
        expected, likeliest = likelihood(run, ids, len(text.split()))
        assert value == pytest.approx(expected, abs=1e-5)
        assert greedy == likeliest


def test_an_answer_is_greedy_and_ends_at_a_stop_text(run: TrainedRun) -> None:
    vocabulary = open_vocabulary(run.tokenizer().parent)
    written = {prompt: _greedy(run, vocabulary, prompt) for prompt in (f"w{n}" for n in range(20))}
    prompt, tokens = next((prompt, tokens) for prompt, tokens in written.items() if vocabulary.end not in tokens)
    names = [vocabulary.bytes_of(token).decode() for token in tokens]
    whole = "".join(names)
    for stops, expected in (([], whole), (names[2], whole[: whole.index(names[2])]), (["x", names[0]], "")):
        options = {"until": stops, "max_gen_toks": len(tokens)}
        assert HarnessModel(run).generate_until([request(prompt, options)]) == [expected]
    ended = next((prompt for prompt, tokens in written.items() if tokens[0] == vocabulary.end))
    assert HarnessModel(run).generate_until([request(ended, {})]) == [""]


@pytest.mark.parametrize("device_tokens", [1, 30, 10**6])
def test_answers_together_are_those_of_each_alone(run: TrainedRun, device_tokens: int) -> None:
    prompts = [" ".join(f"w{number + place}" for place in range(1 + number * 7 % 15)) for number in range(12)]
    asked = [request(prompt, {"until": ["w9"], "max_gen_toks": 1 + len(prompt) % 5}) for prompt in ("", *prompts)]
    alone = [HarnessModel(run).generate_until([each])[0] for each in asked]
    assert len(set(alone)) > 3
    together = replace(run, reading=replace(run.reading, device_tokens=device_tokens))
    assert HarnessModel(together).generate_until(asked) == alone


def _greedy(run: TrainedRun, vocabulary: Any, prompt: str) -> list[int]:
    ids = vocabulary.encode([prompt])[0][:-1].tolist()
    greedy = continuation(run.model, ids, Sampling(temperature=0, top_k=None, seed=0))
    return [token for token, _ in zip(greedy, range(4), strict=False)]


def test_scores_enter_the_record_the_table_and_the_figure(
    folder: RunFolder, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads(folder.record.read_text())
    record = scored(folder, made, *TASKS)
    scores = record.pop("tasks")
    assert {**before, "sha256": ""} == {**record, "sha256": ""}
    assert list(scores) == [*TASKS]
    assert scores["last"]["errors"].keys() == {"perplexity", "acc"}
    assert (scores["choice"]["documents"], scores["choice"]["ctx"]) == (5, CTX)
    run = load_run(folder, torch.device("cpu"), show_progress=False)
    vocabulary = open_vocabulary(run.tokenizer().parent)
    right = [_likeliest(run, vocabulary, document["before"]) == document["gold"] for document in DOCUMENTS]
    assert scores["choice"]["scores"]["acc"] == sum(right) / len(right)
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == f"{folder.path}: tasks at ctx=12, at step 50"
    assert "bootstrapping" not in printed
    (row,) = csv.DictReader(table_of_runs(folder.path.parent).splitlines())
    assert float(row["choice acc"]) == scores["choice"]["scores"]["acc"]
    drawn = figures()["tasks"].table(load_results(folder.path.parent, label_of_plain))
    metrics = dict(zip(drawn["task"], drawn["metric"], strict=True))
    assert metrics == {"rolling": "word_perplexity", "choice": "acc_norm", "last": "acc", "answer": "exact_match"}


def _likeliest(run: TrainedRun, vocabulary: Any, before: str) -> int:
    def value(choice: str) -> float:
        ids = vocabulary.encode([f"{before} {choice}"])[0][:-1].tolist()
        return likelihood(run, ids, len(choice.split()))[0]

    return max(range(len(CHOICES)), key=lambda number: value(CHOICES[number]))


def test_other_weights_have_scores_of_their_own(
    folder: RunFolder, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoint_path(folder.checkpoints, 50)
    state = torch.load(newest, weights_only=True)["state_dict"]
    save_whole({"state_dict": {name: value * 0.5 for name, value in state.items()}}, checkpoint_path(newest.parent, 30))
    scored(folder, made, "last")
    scored(folder, made, "last", step=30)
    record = scored(folder, made, "last", average=2)
    printed = capsys.readouterr().out
    assert "tasks at ctx=12, at step 30\n" in printed
    assert "tasks at ctx=12, at step 50 (mean of 2 checkpoints)\n" in printed
    choices = {"last": Choice(), "last-step30": Choice(30), "last-mean2-step50": Choice(average=2)}
    assert list(record["tasks"]) == [*choices]
    found = set()
    for name, choice in choices.items():
        run = load_run(folder, torch.device("cpu"), show_progress=False, choice=choice)
        vocabulary = open_vocabulary(run.tokenizer().parent)
        texts = [f"{document['before']} {document['next']}" for document in DOCUMENTS]
        ids = [vocabulary.encode([text])[0][:-1].tolist() for text in texts]
        losses = [-likelihood(run, of_text, 1)[0] for of_text in ids]
        scores = record["tasks"][name]
        assert scores["scores"]["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
        assert (scores["step"], scores.get("weights", "")) == (run.step, name.removeprefix("last").strip("-"))
        found.add(scores["scores"]["perplexity"])
    assert len(found) == 3
    drawn = figures()["tasks"].table(load_results(folder.path.parent, label_of_plain))
    assert drawn["score"].tolist() == [record["tasks"]["last"]["scores"]["acc"]]


def test_other_contexts_examples_and_limits_have_names_of_their_own(
    folder: RunFolder, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = scored(folder, made, "rolling", ctx=ContextConfig(256), num_fewshot=0)
    assert list(record["tasks"]) == ["rolling-256-0shot"]
    assert record["tasks"]["rolling-256-0shot"]["ctx"] == 256
    content = folder.record.read_bytes()
    scored(folder, made, "last", limit=2)
    assert folder.record.read_bytes() == content
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].split()[-2:] == ["2", "0"]
    assert "limit=2: the first documents of each task; the scores are not stored" in printed.err


@pytest.mark.parametrize(
    ("names", "keys", "line"),
    [
        (["rollin"], {}, "tasks=rollin: no such task; did you mean rolling?"),
        (["qqq"], {}, "tasks=qqq: no such task; lm-eval ls tasks lists them"),
        (["last"], {"task_path": "nowhere"}, "task_path=nowhere: no such folder; give one with task files (YAML)"),
        (["last"], {"task_path": "{run}"}, "task_path={run}: has no task file; a task is a file NAME.yaml"),
        (["last"], {"probe": "copy"}, "probe=copy: has no meaning for tasks=; leave it out"),
        ([], {"limit": 3, "task_path": None}, "limit=3: belongs to tasks=; leave it out"),
        (["choice"], {"ctx": ContextConfig(2)}, "ctx=2: an answer has 3 tokens; choose a longer context"),
    ],
    ids=["near", "unknown", "no-folder", "no-file", "probe", "no-tasks", "short"],
)
def test_what_is_wrong_is_said_in_one_line(
    folder: RunFolder, made: Path, names: list[str], keys: dict[str, Any], line: str
) -> None:
    keys = {key: value.format(run=folder.path) if isinstance(value, str) else value for key, value in keys.items()}
    _refused(folder, made, names, line.format(run=folder.path), **keys)


def test_without_a_network_or_the_harness(folder: RunFolder, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    line = "tasks=last: its data cannot be loaded (ConnectionError: Name or service not known); try again with"
    _refused(folder, made, ["last"], line)
    monkeypatch.setattr(harness, "find_spec", lambda _: None)
    _refused(folder, made, ["last"], "tasks: needs lm-evaluation-harness; pip install 'ttt-suite[tasks]'")


def _refused(folder: RunFolder, made: Path, names: list[str], line: str, **keys: Any) -> None:
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        scored(folder, made, *names, **keys)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
