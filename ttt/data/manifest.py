"""The manifest of a corpus: its settings and sources, its files, and its name in the cache."""

import hashlib
import json
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from ttt.config.schema import DataConfig
from ttt.config.system import renamed_at_the_end

FORMAT_VERSION = 3
"""Raise it when a change of the code changes the files of the same configuration and source."""

MANIFEST = "manifest.json"
FIELDS_WITHOUT_INFLUENCE = {
    "name", "path", "tokenizer", "join", "eval_tokens", "tokens_estimate", "cache_dir", "workers", "packed",
}  # fmt: skip
"""Paths count only by their content: the ``versions`` of a source, and the hash of a tokenizer."""

LATER_FIELDS = ("subset", "split", "max_tokens")
"""Settings that are in a manifest only where they differ from their default."""

Manifest = dict[str, Any]
"""The entries of ``describe``, then ``tokenizer`` (its file), ``tokenizer_sha256``, ``vocab_size``, ``dtype``,
``splits`` (documents, tokens and bytes of text of each, and name and tokens of each shard), ``files`` (bytes and sha256
of each) and ``digest``. Without dates and folders, so that preparations of the same texts give equal manifests."""


class NewerManifestError(Exception):
    """A manifest that this version of the suite cannot read."""


def describe(config: DataConfig, versions: dict[str, str]) -> Manifest:
    """Return everything that determines the content of a corpus."""
    defaults = {field.name: field.default for field in fields(config) if field.name in LATER_FIELDS}
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in FIELDS_WITHOUT_INFLUENCE and (key not in defaults or value != defaults[key])
    }
    return {
        "format_version": FORMAT_VERSION,
        "settings": settings | {"packages": sorted(config.packages)},
        "versions": dict(sorted(versions.items())),
        "tokenizers_version": metadata.version("tokenizers"),
    }


def described_part(manifest: Manifest) -> Manifest:
    """Return the entries of ``describe`` in the manifest of a prepared corpus."""
    return {key: manifest[key] for key in ("format_version", "settings", "versions", "tokenizers_version")}


def corpus_key(description: Manifest) -> str:
    """Return twelve hexadecimal digits that identify a description."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, all or nothing."""
    with renamed_at_the_end(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json``.

    Raises:
        OSError: it is missing.
        ValueError: it is not JSON.
        NewerManifestError: a newer version of the suite wrote it.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if manifest["format_version"] > FORMAT_VERSION:
        raise NewerManifestError(f"has format {manifest['format_version']}, this ttt-suite reads {FORMAT_VERSION}")
    return manifest
