"""From documents to the files of a corpus, whole or not at all."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from ttt.config.schema import DataConfig
from ttt.data import files
from ttt.data.documents import SPLITS, SplitDocument, select_documents
from ttt.data.files import EncodedDocument
from ttt.data.manifest import Manifest, describe, write_manifest
from ttt.data.sources import Source
from ttt.data.tokenizer import encode_documents, save_tokenizer, train_tokenizer

CHUNK_BYTES = 4_000_000
"""Text that is encoded at once: enough to keep all cores busy, little enough to show progress."""


def prepare(config: DataConfig, source: Source, versions: dict[str, str], folder: Path, show_progress: bool) -> None:
    """Reads, tokenises and writes a corpus to ``folder``, which appears in one step when all is written.

    The whole corpus passes through memory. Only one process may prepare a folder at a time.

    Raises:
        UserError: the source has no documents for training, or cannot be read.
        OSError: the folder cannot be written.
    """
    found = tqdm(source.documents(config), "reading", unit=" documents", disable=not show_progress)
    documents = select_documents(found, config)
    texts = [document.text for document in documents if document.split == "train"]
    sample = tqdm(texts, "training tokenizer", unit=" documents", disable=not show_progress)
    tokenizer = train_tokenizer(sample, config.vocab_size)
    encoded = _encode(tokenizer, documents, show_progress)
    _write(folder, describe(config, versions), tokenizer, encoded)


def _encode(tokenizer: Tokenizer, documents: Sequence[SplitDocument], show_progress: bool) -> list[EncodedDocument]:
    dtype = _token_dtype(tokenizer)
    encoded: list[EncodedDocument] = []
    total = sum(document.bytes for document in documents)
    with tqdm(total=total, desc="encoding", unit="B", unit_scale=True, disable=not show_progress) as progress:
        for chunk in _chunks(documents):
            tokens = encode_documents(tokenizer, [document.text for document in chunk])
            encoded += [EncodedDocument(d, t.astype(dtype)) for d, t in zip(chunk, tokens, strict=True)]
            progress.set_postfix_str(f"{len(encoded)}/{len(documents)} documents", refresh=False)
            progress.update(sum(document.bytes for document in chunk))
    return encoded


def _chunks(documents: Sequence[SplitDocument]) -> Iterator[list[SplitDocument]]:
    chunk: list[SplitDocument] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += document.bytes
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    yield chunk


def _token_dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32)


def _write(folder: Path, description: Manifest, tokenizer: Tokenizer, encoded: Sequence[EncodedDocument]) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    # A folder of this name is what a killed process has left.
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        _write_files(partial, description, tokenizer, encoded)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_files(folder: Path, description: Manifest, tokenizer: Tokenizer, encoded: Sequence[EncodedDocument]) -> None:
    save_tokenizer(tokenizer, folder / files.TOKENIZER)
    splits = {split: [e for e in encoded if e.document.split == split] for split in SPLITS}
    dtype = _token_dtype(tokenizer)
    sizes = {split: files.write_split(folder, split, members, dtype) for split, members in splits.items()}
    files.write_document_list(folder, (e for members in splits.values() for e in members))
    manifest = {
        "vocab_size": tokenizer.get_vocab_size(),
        "tokenizer_sha256": files.file_sha256(folder / files.TOKENIZER),
        "splits": sizes,
        "digest": files.content_digest(folder),
    }
    write_manifest(folder, description | manifest)
