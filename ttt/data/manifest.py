"""What a corpus was made from, and what it is called in the cache."""

import hashlib
import json
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from ttt.config.schema import DataConfig

FORMAT_VERSION = 2
"""To be raised when the same configuration and source would give other files."""

MANIFEST = "manifest.json"
FIELDS_WITHOUT_INFLUENCE = {"name", "path", "tokenizer", "eval_tokens", "cache_dir", "workers"}
"""A path is replaced by what lies there: ``versions`` of a source, and the hash of a tokenizer."""

Manifest = dict[str, Any]
"""``describe``'s entries, then ``tokenizer`` (its file), ``tokenizer_sha256``, ``vocab_size``, ``dtype``, ``splits``
(documents, tokens and bytes of text of each, and the name and tokens of each of its shards), ``files`` (bytes and
sha256 of each) and ``digest``. It names no dates and no folders, so that two preparations of the same texts agree."""


class NewerManifestError(Exception):
    """A manifest that this version of the suite cannot read."""


def describe(config: DataConfig, versions: dict[str, str]) -> Manifest:
    """Everything that determines the content of a corpus."""
    settings = {key: value for key, value in asdict(config).items() if key not in FIELDS_WITHOUT_INFLUENCE}
    return {
        "format_version": FORMAT_VERSION,
        "settings": settings | {"packages": sorted(config.packages)},
        "versions": dict(sorted(versions.items())),
        "tokenizers_version": metadata.version("tokenizers"),
    }


def corpus_key(description: Manifest) -> str:
    """Twelve hexadecimal digits that differ where ``describe`` differs."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json``, whole or not at all."""
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """Reads ``manifest.json``.

    Raises:
        OSError: it is missing.
        ValueError: it is not JSON.
        NewerManifestError: a newer version of the suite wrote it.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if manifest["format_version"] > FORMAT_VERSION:
        raise NewerManifestError(f"has format {manifest['format_version']}, this ttt-suite reads {FORMAT_VERSION}")
    return manifest
