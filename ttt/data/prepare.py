"""Preparation of a corpus: all or nothing, resumed where a killed preparation stopped.

A source is read once, in batches that several processes tokenise into partial shards. From all partial shards follows
the order of the documents, and the final shards are gathered from them. Both are built in a temporary folder and
renamed when they are complete, so that their content depends neither on the number of processes nor on a kill.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ttt.config.errors import UserError, bad_value
from ttt.config.progress import progress_bar
from ttt.config.schema import DataConfig
from ttt.config.system import file_sha256, renamed_at_the_end, user_path
from ttt.data import files
from ttt.data.documents import SPLITS, Selection
from ttt.data.manifest import MANIFEST, Manifest, write_manifest
from ttt.data.order import Places, order_documents
from ttt.data.partial_shards import PartialShard, batches_of_text, read_entries, write_partial_shard
from ttt.data.shards import ShardPlan, list_of, shard_bounds, write_shard
from ttt.data.sources import Document, Source, UnreachableError
from ttt.data.stretches import STRETCHES, provide_stretches, with_stretches
from ttt.data.sums import block_sums
from ttt.data.tokenizer import SAMPLE_CHARS, save_tokenizer, train_tokenizer
from ttt.data.vocabulary import JSON, check_tokenizer, dtype_of, open_users, open_vocabulary, tokenizer_file
from ttt.data.workers import parallel_map


@dataclass(frozen=True)
class BuildDir:
    """The temporary folder in which a corpus is built: its files, and partial shards.

    Attributes:
        folder: the path; renamed to the corpus's folder at the end.
    """

    folder: Path

    @property
    def partial_shards(self) -> Path:
        """The folder of partial shards, deleted at the end."""
        return self.folder / "partial_shards"

    @property
    def counted(self) -> Path:
        """A file with the number of partial shards, written when the whole source has been read."""
        return self.partial_shards / "all.json"

    def partial_shard(self, number: int) -> Path:
        """Return the folder of a partial shard."""
        return self.partial_shards / f"{number:06}"


@dataclass(frozen=True)
class Preparation:
    """The preparation of one corpus.

    Attributes:
        source: the texts, with their configuration.
        selection: the choice of its documents.
        build: the temporary folder.
        show_progress: show progress bars.
    """

    source: Source[DataConfig]
    selection: Selection
    build: BuildDir
    show_progress: bool

    def run(self, description: Manifest) -> None:
        """Read, tokenise and write the corpus into the temporary folder; the manifest is written last."""
        folder = self.build.folder
        self.build.partial_shards.mkdir(parents=True, exist_ok=True)
        stretches = provide_stretches(self.source.documents, self.selection, folder, self.show_progress)
        max_tokens = self.selection.max_tokens
        if stretches and max_tokens is not None:
            why = "the source has too few documents to read only some of them; give fewer or shorter texts"
            raise bad_value("data.max_tokens", max_tokens, why)
        documents = partial(self._documents, bool(stretches))
        self._provide_tokenizer(documents)
        self._tokenise(documents)
        splits = self._shards()
        _describe(folder, description | ({"stretches": stretches} if stretches else {}), splits, self.show_progress)

    def _documents(self, stretched: bool) -> Iterator[Document]:
        documents = self.source.documents()
        return with_stretches(documents, self.selection) if stretched else documents

    def _provide_tokenizer(self, documents: Callable[[], Iterator[Document]]) -> None:
        """Put the user's tokenizer, or one trained on the source, into the folder."""
        folder, config = self.build.folder, self.source.config
        if config.tokenizer is not None:
            path = user_path(config.tokenizer)
            with renamed_at_the_end(folder / check_tokenizer(path)) as copy:
                shutil.copyfile(path, copy)
            open_users(path, folder)
        elif not tokenizer_file(folder).exists():
            read = progress_bar(documents(), desc="reading", unit=" documents", show=self.show_progress)
            sample = self.selection.training_sample(read, SAMPLE_CHARS)
            texts = progress_bar(sample, desc="training tokenizer", unit=" documents", show=self.show_progress)
            with renamed_at_the_end(folder / JSON) as written:
                save_tokenizer(train_tokenizer(texts, config.vocab_size), written)

    def _tokenise(self, documents: Callable[[], Iterator[Document]]) -> None:
        """Write the missing partial shards."""
        build = self.build
        if build.counted.exists():
            return
        total, shown = self.source.text_bytes(), self.show_progress
        with progress_bar(total=total, desc="tokenising", unit="B", unit_scale=True, show=shown) as progress:
            batches = batches_of_text(_counted(documents(), progress))
            number = 0
            enough = _enough(self.selection.max_tokens, build)

            def missing() -> Iterator[PartialShard]:
                nonlocal number
                for batch in batches:
                    folder = build.partial_shard(number)
                    number += 1
                    if not folder.exists():
                        yield PartialShard(batch, folder, build.folder, self.selection)
                    if enough(number):
                        return

            for _ in parallel_map(write_partial_shard, missing(), self.source.config.workers):
                pass
        with renamed_at_the_end(build.counted) as counted:
            counted.write_text(json.dumps(number), encoding="utf-8")

    def _shards(self) -> dict[str, Places]:
        """Write the missing shards; return the documents of each split."""
        build = self.build
        number = json.loads(build.counted.read_text(encoding="utf-8"))
        partial_shards = [build.partial_shard(index) for index in range(number)]
        splits = order_documents(partial_shards, self.selection)
        if not len(splits["train"]):
            raise self.selection.no_training_document()
        dtype = dtype_of(open_vocabulary(build.folder))
        plans = []
        for split, places in splits.items():
            bounds = shard_bounds(places.entries["tokens"])
            for number, (first, end) in enumerate(pairwise(bounds)):
                path = build.folder / files.shard_name(split, number)
                plans.append(ShardPlan(path, split, places[first:end], partial_shards, dtype))
        missing = [plan for plan in plans if not plan.path.exists()]
        written = parallel_map(write_shard, missing, self.source.config.workers)
        shown = self.show_progress
        for _ in progress_bar(written, desc="writing shards", total=len(missing), unit=" shards", show=shown):
            pass
        return splits


def prepare(source: Source[DataConfig], description: Manifest, folder: Path, show_progress: bool) -> None:
    """Read, tokenise and write a corpus; ``folder`` is created only when everything is written.

    Only one process may prepare a folder at a time. After a kill, or an error other than ``UserError``, finished work
    remains beside ``folder`` and the same call resumes from it.

    Raises:
        UserError: the source has no documents for training or cannot be read, or the tokenizer cannot be used.
        RunError: a worker process was killed.
        OSError: the folder cannot be written.
    """
    build = BuildDir(folder.with_name(f"{folder.name}.partial"))
    try:
        # The manifest is written last: if it exists, only the clean-up is missing.
        if not (build.folder / MANIFEST).exists():
            Preparation(source, Selection.of(source.config), build, show_progress).run(description)
        _clear_up(build)
        build.folder.replace(folder)
    except UserError as error:
        # The user must change texts or settings, which makes it another corpus; an unreachable source can be retried.
        if not isinstance(error, UnreachableError) or not any(build.partial_shards.iterdir()):
            _discard(build.folder)
        raise


def _discard(folder: Path) -> None:
    """Delete a folder; renamed first, so that a kill does not leave a part of it to resume from."""
    discarded = folder.with_name(f"{folder.name}.discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    folder.replace(discarded)
    shutil.rmtree(discarded, ignore_errors=True)


def _enough(max_tokens: int | None, build: BuildDir) -> Callable[[int], bool]:
    """Return a function that checks whether the first partial shards, as far as written, have enough tokens."""
    tokens = number = 0

    def enough(read: int) -> bool:
        nonlocal tokens, number
        while max_tokens is not None and number < read and build.partial_shard(number).exists():
            tokens += int(read_entries(build.partial_shard(number))["tokens"].sum())
            number += 1
        return max_tokens is not None and tokens >= max_tokens

    return enough


def _counted(documents: Iterable[Document], progress: tqdm) -> Iterator[Document]:
    """Yield the documents and show the number of documents and bytes of text read so far."""
    for number, document in enumerate(documents, start=1):
        yield document
        elapsed = progress.format_dict["elapsed"] or 1
        progress.set_postfix_str(f"{number} documents, {number / elapsed:.0f}/s", refresh=False)
        progress.update(len(document.text.encode()))


def _describe(folder: Path, description: Manifest, splits: dict[str, Places], show_progress: bool) -> None:
    """Write the offsets, the list of documents and the manifest."""
    vocabulary = open_vocabulary(folder)
    sizes = {split: _split_sizes(folder, split, splits[split]) for split in SPLITS}
    shards = {split: [shard["file"] for shard in sizes[split]["shards"]] for split in SPLITS}
    for split in SPLITS:
        _write_sums(folder, split, sizes[split]["shards"], dtype_of(vocabulary))
    names = [name for split in SPLITS for name in shards[split]]
    with (folder / files.DOCUMENTS).open("wb") as target:
        for name in names:
            with list_of(folder / name).open("rb") as lines:
                shutil.copyfileobj(lines, target)
    tokenizer = tokenizer_file(folder).name
    names += [*map(files.offsets_name, SPLITS), *map(files.sums_name, SPLITS), tokenizer, files.DOCUMENTS]
    described = {}
    for name in progress_bar(names, desc="hashing", unit=" files", show=show_progress):
        path = folder / name
        described[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    manifest = {
        "tokenizer": tokenizer,
        "tokenizer_sha256": described[tokenizer]["sha256"],
        "vocab_size": vocabulary.size,
        "dtype": dtype_of(vocabulary).name,
        "splits": sizes,
        "files": described,
        "digest": files.content_digest(folder, shards, dtype_of(vocabulary)),
    }
    write_manifest(folder, description | manifest)


def _write_sums(folder: Path, split: str, shards: list[dict[str, Any]], dtype: np.dtype) -> None:
    sums = [block_sums(folder / shard["file"], shard["tokens"] * dtype.itemsize) for shard in shards]
    files.write_array(folder / files.sums_name(split), np.concatenate([np.zeros(0, np.uint32), *sums]))


def _clear_up(build: BuildDir) -> None:
    for path in build.folder.glob("*.documents"):
        path.unlink()
    (build.folder / STRETCHES).unlink(missing_ok=True)
    if build.partial_shards.exists():
        shutil.rmtree(build.partial_shards)


def _split_sizes(folder: Path, split: str, places: Places) -> dict[str, Any]:
    """Write the offsets of a split; return its entry in the manifest."""
    tokens = places.entries["tokens"]
    offsets = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum(tokens, out=offsets[1:])
    files.write_array(folder / files.offsets_name(split), offsets)
    bounds = shard_bounds(tokens)
    shards = [
        {"file": files.shard_name(split, number), "tokens": int(tokens[first:end].sum())}
        for number, (first, end) in enumerate(pairwise(bounds))
    ]
    size = int(places.entries["bytes"].sum())
    return {"documents": len(tokens), "tokens": int(tokens.sum()), "bytes": size, "shards": shards}
