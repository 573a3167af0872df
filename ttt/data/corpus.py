"""A tokenised corpus with its splits: prepared on first use, memory-mapped afterwards."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.config.system import file_sha256
from ttt.data import files
from ttt.data.answers import Answers
from ttt.data.cache import prepared_folder, unpacked_folder
from ttt.data.documents import SPLITS
from ttt.data.manifest import MANIFEST, Manifest, NewerManifestError, read_manifest
from ttt.data.shards import TokenSequence, TokenShards
from ttt.data.sources import open_source
from ttt.data.sums import split_at_shards
from ttt.data.vocabulary import open_vocabulary


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of one split.

    Attributes:
        data: name of the corpus.
        split: ``train``, ``validation`` or ``test``.
        tokens: uint16 or uint32 [tokens], read from memory-mapped shards: all documents in order, each followed by the
            end-of-document token.
        offsets: int64 [documents + 1], memory-mapped; document d is ``tokens[offsets[d] : offsets[d + 1]]``.
        joined: read all documents as one stream (``data.join``); False: no window spans two documents.
        answers: the only tokens that are trained and judged; None: all are.
    """

    data: str
    split: str
    tokens: TokenSequence
    offsets: np.ndarray
    joined: bool = False
    answers: Answers | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, including its end-of-document token: int64 [documents]."""
        return np.diff(self.offsets)


@dataclass(frozen=True, eq=False)
class Corpus:
    """All splits of a corpus.

    Attributes:
        splits: documents of ``train``, ``validation`` and ``test``; each document is in exactly one of them.
        vocab_size: size of the tokenizer. A trained one is smaller than ``data.vocab_size`` if the texts yield no more
            tokens.
        digest: SHA-256 over tokens, offsets and tokenizer; corpora with the same digest are equal.
        folder: its folder in the cache.
        manifest: its settings, sources and files, see ``ttt.data.manifest``.
    """

    splits: dict[str, Documents]
    vocab_size: int
    digest: str
    folder: Path
    manifest: Manifest


def load_corpus(config: DataConfig, show_progress: bool = True) -> Corpus:
    """Return the corpus that ``config``, which was checked, describes; prepare it first if it is not in the cache.

    If several processes call this at once, one prepares the corpus and the others wait. Sizes of files and the SHA-256
    of offsets, sums and tokenizer are checked; a block of tokens is compared with its sum when it is first read.

    Raises:
        UserError: the source is unknown or cannot be read, or the cache cannot be written or is damaged.
    """
    if config.packed is not None:
        folder = unpacked_folder(config, show_progress)
    else:
        folder = prepared_folder(open_source(config), show_progress)
    return open_corpus(folder, config.name, config.join)


def open_corpus(folder: Path, data: str, joined: bool) -> Corpus:
    """Return the corpus in the folder ``folder`` of a cache.

    Args:
        folder: its folder.
        data: its name.
        joined: read all documents of a split as one stream (``data.join``).

    Raises:
        UserError: it is damaged, or a newer version of the suite prepared it.
    """
    try:
        return _open(folder, data, joined)
    except NewerManifestError as error:
        raise UserError(f"{folder / MANIFEST}: {error}; install a newer one, or delete this folder") from error
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder}: damaged ({error}); delete this folder and start again") from error


def verify(corpus: Corpus) -> None:
    """Read every file of a corpus and compare it with the manifest.

    Raises:
        UserError: a file has changed since it was written.
    """
    for name, written in corpus.manifest["files"].items():
        path = corpus.folder / name
        found = file_sha256(path)
        if found != written["sha256"]:
            differs = f"its SHA-256 {found[:12]} is not the {written['sha256'][:12]} of the manifest"
            raise UserError(f"{path}: damaged ({differs}); delete its folder and prepare it again")


def _open(folder: Path, data: str, joined: bool) -> Corpus:
    manifest = read_manifest(folder)
    for file, written in manifest["files"].items():
        if (folder / file).is_symlink() and not (folder / file).exists():
            gone = f"{(folder / file).readlink()}: is gone, and data={data} reads it"
            raise UserError(f"{gone}; restore it, or name its new place with data.path")
        size = (folder / file).stat().st_size
        if size != written["bytes"]:
            raise ValueError(f"{file} has {size} bytes, not the {written['bytes']} of its manifest")
    tokenizer = manifest["tokenizer"]
    for file in [tokenizer, *map(files.offsets_name, SPLITS), *map(files.sums_name, SPLITS)]:
        if file_sha256(folder / file) == manifest["files"][file]["sha256"]:
            continue
        if file != tokenizer:
            raise ValueError(f"{file} has changed since it was written")
        found, expected = open_vocabulary(folder).size, manifest["vocab_size"]
        raise ValueError(f"{tokenizer} of {found} tokens is not the one of the shards, of {expected}")
    answers = Answers.of_manifest(manifest.get("answers"))
    splits = {split: Documents(data, split, *_tokens(folder, split, manifest), joined, answers) for split in SPLITS}
    return Corpus(splits, manifest["vocab_size"], manifest["digest"], folder, manifest)


def _tokens(folder: Path, split: str, manifest: Manifest) -> tuple[TokenShards, np.ndarray]:
    """Return the tokens of a split and the offsets of its documents."""
    sizes = manifest["splits"][split]
    paths = [folder / shard["file"] for shard in sizes["shards"]]
    lengths, dtype = [shard["tokens"] for shard in sizes["shards"]], np.dtype(manifest["dtype"])
    sums = np.load(folder / files.sums_name(split), allow_pickle=False)
    tokens = TokenShards(paths, lengths, dtype, split_at_shards(sums, [length * dtype.itemsize for length in lengths]))
    offsets = files.read_offsets(folder, split)
    if (len(offsets) - 1, offsets[-1], len(tokens)) != (sizes["documents"], sizes["tokens"], sizes["tokens"]):
        raise ValueError(f"{files.offsets_name(split)} does not fit its manifest")
    return tokens, offsets
