"""``tokenizer.json`` files as people have them."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers

from ttt.config.schema import DataConfig
from ttt.data.corpus import load_corpus
from ttt.data.tokenizer import train_tokenizer
from ttt.data.vocabulary import decode, dtype_of, open_vocabulary, tokenizer_version

TEXTS = ["def forward(self, x):\n    return self.norm(x)\n", "a  b\n\n        c\t\t", "été 漢字 Ġword"]


def trained() -> Tokenizer:
    return train_tokenizer(TEXTS * 20, 300)


def saved(tokenizer: Tokenizer, folder: Path, **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    content = json.loads(tokenizer.to_str())
    content["model"].update({key: settings.pop(key) for key in list(settings) if key in content["model"]})
    (folder / "tokenizer.json").write_text(json.dumps(content | settings), encoding="utf-8")
    return folder / "tokenizer.json"


def padded(tokenizer: Tokenizer) -> None:
    tokenizer.enable_padding(length=40)


def truncated(tokenizer: Tokenizer) -> None:
    tokenizer.enable_truncation(3)


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()])
@pytest.mark.parametrize("change", [padded, truncated])
def test_stored_padding_and_truncation_have_no_effect(tmp_path: Path, normalizer: object, change: object) -> None:
    tokenizer = trained()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    plain = open_vocabulary(saved(tokenizer, tmp_path / "plain").parent).encode(TEXTS)
    change(tokenizer)  # type: ignore[operator]
    for expected, actual in zip(
        plain, open_vocabulary(saved(tokenizer, tmp_path / "set").parent).encode(TEXTS), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


def test_stored_dropout_has_no_effect(tmp_path: Path) -> None:
    plain = open_vocabulary(saved(trained(), tmp_path / "plain").parent)
    random = open_vocabulary(saved(trained(), tmp_path / "random", dropout=0.9).parent)
    assert [list(ids) for ids in random.encode(TEXTS)] == [list(ids) for ids in plain.encode(TEXTS)]


def test_added_white_space_is_decoded(tmp_path: Path) -> None:
    tokenizer = trained()
    added = [" " * number for number in range(24, 0, -1)] + ["\t\t", "éé", "Ġxq", "<0x41>", "▁"]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    vocabulary = open_vocabulary(saved(tokenizer, tmp_path).parent)
    for text in [*TEXTS, *added]:
        (ids,) = vocabulary.encode([text])
        assert decode(vocabulary, ids[:-1]) == text
    assert [vocabulary.bytes_of(tokenizer.token_to_id(text)) for text in added] == [text.encode() for text in added]


def test_byte_level_without_a_decoder_or_in_a_sequence(tmp_path: Path) -> None:
    for number, decoder in enumerate([None, decoders.Sequence([decoders.ByteLevel()])]):
        content = json.loads(trained().to_str())
        content["decoder"] = json.loads(decoder.__getstate__()) if decoder else None
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "tokenizer.json").write_text(json.dumps(content))
        vocabulary = open_vocabulary(tmp_path / str(number))
        assert [decode(vocabulary, ids[:-1]) for ids in vocabulary.encode(TEXTS)] == TEXTS


def test_size_and_width_follow_from_the_largest_id(tmp_path: Path) -> None:
    content = json.loads(trained().to_str())
    last = max(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    content["model"]["vocab"][last] = 70_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    vocabulary = open_vocabulary(tmp_path)
    assert vocabulary.size == 70_001
    assert dtype_of(vocabulary) == np.uint32
    (ids,) = vocabulary.encode([vocabulary.bytes_of(70_000).decode()])
    assert ids.tolist() == [70_000, vocabulary.end]
    assert vocabulary.bytes_of(60_000) == b""


def test_a_corpus_of_an_earlier_version_is_not_used(tmp_path: Path) -> None:
    plain = saved(trained(), tmp_path / "plain")
    ((name, version),) = tokenizer_version(plain).items()
    assert (name, len(version)) == ("tokenizer.json", 64)
    tokenizer = trained()
    padded(tokenizer)
    assert tokenizer_version(saved(tokenizer, tmp_path / "padded"))[name].endswith(" without padding")


def test_a_corpus_with_padding_has_the_tokens_of_one_without(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number}.txt").write_text(text, encoding="utf-8")
    tokenizer, tokens = trained(), []
    for name, change in {"plain": None, "padded": padded, "truncated": truncated}.items():
        if change:
            change(tokenizer)
        config = DataConfig("mine", "local", path=str(tmp_path / "texts"), cache_dir=str(tmp_path / "cache"))
        config.tokenizer = str(saved(tokenizer, tmp_path / name))
        tokens.append(load_corpus(config, show_progress=False).splits["train"].tokens[:].tolist())
        tokenizer.no_padding()
    assert tokens[0] == tokens[1] == tokens[2]
