"""``probe=needle``: the planted texts, models that find all and nothing, and the table of a run."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ttt.analysis.store import load_results
from ttt.cli import eval as command
from ttt.config.errors import UserError
from ttt.config.schema import EvalConfig
from ttt.data.corpus import Documents
from ttt.data.tokenizer import save_tokenizer, train_tokenizer
from ttt.data.vocabulary import Vocabulary, decode, open_vocabulary
from ttt.evaluate.needle import DEPTHS, Maker, describe, probe_needle
from ttt.evaluate.run import Reading, TrainedRun

WORDS = ["river", "stone", "cloud", "garden", "window", "silver", "forest", "bridge", "candle", "market", "winter"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer([f"a {word} = {word}\n" for word in WORDS] * 9, 400), folder / "tokenizer.json")
    return open_vocabulary(folder)


def documents_of(vocabulary: Vocabulary, tokens: int = 900) -> Documents:
    dots = vocabulary.encode(["."])[0][0]
    return Documents("dots", "validation", np.full(tokens, dots), np.array([0, tokens]))


@pytest.mark.parametrize("task", ["single", "several", "variable"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_answer_follows_from_the_planted_lines(vocabulary: Vocabulary, task: str, depth: float) -> None:
    maker = Maker(documents_of(vocabulary), vocabulary)
    for number in range(3):
        ids = maker.case(task, 300, depth, number)
        assert len(ids) == 301
        assert (ids == maker.case(task, 300, depth, number)).all()
        text = decode(vocabulary, ids)
        *lines, question = [line for line in text.replace(".", "").split("\n") if line]
        value_of = dict(line.split(" = ") for line in lines)
        assert len(value_of) == {"single": 1, "several": 4, "variable": 3}[task]
        name, answer = question.split(" == " if task == "variable" else " = ")
        for _ in range(2 if task == "variable" else 0):
            name = value_of[name]
        assert value_of[name] == answer
        # The line with the answer stands at its depth of the text between the lines.
        before = text[: text.index(f"\n{name} = ")].count(".")
        assert before == pytest.approx(depth * text.count("."), abs=1)


class Finds(nn.Module):
    """Predicts for the last token what followed the last occurrence of the three tokens before it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, ids: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, self.size)
        for row, sequence in enumerate(ids.tolist()):
            before = [sequence[place : place + 3] for place in range(len(sequence) - 3)]
            if sequence[-3:] in before:
                logits[row, -1, sequence[before.index(sequence[-3:]) + 3]] = 50.0
        return logits


class Nothing(nn.Module):
    """Gives every token the same logit, so that none is most likely but the first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, ids: Tensor) -> Tensor:
        return torch.zeros(*ids.shape, self.size)


@pytest.mark.parametrize(("model", "right"), [("finds", 1.0), ("knows nothing", 0.0)])
def test_the_share_of_right_answers(vocabulary: Vocabulary, model: str, right: float) -> None:
    """Words are single tokens, so that the question of the first two tasks has three tokens of a planted line."""
    documents = documents_of(vocabulary)
    run = SimpleNamespace(
        model=(Finds if model == "finds" else Nothing)(vocabulary.size),
        documents=lambda _: documents,
        reading=Reading(64, 1, torch.device("cpu"), 10_000, show_progress=False),
        corpus=SimpleNamespace(folder=None),
        stores_probe=lambda _: False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttt.evaluate.needle.open_vocabulary", lambda _: vocabulary)
        found = probe_needle(cast(TrainedRun, run), "validation", 256, 512)
    simple = [row for row in found if row.task != "variable"]
    assert {row.length for row in found} == {128, 256}
    assert {row.cases for row in found if row.length == 256} == {2}
    assert {row.right for row in simple} == {right}
    assert {row.right for row in found if row.task == "variable"} == {0.0}
    assert describe(found).count(f"{right:.0%}") >= len(simple)


def test_bad_input_is_one_line(vocabulary: Vocabulary, tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(["0123456789"], 270), tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match=r"^probe=needle: needs 8 words that are one token each; the run's .* has 0$"):
        Maker(documents_of(vocabulary), open_vocabulary(tmp_path))
    with pytest.raises(UserError, match=r"^longest=256: belongs to probe=context_gain and probe=needle; leave it out$"):
        command._check(EvalConfig(run="x", longest=256))
    with pytest.raises(UserError, match=r"^longest=256: must be a power of two, at least 512$"):
        command._check(EvalConfig(run="x", probe="context_gain", longest=256))


@pytest.mark.slow
def test_a_run_is_probed_and_drawn(run_of_texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's text has few words, so that letters serve as words."""
    monkeypatch.setattr("ttt.evaluate.needle.WORD", re.compile(rb"([a-z]+)"))
    command.evaluate(EvalConfig(run=str(run_of_texts), device="cpu", probe="needle", longest=256, eval_tokens=256), [])
    rows = load_results(run_of_texts.parent).needle
    assert set(rows["task"]) == {"single", "several", "variable"}
    assert (rows["right"] <= 1).all()
    with pytest.raises(UserError, match="longest=1000000: is more than there is"):
        command.evaluate(EvalConfig(run=str(run_of_texts), device="cpu", probe="needle", longest=10**6), [])
