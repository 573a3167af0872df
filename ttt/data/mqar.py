"""Multi-query associative recall: sequences of keys and values, then keys whose values must be recalled.

As in zoology (Arora et al. 2023, arXiv 2312.04927, ``zoology/data/multiquery_ar.py``)::

    k7 v3 k2 v9 | k2 v9 _ _ k7 v3 _ _

The value after a queried key is an answer, and only answers are trained and judged. The model reads a blank in place of
each answer: from the answers before it and the values at the start, the last answer would follow without its key.

Shapes: N sequences, T tokens of a sequence, P pairs, Q queries, G slots of two tokens after the pairs.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from ttt.config.errors import bad_value
from ttt.config.sources import SPECIAL, MQARConfig
from ttt.config.system import file_sha256, user_path
from ttt.data import files
from ttt.data.answers import Answers
from ttt.data.manifest import Manifest, write_manifest
from ttt.data.sources import TokenSource, register_source
from ttt.data.tokenizer import END_OF_DOCUMENT, load_tokenizer, save_tokenizer
from ttt.data.tokens import write_files
from ttt.data.vocabulary import JSON, check_tokenizer, open_users

BLANK = "_"

AT_ONCE = 4096
"""Sequences that are drawn together."""


@register_source("mqar", schema=MQARConfig)
class MQAR(TokenSource[MQARConfig]):
    """Sequences that are drawn from ``data.seed``; no file is read.

    The tokens are keys ``k0``, ``k1`` ..., values ``v0``, ``v1`` ..., and ``_`` between queries. With
    ``data.tokenizer``, that of a run, the keys and values are its own.
    """

    def versions(self) -> dict[str, str]:
        """Return the version of the drawing; raise it when the same keys give other sequences."""
        return {"mqar": "1"}

    def write(self, description: Manifest, folder: Path, show_progress: bool) -> None:
        """Write the corpus; see ``TokenSource``.

        Raises:
            UserError: the tokenizer has too few keys or no values.
        """
        build = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True)
        try:
            key_ids, value_ids, blank = self._tokenizer(build)
            paths = {split: build / files.shard_name(split, 0) for split, count in self._counts().items() if count}
            vocabulary = open_users(build / JSON, build)
            for number, split in enumerate(paths):
                drawn = self._sequences(self._counts()[split], number, key_ids, value_ids)
                sequences = np.concatenate([np.where(part < 0, blank, part) for part in drawn])
                ends = np.full((len(sequences), 1), vocabulary.end)
                files.write_array(paths[split], np.concatenate([sequences, ends], axis=1).ravel().astype(np.uint16))
            manifest = write_files(paths, vocabulary, build, show_progress)
            sha256 = file_sha256(build / JSON)
            manifest["files"][JSON] = {"bytes": (build / JSON).stat().st_size, "sha256": sha256}
            manifest |= {"tokenizer": JSON, "tokenizer_sha256": sha256, "vocab_size": vocabulary.size}
            config = self.config
            answers = Answers(int(value_ids[0]), int(value_ids[-1]) + 1, 2 * config.pairs, config.length, blank)
            write_manifest(build, description | manifest | {"answers": asdict(answers)})
            build.replace(folder)
        finally:
            shutil.rmtree(build, ignore_errors=True)

    def link(self, folder: Path) -> None:
        """Do nothing: the corpus has no files elsewhere."""

    def _tokenizer(self, build: Path) -> tuple[np.ndarray, np.ndarray, int]:
        """Write the tokenizer into the folder; return the ids of keys and of values, int64, and of the blank."""
        config = self.config
        if config.tokenizer is None:
            tokenizer = make_tokenizer(config.key_tokens, config.vocab_size - SPECIAL - config.key_tokens)
            save_tokenizer(tokenizer, build / JSON)
        else:
            path = user_path(config.tokenizer)
            if check_tokenizer(path) != JSON:
                raise bad_value("data.tokenizer", path, "is of text; give the tokenizer.json of a run on data=mqar")
            shutil.copyfile(path, build / JSON)
            open_users(path, build)
        tokenizer = load_tokenizer(build / JSON)
        key_ids, value_ids = (_numbered(tokenizer, letter) for letter in "kv")
        blank = tokenizer.token_to_id(BLANK)
        if len(key_ids) < config.pairs or not len(value_ids) or blank is None:
            allowed = f"has {len(key_ids)} keys of {config.pairs} pairs; give the tokenizer of a run on data=mqar"
            raise bad_value("data.tokenizer", config.tokenizer, allowed)
        return key_ids, value_ids, blank

    def _counts(self) -> dict[str, int]:
        """Return the number of sequences of each split."""
        config = self.config
        judged = {
            split: round(config.examples * fraction)
            for split, fraction in (("validation", config.validation_fraction), ("test", config.test_fraction))
        }
        return {"train": config.examples - sum(judged.values())} | judged

    def _sequences(self, count: int, split: int, key_ids: np.ndarray, value_ids: np.ndarray) -> Iterator[np.ndarray]:
        for number, first in enumerate(range(0, count, AT_ONCE)):
            generator = np.random.default_rng([self.config.seed, split, number])
            yield draw(generator, min(AT_ONCE, count - first), self.config, key_ids, value_ids)


def draw(
    generator: np.random.Generator, N: int, config: MQARConfig, key_ids: np.ndarray, value_ids: np.ndarray
) -> np.ndarray:
    """Return sequences, int64 [N, T], with -1 for blanks.

    Args:
        generator: of all choices.
        N: the number of sequences.
        config: pairs P, queries Q, length T and ``power``.
        key_ids: int64 [keys], from which each sequence takes P different ones.
        value_ids: int64 [values], from which a value is drawn for each key.
    """
    P, Q, T = config.pairs, config.asked, config.length
    keys_NP = key_ids[_distinct(generator, np.zeros((N, len(key_ids))), P)]
    values_NP = value_ids[generator.integers(len(value_ids), size=(N, P))]
    pairs_NP2 = np.stack([keys_NP, values_NP], axis=-1)
    G = T // 2 - P
    log_weights = np.tile((config.power - 1) * np.log(np.arange(1, G + 1)), (N, 1))
    slots_NQ = _distinct(generator, log_weights, Q)
    asked_NQ = _distinct(generator, np.zeros((N, P)), Q)
    rest_NG2 = np.full((N, G, 2), -1)
    rows = np.arange(N)[:, None]
    rest_NG2[rows, slots_NQ] = pairs_NP2[rows, asked_NQ]
    return np.concatenate([pairs_NP2, rest_NG2], axis=1).reshape(N, T)


def _distinct(generator: np.random.Generator, log_weights_NM: np.ndarray, n: int) -> np.ndarray:
    """Draw ``n`` of M without replacement in every row, one after another by weight: int64 [N, n].

    The largest of log weights plus Gumbel noise are such a draw (Efraimidis and Spirakis 2006).
    """
    noisy = log_weights_NM + generator.gumbel(size=log_weights_NM.shape)
    return np.argsort(-noisy, axis=1, kind="stable")[:, :n]


def make_tokenizer(keys: int, values: int) -> Tokenizer:
    """Return a tokenizer of words: the end of a sequence, the blank, keys ``k0`` ... and values ``v0`` ..."""
    words = [END_OF_DOCUMENT, BLANK, *(f"k{n}" for n in range(keys)), *(f"v{n}" for n in range(values))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=BLANK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _numbered(tokenizer: Tokenizer, letter: str) -> np.ndarray:
    """Return the ids of the tokens ``<letter><number>``, in the order of their ids: int64."""
    words = tokenizer.get_vocab().items()
    return np.array(sorted(number for word, number in words if word[0] == letter and word[1:].isdecimal()), np.int64)
