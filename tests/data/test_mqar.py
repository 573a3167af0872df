"""``data=mqar``: the sequences, their answers, bad keys, and a run that is trained and judged on answers only."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ttt.cli import eval as command
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.plan import check
from ttt.config.schema import ContextConfig, EvalConfig, TrainConfig
from ttt.config.sources import MQARConfig
from ttt.data.answers import Answers
from ttt.data.corpus import Corpus, load_corpus, verify
from ttt.data.mqar import draw
from ttt.data.vocabulary import decode, open_vocabulary
from ttt.data.windows import windows_within

Configure = Callable[..., TrainConfig]

CONFIG = MQARConfig(
    name="mqar", source="mqar", length=24, pairs=4, queries=3, vocab_size=22, examples=50, validation_fraction=0.2
)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return load_corpus(replace(CONFIG, cache_dir=str(tmp_path)), show_progress=False)


def test_every_answer_is_the_value_of_its_key_and_nothing_else_is_judged(corpus: Corpus) -> None:
    verify(corpus)
    windows = windows_within(corpus.splits["train"], 24)
    assert (len(windows), len(windows_within(corpus.splits["validation"], 24))) == (40, 10)
    assert not len(corpus.splits["test"])
    answers = windows.answers
    assert answers is not None
    ids_BS = windows.batch(range(40))
    marked, read = answers.marked(ids_BS), answers.inputs(ids_BS)
    for ids, right, inputs in zip(ids_BS.tolist(), marked.tolist(), read.tolist(), strict=True):
        value_of = dict(zip(ids[:8:2], ids[1:8:2], strict=True))
        asked = [place for place, key in enumerate(ids[8:-1], 8) if key in value_of]
        assert len(value_of) == 4
        assert len({ids[place] for place in asked}) == 3
        assert [place for place, is_answer in enumerate(right) if is_answer] == asked
        assert all(ids[place + 1] == value_of[ids[place]] for place in asked)
        # The model reads no answer, and everything else.
        hidden = {place + 1 for place in asked}
        assert [token for place, token in enumerate(inputs) if place not in hidden] == [
            token for place, token in enumerate(ids[:-1]) if place not in hidden
        ]
        assert {inputs[place] for place in hidden} <= {answers.hidden}
    text = decode(open_vocabulary(corpus.folder), ids_BS[0].numpy())
    assert text.startswith("k")
    assert "_" in text


def test_equal_keys_give_equal_sequences_and_a_seed_gives_others(corpus: Corpus, tmp_path: Path) -> None:
    again = load_corpus(replace(CONFIG, cache_dir=str(tmp_path / "again")), show_progress=False)
    other = load_corpus(replace(CONFIG, seed=1, cache_dir=str(tmp_path)), show_progress=False)
    assert corpus.digest == again.digest != other.digest


def test_with_a_small_power_queries_come_soon() -> None:
    """At power 1 every slot is alike; the first slots have more than their share at the default."""
    config = replace(CONFIG, length=80, pairs=2, queries=1)
    keys, values = np.arange(2, 12), np.arange(12, 22)
    shares = []
    for power in (1.0, 0.01):
        drawn = draw(np.random.default_rng(0), 4000, replace(config, power=power), keys, values)
        shares.append(float((drawn[:, 4:24] >= 0).any(axis=1).mean()))
    weights = np.arange(1, 39) ** -0.99
    assert shares == pytest.approx([10 / 38, weights[:10].sum() / weights.sum()], abs=0.03)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"pairs": 11}, "data.pairs=11: must be at most the number of keys, 10"),
        ({"queries": 5}, "data.queries=5: must be at most data.pairs=4: each key is asked once"),
        ({"length": 12}, "data.length=12: must be at least 14: two tokens for each of 4 pairs and 3 queries"),
        ({"length": 25}, "data.length=25: must be even: pairs and queries have two tokens"),
        ({"keys": 20}, "data.keys=20: must leave a key, a value and 2 other tokens in data.vocab_size"),
        ({"join": True}, "data.join=true: must be false: each sequence is read from its start"),
        ({"length": 26}, "data.length=26: must be the context length, ctx.length=24"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(configure: Configure, changes: dict[str, int], line: str) -> None:
    config = configure("ctx.length=24", "recipe.tokens_per_step=48")
    with pytest.raises(UserError) as error:
        check(replace(config, data=replace(CONFIG, **changes)))
    assert str(error.value) == line


def test_the_sequences_are_as_long_as_the_context(configure: Configure) -> None:
    data = configure("data=mqar", "ctx.length=24", "data.pairs=4").data
    assert isinstance(data, MQARConfig)
    assert data.length == 24


def test_losses_are_those_of_the_answers() -> None:
    """The first answer place of the window is not before ``after``, whatever the tokens."""
    answers = Answers(first=5, end=8, after=2, length=4, hidden=1)
    ids = torch.tensor([[3, 6, 4, 7, 0], [5, 5, 5, 5, 5]])
    assert answers.marked(ids).tolist() == [[False, False, True, False], [False, True, True, True]]
    assert answers.inputs(ids).tolist() == [[3, 6, 4, 1], [5, 5, 1, 1]]


@pytest.mark.slow
def test_a_run_stops_goes_on_learns_answers_and_is_asked_others(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [
        "data=mqar", "ctx.length=8", "data.pairs=2", "data.vocab_size=6", "data.examples=2000",
        "data.validation_fraction=0.1", "data.test_fraction=0", "data.eval_tokens=100000",
    ]  # fmt: skip
    recipe = ["recipe.tokens_per_step=512", "recipe.steps=150", "recipe.learning_rate=0.03", "trainer.eval_every=150"]
    run = tmp_path / "run"
    command_line = [*data, *recipe, "model=linear_attention", "backbone=mamba", f"run={run}"]
    train(configure(*command_line, "trainer.max_steps=75"), [])
    train(configure(*command_line, "ckpt=last"), [])
    record = json.loads((run / "record.json").read_text())
    found = record["results"]["validation"]
    # 200 sequences with 2 answers each; guessing one of the two values is right at least half of the time.
    assert (found["tokens"], found["sequences"]) == (400, 200)
    assert found["accuracy"] > 0.8
    assert found["bits_per_byte"] is None
    assert found["loss"] < math.log(2)
    assert "copy_first_loss" not in record["measurements"]
    assert record["measurements"]["state_size"] > 0
    assert f"{found['accuracy']:.1%} of the validation answers right" in capsys.readouterr().out
    other = replace(configure(*data).data, pairs=1, queries=1, cache_dir=str(tmp_path))
    command.evaluate(EvalConfig(run=str(run), device="cpu", data=other, ctx=ContextConfig(8)), [])
    assert "of the answers right" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"data.length=10: must be the context length, ctx.length=8"):
        command.evaluate(EvalConfig(run=str(run), device="cpu", data=replace(other, length=10)), [])
    with pytest.raises(UserError, match="probe=needle: needs text, and data=mqar has none"):
        command.evaluate(EvalConfig(run=str(run), device="cpu", probe="needle"), [])
