"""Token files that were prepared elsewhere, in the format of the authors' code; read where they are, not copied.

A file has the ids of one split, all documents one after another, each ended by the tokenizer's end-of-document token
(ttt-lm-jax, ``language_modeling_hf.py``). ``.npy`` is a one-dimensional numpy array, the form that the authors' code
keeps; ``.bin`` has the ids alone, the form of its ``train.bin`` while it is written. Ids are uint16 for a tokenizer of
at most 65,536 tokens, such as Llama-2's, else int32 or uint32. The ``tokenizer.pkl`` beside them is never read, because
unpickling runs code.
"""

import os
import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ttt.config.errors import UserError, bad_value, first_line
from ttt.config.progress import progress_bar
from ttt.config.schema import DataConfig
from ttt.config.system import file_sha256, user_path
from ttt.data import files
from ttt.data.manifest import Manifest, write_manifest
from ttt.data.sources import TokenSource, register_source
from ttt.data.sums import block_sums
from ttt.data.vocabulary import Vocabulary, check_tokenizer, dtype_of, open_users

NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
"""Split -> names of its file without ending."""

ENDINGS = (".npy", ".bin")

LOOKED_AT = 2**13
"""Ids at the start of a raw file from which its width is recognised."""


@register_source("tokens")
class Tokens(TokenSource[DataConfig]):
    """The token files of ``data.path``, a folder or the training file in it, with the tokenizer ``data.tokenizer``.

    A test file may be missing. The prepared corpus links to the files and has their sums, so that a change is noticed.
    """

    def versions(self) -> dict[str, str]:
        """Return the name, size and modification time of every file.

        Raises:
            UserError: there is no training or validation file or no tokenizer, or ``data.max_tokens`` is set.
        """
        if self.config.max_tokens is not None:
            raise bad_value("data.max_tokens", self.config.max_tokens, "is for texts; data=tokens reads whole files")
        if self.config.tokenizer is None:
            allowed = "give the tokenizer that made the tokens; the authors' is Llama-2's tokenizer.model"
            raise bad_value("data.tokenizer", None, allowed)
        found = {split: (path.name, path.stat()) for split, path in token_files(self.config).items()}
        return {split: f"{name}, {stat.st_size}, {stat.st_mtime_ns}" for split, (name, stat) in found.items()}

    def write(self, description: Manifest, folder: Path, show_progress: bool) -> None:
        """Write the corpus; see ``TokenSource``.

        Raises:
            UserError: a file is not in the format, or has tokens that the tokenizer lacks.
        """
        build = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True)
        try:
            path = user_path(str(self.config.tokenizer))
            tokenizer = build / check_tokenizer(path)
            shutil.copyfile(path, tokenizer)
            vocabulary = open_users(path, build)
            manifest = write_files(token_files(self.config), vocabulary, build, show_progress)
            sha256 = file_sha256(tokenizer)
            manifest["files"][tokenizer.name] = {"bytes": tokenizer.stat().st_size, "sha256": sha256}
            manifest |= {"tokenizer": tokenizer.name, "tokenizer_sha256": sha256, "vocab_size": vocabulary.size}
            write_manifest(build, description | manifest)
            self.link(build)
            build.replace(folder)
        finally:
            shutil.rmtree(build, ignore_errors=True)

    def link(self, folder: Path) -> None:
        """Let the links of a corpus point to the files of ``data.path``."""
        for split, path in token_files(self.config).items():
            link = folder / _shard(split, path)
            if not (link.is_symlink() and link.readlink() == path):
                new = link.with_name(f"{link.name}.{os.getpid()}")
                new.symlink_to(path)
                new.replace(link)


def token_files(config: DataConfig) -> dict[str, Path]:
    """Return the absolute path of each split's file; ``test`` may be missing.

    Raises:
        UserError: ``data.path`` is missing, has no training or no validation file, or one cannot be read.
    """
    if not config.path:
        raise bad_value("data.path", config.path, "give the folder of train.npy or train.bin")
    path = user_path(config.path).absolute()
    if not path.exists():
        raise bad_value("data.path", config.path, "does not exist")
    folder = path if path.is_dir() else path.parent
    found = {split: file for split in NAMES if (file := _file_of(folder, split)) is not None}
    if path.is_file():
        found["train"] = path
    for split in ("train", "validation"):
        if split not in found:
            below = next((file for name in NAMES[split] for file in sorted(folder.rglob(f"{name}.npy"))), None)
            advice = f"there is one in {below.parent}" if below else "docs/data.md describes the format"
            wanted = " or ".join(f"{name}{ending}" for name in NAMES[split] for ending in ENDINGS)
            raise bad_value("data.path", config.path, f"has no {wanted} for {split}; {advice}")
    for file in found.values():
        try:
            file.open("rb").close()
        except OSError as error:
            raise bad_value("data.path", file, f"cannot be read ({error.strerror})") from error
    return found


def _file_of(folder: Path, split: str) -> Path | None:
    paths = (folder / f"{name}{ending}" for name in NAMES[split] for ending in ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def _shard(split: str, path: Path) -> str:
    return Path(files.shard_name(split, 0)).with_suffix(path.suffix).name


def write_files(paths: dict[str, Path], vocabulary: Vocabulary, build: Path, show_progress: bool) -> Manifest:
    """Write offsets and sums of every split; return the entries of the manifest that describe them."""
    opened = {split: open_tokens(path, vocabulary) for split, path in paths.items()}
    dtype = opened["train"].dtype
    lengths = np.array([len(vocabulary.bytes_of(token)) for token in range(vocabulary.size)])
    splits, described = {}, {}
    for split in NAMES:
        tokens, path = opened.setdefault(split, np.zeros(0, dtype)), paths.get(split)
        if tokens.dtype != dtype:
            raise UserError(f"{path}: has {tokens.dtype} tokens, {paths['train'].name} has {dtype}")
        with progress_bar(total=len(tokens), desc=split, unit=" tokens", unit_scale=True, show=show_progress) as bar:
            offsets, size = _documents(tokens, vocabulary, lengths, path, bar)
        offsets_file, sums_file = build / files.offsets_name(split), build / files.sums_name(split)
        files.write_array(offsets_file, offsets)
        sums = block_sums(path, tokens.nbytes) if path else np.zeros(0, np.uint32)
        files.write_array(sums_file, sums)
        shards = {_shard(split, path): path} if path else {}
        shard_entries = [{"file": name, "tokens": len(tokens)} for name in shards]
        sizes = {"documents": len(offsets) - 1, "tokens": len(tokens), "bytes": size}
        splits[split] = {**sizes, "shards": shard_entries}
        for name, file in {**shards, offsets_file.name: offsets_file, sums_file.name: sums_file}.items():
            described[name] = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
    digest = files.digest_of_tokens(build, {split: [opened[split]] for split in NAMES}, dtype)
    return {"dtype": dtype.name, "splits": splits, "files": described, "digest": digest}


def open_tokens(path: Path, vocabulary: Vocabulary) -> np.ndarray:
    """Return the ids of a file, memory-mapped: uint16 or uint32 [tokens].

    Raises:
        UserError: it is not a file of token ids.
    """
    usual = dtype_of(vocabulary)
    try:
        if path.suffix == ".npy":
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            width = {"<u2": np.uint16, "<i4": np.uint32, "<u4": np.uint32}.get(found.dtype.str)
            if found.ndim != 1 or width is None:
                raise ValueError(f"a {found.ndim}-dimensional array of {found.dtype}")
            return found.view(width)
        if path.stat().st_size % usual.itemsize:
            raise ValueError(f"its size is not a multiple of {usual.itemsize} bytes")
        found = np.memmap(path, usual, "r")
        # As 16-bit ids, 32-bit ids of a small vocabulary are every other one 0.
        wide = usual == np.uint16 and len(found) > 2 and not found[1:LOOKED_AT:2].any()
        return np.memmap(path, np.uint32, "r") if wide else found
    except (ValueError, EOFError) as error:
        allowed = "a one-dimensional array of uint16, int32 or uint32 (.npy), or such ids alone (.bin)"
        raise UserError(f"{path}: is no file of token ids ({first_line(error)}); give {allowed}") from error


def _documents(
    tokens: np.ndarray, vocabulary: Vocabulary, lengths: np.ndarray, path: Path | None, bar: tqdm
) -> tuple[np.ndarray, int]:
    """Return the offsets of the documents, int64 [documents + 1], and the bytes of their text.

    Raises:
        UserError: a token that the tokenizer lacks.
    """
    ends, size, start = [np.zeros(1, np.int64)], 0, 0
    for block in files.blocks(tokens):
        if (highest := int(block.max())) >= vocabulary.size:
            allowed = f"give the tokenizer that made it; the given one has {vocabulary.size} tokens"
            raise UserError(f"{path}: has the token {highest}; {allowed} (data.tokenizer)")
        ends.append(start + np.flatnonzero(block == vocabulary.end) + 1)
        size += int(np.bincount(block, minlength=vocabulary.size) @ lengths)
        start += len(block)
        bar.update(len(block))
    found = np.concatenate(ends)
    return (found if found[-1] == start else np.append(found, start)), size
