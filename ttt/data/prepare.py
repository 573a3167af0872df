"""From documents to the files of a corpus, whole or not at all, going on where a killed preparation stopped.

A source is read once, in stretches that several processes tokenise. When all are there, the order of the documents is
known, and the shards are gathered from the stretches. Stretches and shards appear in one step each, in a folder of
their own beside the corpus's; so neither the number of processes nor a kill leaves a trace in what they hold.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.data import files
from ttt.data.documents import SPLITS, no_training_document, training_sample
from ttt.data.manifest import MANIFEST, Manifest, write_manifest
from ttt.data.order import Places, order_documents
from ttt.data.shards import ShardPlan, list_of, shard_bounds, write_shard
from ttt.data.sources import Document, Source, UnreachableError
from ttt.data.stretches import Stretch, cut, write_stretch
from ttt.data.tokenizer import SAMPLE_CHARS, save_tokenizer, train_tokenizer
from ttt.data.vocabulary import JSON, check_tokenizer, dtype_of, open_users, open_vocabulary, tokenizer_file
from ttt.data.workers import each


@dataclass(frozen=True)
class Workshop:
    """The folder beside the corpus's in which it comes into being: the corpus itself, and stretches.

    Attributes:
        folder: becomes the corpus's.
    """

    folder: Path

    @property
    def stretches(self) -> Path:
        """The folder of what is deleted in the end."""
        return self.folder / "stretches"

    @property
    def counted(self) -> Path:
        """Is written when the source has been read to its end: the number of stretches."""
        return self.stretches / "all.json"

    def stretch(self, number: int) -> Path:
        """The folder of a stretch."""
        return self.stretches / f"{number:06}"


def prepare(config: DataConfig, source: Source, description: Manifest, folder: Path, show_progress: bool) -> None:
    """Reads, tokenises and writes a corpus to ``folder``, which appears in one step when all is written.

    Only one process may prepare a folder at a time. After a kill, or an error that is not the user's, what has been
    finished stays beside ``folder``, and the same call goes on from it.

    Raises:
        UserError: the source has no documents for training, or cannot be read, or the tokenizer cannot be used.
        RunError: one of the working processes was killed.
        OSError: the folder cannot be written.
    """
    shop = Workshop(folder.with_name(f"{folder.name}.partial"))
    try:
        # A manifest is written last: with it a killed preparation had only to clear up.
        if not (shop.folder / MANIFEST).exists():
            shop.stretches.mkdir(parents=True, exist_ok=True)
            _provide_tokenizer(config, source, shop.folder, show_progress)
            _tokenise(config, source, shop, show_progress)
            splits = _shards(config, shop, show_progress)
            _describe(shop, description, splits, show_progress)
        _clear_up(shop)
        shop.folder.replace(folder)
    except UserError as error:
        # With other texts or settings it will be another corpus.
        if not isinstance(error, UnreachableError) or not any(shop.stretches.iterdir()):
            shutil.rmtree(shop.folder, ignore_errors=True)
        raise


def _provide_tokenizer(config: DataConfig, source: Source, folder: Path, show_progress: bool) -> None:
    """Puts the user's tokenizer, or one that is trained on the source, into ``folder``."""
    if config.tokenizer is not None:
        users = Path(config.tokenizer).expanduser()
        name = check_tokenizer(users)
        partial = folder / f"{name}.partial"
        shutil.copyfile(users, partial)
        partial.replace(folder / name)
        open_users(users, folder)
    elif not tokenizer_file(folder).exists():
        found = tqdm(source.documents(config), "reading", unit=" documents", disable=not show_progress)
        sample = training_sample(found, config, SAMPLE_CHARS)
        if not sample:
            raise no_training_document(config)
        texts = tqdm(sample, "training tokenizer", unit=" documents", disable=not show_progress)
        partial = folder / f"{JSON}.partial"
        save_tokenizer(train_tokenizer(texts, config.vocab_size), partial)
        partial.replace(folder / JSON)


def _tokenise(config: DataConfig, source: Source, shop: Workshop, show_progress: bool) -> None:
    """Writes the stretches that are not there yet."""
    if shop.counted.exists():
        return
    total = source.text_bytes(config)
    with tqdm(total=total, desc="tokenising", unit="B", unit_scale=True, disable=not show_progress) as progress:
        stretches = cut(_counted(source.documents(config), progress))
        numbered = ((shop.stretch(number), documents) for number, documents in enumerate(stretches))
        number = 0

        def missing() -> Iterator[Stretch]:
            nonlocal number
            for folder, documents in numbered:
                number += 1
                if not folder.exists():
                    yield Stretch(documents, folder, shop.folder, config)

        for _ in each(write_stretch, missing(), config.workers):
            pass
    shop.counted.write_text(json.dumps(number), encoding="utf-8")


def _counted(documents: Iterable[Document], progress: tqdm) -> Iterator[Document]:
    """Shows how many documents, and bytes of text, have been read."""
    for number, document in enumerate(documents, start=1):
        yield document
        elapsed = progress.format_dict["elapsed"] or 1
        progress.set_postfix_str(f"{number} documents, {number / elapsed:.0f}/s", refresh=False)
        progress.update(len(document.text.encode()))


def _shards(config: DataConfig, shop: Workshop, show_progress: bool) -> dict[str, Places]:
    """Writes the shards that are not there yet; returns the documents of each split."""
    stretches = [shop.stretch(number) for number in range(json.loads(shop.counted.read_text(encoding="utf-8")))]
    splits = order_documents(stretches, config)
    if not len(splits["train"]):
        raise no_training_document(config)
    dtype = dtype_of(open_vocabulary(shop.folder))
    plans = []
    for split, places in splits.items():
        bounds = shard_bounds(places.entries["tokens"])
        for number, (first, end) in enumerate(pairwise(bounds)):
            path = shop.folder / files.shard_name(split, number)
            plans.append(ShardPlan(path, split, places[first:end], stretches, dtype))
    missing = [plan for plan in plans if not plan.path.exists()]
    written = each(write_shard, missing, config.workers)
    for _ in tqdm(written, "writing shards", total=len(missing), unit=" shards", disable=not show_progress):
        pass
    return splits


def _describe(shop: Workshop, description: Manifest, splits: dict[str, Places], show_progress: bool) -> None:
    """Writes offsets, list of documents and manifest."""
    vocabulary = open_vocabulary(shop.folder)
    sizes = {split: _split_sizes(shop.folder, split, splits[split]) for split in SPLITS}
    shards = {split: [shard["file"] for shard in sizes[split]["shards"]] for split in SPLITS}
    names = [name for split in SPLITS for name in shards[split]]
    with (shop.folder / files.DOCUMENTS).open("wb") as target:
        for name in names:
            with list_of(shop.folder / name).open("rb") as lines:
                shutil.copyfileobj(lines, target)
    tokenizer = tokenizer_file(shop.folder).name
    names += [*map(files.offsets_name, SPLITS), tokenizer, files.DOCUMENTS]
    described = {}
    for name in tqdm(names, "hashing", unit=" files", disable=not show_progress):
        path = shop.folder / name
        described[name] = {"bytes": path.stat().st_size, "sha256": files.file_sha256(path)}
    manifest = {
        "tokenizer": tokenizer,
        "tokenizer_sha256": described[tokenizer]["sha256"],
        "vocab_size": vocabulary.size,
        "dtype": dtype_of(vocabulary).name,
        "splits": sizes,
        "files": described,
        "digest": files.content_digest(shop.folder, shards, dtype_of(vocabulary)),
    }
    write_manifest(shop.folder, description | manifest)


def _clear_up(shop: Workshop) -> None:
    for path in shop.folder.glob("*.documents"):
        path.unlink()
    shutil.rmtree(shop.stretches, ignore_errors=True)


def _split_sizes(folder: Path, split: str, places: Places) -> dict[str, Any]:
    """Writes the offsets of a split; returns what the manifest says of it."""
    tokens = places.entries["tokens"]
    offsets = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum(tokens, out=offsets[1:])
    np.save(folder / files.offsets_name(split), offsets, allow_pickle=False)
    bounds = shard_bounds(tokens)
    shards = [
        {"file": files.shard_name(split, number), "tokens": int(tokens[first:end].sum())}
        for number, (first, end) in enumerate(pairwise(bounds))
    ]
    size = int(places.entries["bytes"].sum())
    return {"documents": len(tokens), "tokens": int(tokens.sum()), "bytes": size, "shards": shards}
