"""A prepared corpus as one file, which travels to a machine that lacks its source or the time to prepare it.

The file is a ZIP archive: ``manifest.json``, then every file that the manifest names, as in the corpus's folder. Equal
corpora give equal files. Only files that the manifest names are unpacked, each compared with its size and SHA-256, and
then all tokens with the digest of the corpus; nothing is unpickled.
"""

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from ttt.config.errors import UserError, bad_value
from ttt.config.progress import progress_bar
from ttt.config.schema import DataConfig
from ttt.config.system import file_sha256, renamed_at_the_end, user_path
from ttt.data import files
from ttt.data.documents import SPLITS
from ttt.data.manifest import FORMAT_VERSION, MANIFEST, Manifest, corpus_key, described_part, read_manifest
from ttt.data.shards import TokenShards

LONGEST_MANIFEST = 2**28
"""Bytes of a manifest beyond which a file is no packed corpus; a corpus of a terabyte has a few hundred kilobytes."""

CHUNK = 2**20
"""Bytes copied at once."""


def pack(folder: Path, file: Path, show_progress: bool) -> None:
    """Write the corpus in ``folder`` into ``file``, all or nothing; files that are links are copied.

    Raises:
        UserError: the file cannot be written.
    """
    names = [MANIFEST, *read_manifest(folder)["files"]]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            renamed_at_the_end(file) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            for name in progress_bar(names, desc="packing", unit=" files", show=show_progress):
                # A ZipInfo of its own has no time of the file, so that equal corpora give equal archives.
                entry = zipfile.ZipInfo(name)
                entry.compress_type = zipfile.ZIP_DEFLATED
                with (folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, CHUNK)
    except OSError as error:
        raise bad_value("file", file, f"cannot be written ({error.strerror or error})") from error


def packed_manifest(config: DataConfig) -> Manifest:
    """Return the manifest in the file ``data.packed``.

    Raises:
        UserError: it is no packed corpus, or is damaged.
    """
    with _opened(config) as archive:
        return _manifest(archive)


def packed_folder(config: DataConfig, manifest: Manifest, root: Path) -> Path:
    """Return the folder in the cache ``root`` that has, or will have, the corpus of a packed file."""
    return root / f"{config.name}-{corpus_key(described_part(manifest))}"


def unpack(config: DataConfig, folder: Path, show_progress: bool) -> None:
    """Unpack the file ``data.packed``; ``folder`` is created only when everything has been compared.

    Raises:
        UserError: the file is damaged.
        OSError: the folder cannot be written.
    """
    build = folder.with_name(f"{folder.name}.unpacking")
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    try:
        with _opened(config) as archive:
            manifest = _manifest(archive)
            named = progress_bar(manifest["files"].items(), desc="unpacking", unit=" files", show=show_progress)
            for name, described in named:
                with archive.open(name) as source, (build / name).open("wb") as target:
                    _copy(source, target, described["bytes"], name)
                if file_sha256(build / name) != described["sha256"]:
                    raise ValueError(f"{name} has changed since it was packed")
            if _digest(build, manifest) != manifest["digest"]:
                raise ValueError("its tokens are not those of its digest")
            (build / MANIFEST).write_bytes(archive.read(MANIFEST))
        build.replace(folder)
    finally:
        shutil.rmtree(build, ignore_errors=True)


@contextmanager
def _opened(config: DataConfig) -> Iterator[zipfile.ZipFile]:
    """Open the archive; errors of reading it in the context name the file.

    Raises:
        UserError: it is missing, no packed corpus, or damaged.
    """
    assert config.packed is not None
    path = user_path(config.packed)
    if not path.is_file():
        raise bad_value("data.packed", config.packed, "no such file; ttt-data pack writes one")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, LookupError, TypeError, NotImplementedError) as error:
        # The text of a KeyError is in quotes.
        reason = str(error.args[0]) if error.args else type(error).__name__
        raise bad_value("data.packed", config.packed, f"damaged, or no file of ttt-data pack ({reason})") from error


def _manifest(archive: zipfile.ZipFile) -> Manifest:
    """Return the manifest of an archive.

    Raises:
        UserError: another version of the suite packed it.
        ValueError: it names files outside the corpus's folder, or is no manifest.
        KeyError: it has no manifest.
    """
    if archive.getinfo(MANIFEST).file_size > LONGEST_MANIFEST:
        raise ValueError(f"{MANIFEST} is too long")
    manifest: Manifest = json.loads(archive.read(MANIFEST))
    version = manifest["format_version"]
    if version != FORMAT_VERSION:
        needed = f"has format {version}, this ttt-suite reads {FORMAT_VERSION}; pack it with the same version"
        raise UserError(f"data.packed={archive.filename}: {needed}")
    for name in manifest["files"]:
        if Path(name).name != name or "\\" in name or name in ("", ".", "..", MANIFEST):
            raise ValueError(f"names the file {name!r}")
    return manifest


def _copy(source: IO[bytes], target: IO[bytes], size: int, name: str) -> None:
    """Copy exactly ``size`` bytes: an archive may state any size and expand to any other.

    Raises:
        ValueError: there are more or fewer.
    """
    left = size
    while chunk := source.read(min(CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            break
        target.write(chunk)
    if left:
        raise ValueError(f"{name} does not have the {size} bytes of its manifest")


def _digest(folder: Path, manifest: Manifest) -> str:
    """Return the digest of the tokens, offsets and tokenizer in a folder."""
    dtype = np.dtype(manifest["dtype"])

    def blocks(split: str) -> Iterator[np.ndarray]:
        shards = manifest["splits"][split]["shards"]
        paths, lengths = [folder / shard["file"] for shard in shards], [shard["tokens"] for shard in shards]
        tokens = TokenShards(paths, lengths, dtype)
        yield from (tokens[start : start + files.BLOCK] for start in range(0, len(tokens), files.BLOCK))

    return files.digest_of_tokens(folder, {split: blocks(split) for split in SPLITS}, dtype)
