"""Generation: the choice of tokens, and their text."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ttt.config.schema import TrainConfig
from ttt.data.tokenizer import END_OF_DOCUMENT, save_tokenizer, train_tokenizer
from ttt.data.vocabulary import JSON
from ttt.evaluate import generate as module
from ttt.evaluate.generate import Sampling, Speed, choose, continuation, generate_text
from ttt.evaluate.together import continue_together
from ttt.models.build import build_model
from ttt.models.language_model import LanguageModel

V, PROMPT, TOKENS = 50, [3, 1, 4, 1, 5], 40
Write = Callable[..., tuple[list[str], list[int], Speed]]
GREEDY = Sampling(temperature=0, top_k=None, seed=0)


@pytest.fixture(params=["ttt_linear", "ttt_mlp", "linear_attention", "transformer", "mamba"])
def model(request: pytest.FixtureRequest, configure: Callable[..., TrainConfig]) -> LanguageModel:
    config = configure(f"model={request.param}", "size.init_std=0.3")
    torch.manual_seed(0)
    return build_model(config.model, config.size, config.backbone, config.kernel, V).double()


def written(model: LanguageModel, sampling: Sampling) -> list[int]:
    return list(islice(continuation(model, PROMPT, sampling), TOKENS))


def test_greedy_tokens_are_the_likeliest_of_a_whole_forward_pass(model: LanguageModel) -> None:
    ids = PROMPT + written(model, GREEDY)
    with torch.no_grad():
        likeliest = model(torch.tensor([ids]))[0].argmax(-1).tolist()
    assert ids[len(PROMPT) :] == likeliest[len(PROMPT) - 1 : -1]


def test_a_prompt_in_chunks_gives_the_same_tokens(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = written(model, GREEDY)
    monkeypatch.setattr(module, "READ_CHUNK", 2)
    assert written(model, GREEDY) == expected


@pytest.mark.parametrize("device_tokens", [1, 1000])
def test_prompts_together_have_the_tokens_of_each_alone(model: LanguageModel, device_tokens: int) -> None:
    """Prompts and answers have different lengths, and one answer is sampled."""
    prompts = [[7], PROMPT, PROMPT[::-1], [*range(V)], [2] * 11]
    samplings = [GREEDY, GREEDY, Sampling(1.0, top_k=3, seed=5), GREEDY, GREEDY]
    wanted = [20, 3, 9, 1, 17]
    found: list[list[int]] = [[] for _ in prompts]

    def accept(row: int, token: int) -> bool:
        found[row].append(token)
        return len(found[row]) < wanted[row]

    accepts = [partial(accept, row) for row in range(len(prompts))]
    continue_together(model, prompts, samplings, accepts, device_tokens)
    for tokens, prompt, sampling, count in zip(found, prompts, samplings, wanted, strict=True):
        assert tokens == list(islice(continuation(model, prompt, sampling), count))


def test_a_seed_determines_the_samples(model: LanguageModel) -> None:
    first, again, other = (written(model, Sampling(1.0, top_k=None, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("sampling", [Sampling(1.0, top_k=1, seed=0), Sampling(1e-320, top_k=None, seed=0)])
def test_the_coldest_draw_is_the_likeliest(sampling: Sampling) -> None:
    logits = torch.tensor([1.0, 3.0, 2.999])
    assert choose(logits, sampling, torch.Generator()) == choose(logits, GREEDY, torch.Generator()) == 1


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, 100), (2.0, 3)])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float, top_k: int | None) -> None:
    logits, generator = torch.tensor([0.5, -1.0, 1.5, 0.0]), torch.Generator().manual_seed(0)
    drawn = [choose(logits, Sampling(temperature, top_k, 0), generator) for _ in range(4000)]
    expected = (logits / temperature).softmax(0)
    if top_k == 3:
        expected[1] = 0
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / len(drawn)
    torch.testing.assert_close(shares, expected / expected.sum(), rtol=0, atol=0.03)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return the shown texts, the prompt's tokens and the speed, for a model that generates given tokens."""
    tokenizer = train_tokenizer(["def forward(self):\n"] * 20, 280)
    save_tokenizer(tokenizer, tmp_path / JSON)
    run: Any = SimpleNamespace(tokenizer=lambda: tmp_path / "tokenizer.json", model=None)

    def written(prompt: str, text: str, tokens: int = 100) -> tuple[list[str], list[int], Speed]:
        shown: list[str] = []
        read: list[int] = []

        def given_tokens(_: object, ids: Sequence[int], __: object) -> Iterator[int]:
            read.extend(ids)
            yield from tokenizer.encode(text).ids
            yield tokenizer.token_to_id(END_OF_DOCUMENT)
            raise AssertionError("no token is requested after the end of the document")

        monkeypatch.setattr(module, "continuation", given_tokens)
        speed = generate_text(run, prompt, tokens, GREEDY, shown.append)
        return shown, read, speed

    return written


def test_characters_come_out_whole(write: Write) -> None:
    shown, _, speed = write("def", "né 漢字 \N{GRINNING FACE} def")
    assert "".join(shown) == "né 漢字 \N{GRINNING FACE} def"
    assert {"é", "漢", "\N{GRINNING FACE}"} <= set(shown)
    assert speed.written == len(shown)  # the end-of-document token counts, and the rest of the text is shown after it


def test_a_character_that_is_cut_off_is_shown_as_such(
    write: Write,
) -> None:
    assert write("", "漢", tokens=2)[0] == ["", "", "\N{REPLACEMENT CHARACTER}"]


def test_an_empty_prompt_is_the_start_of_a_document(
    write: Write,
) -> None:
    assert len(write("", "x")[1]) == 1
    assert write("def", "x")[1] != write("", "x")[1]


def test_the_number_of_tokens_is_limited(write: Write) -> None:
    shown, _, speed = write("", "a" * 50, tokens=3)
    assert "".join(shown) == "aaa"
    assert speed.written == 3


def test_speeds_are_tokens_per_second() -> None:
    assert str(Speed(10, 0.5, 101, 2.0)) == "prefill: 10 tokens, 20 tokens/s; decode: 101 tokens, 50 tokens/s"
    assert str(Speed(10, 0.5, 1, 0.0)) == "prefill: 10 tokens, 20 tokens/s"
