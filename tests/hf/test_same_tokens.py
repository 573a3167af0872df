"""The tokenizer of an exported run has the run's tokens in transformers, or the run is not exported."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from released_files import WORDS, imported, write_word_pieces
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils

import ttt
from ttt.cli.export import export
from ttt.config.errors import UserError
from ttt.config.exchange import ExportConfig
from ttt.data.tokenizer import save_tokenizer, train_tokenizer
from ttt.hf.export import tokenizer_files
from ttt.hf.same_tokens import check_same_tokens

LINES = ["the quick brown fox jumps over the lazy dog. naïve café Привет 12345 x = y(z)"] * 20

LLAMA = {"model_type": "bpe", "vocab_size": 340, "byte_fallback": True, "normalization_rule_name": "identity"}
LLAMA |= {"remove_extra_whitespaces": False}

KINDS: dict[str, dict[str, Any]] = {
    "Llama's": LLAMA,
    "without a blank ahead": LLAMA | {"add_dummy_prefix": False},
    "blanks behind words": LLAMA | {"treat_whitespace_as_suffix": True},
    "with symbols": LLAMA | {"user_defined_symbols": ["fox", "<sep>"], "control_symbols": ["<cls>"]},
    "that normalises": {"model_type": "unigram", "vocab_size": 80},
}
"""Kind of a sentencepiece model -> options of its training."""


def write_model(folder: Path, lines: list[str] = LINES, **options: Any) -> Path:
    """Train a model of sentencepiece and return its file."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, hard_vocab_limit=False, minloglevel=2, **options
    )
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    return folder / "tokenizer.model"


def checked(tokenizer: Path) -> None:
    check_same_tokens(tokenizer, tokenizer_files(tokenizer, ctx=8))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sentencepiece_has_its_own_tokens(tmp_path: Path, kind: str) -> None:
    tokenizer = write_model(tmp_path, **KINDS[kind])
    checked(tokenizer)
    # Made by transformers itself, it has others.
    files = tokenizer_files(tokenizer, ctx=8)
    config = json.loads(files["tokenizer_config.json"])
    del config["auto_map"]
    files["tokenizer_config.json"] = json.dumps(config | {"tokenizer_class": "LlamaTokenizer"}).encode()
    with pytest.raises(UserError, match=r"tokenizer.model: in transformers it gives (other tokens|another text) for "):
        check_same_tokens(tokenizer, files)


def byte_level(_: Path) -> Tokenizer:
    return train_tokenizer(LINES, 400)


def as_llama(folder: Path) -> Tokenizer:
    """Return Llama's tokenizer.json: pieces of sentencepiece, and a token before every text."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(write_model(folder / "model", **LLAMA)))
    pieces = {processor.id_to_piece(number): number for number in range(processor.vocab_size())}
    tokenizer = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True, dropout=0.5))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.enable_truncation(3)
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, as_llama], ids=lambda make: make.__name__)
def test_a_json_has_the_runs_tokens(tmp_path: Path, make: Callable[[Path], Tokenizer]) -> None:
    save_tokenizer(make(tmp_path), tmp_path / "tokenizer.json")
    checked(tmp_path / "tokenizer.json")


def test_a_json_of_words_with_their_blanks(tmp_path: Path) -> None:
    checked(write_word_pieces(tmp_path / "tokenizer.json"))


def test_one_that_transformers_cannot_decode_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    tokenizer.decoder = decoders.Fuse()
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    with pytest.raises(UserError) as caught:
        checked(tmp_path / "tokenizer.json")
    where = "in transformers it gives another text for the tokens of ' ' than in the run"
    line = f"tokenizer.json: {where}; export the run with out=FOLDER instead of hf=FOLDER"
    assert str(caught.value) == f"{tmp_path}/{line}"


@pytest.mark.slow
@pytest.mark.usefixtures("configure")
def test_a_run_of_sentencepiece_is_read_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    letters = "".join(map(chr, range(ord("A"), ord("A") + WORDS - 4)))
    tokenizer = write_model(tmp_path / "given", [letters], model_type="char")
    run = imported(tmp_path / "run", tokenizer=tokenizer)
    folder = tmp_path / "hf"
    export(ExportConfig(run=str(run), hf=str(folder)), [])
    text = " A BAD</s>  DAY?"
    own, tokens = ttt.load(run, device="cpu")
    for trusted in (None, True):
        read = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trusted)
        ids = read(text, return_tensors="pt").input_ids
        assert torch.equal(ids, tokens.encode(text))
        assert (model(ids).logits - own(ids)).abs().max() < 1e-6
        assert read.decode([*read("A DAY").input_ids, read.eos_token_id]) == "A DAY</s>"
    read.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again", trust_remote_code=True)(text).input_ids == ids[0].tolist()
