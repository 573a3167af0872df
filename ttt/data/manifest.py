"""What a corpus was made from, and what it is called in the cache."""

import hashlib
import json
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from ttt.config.schema import DataConfig

FORMAT_VERSION = 1
"""To be raised when the same configuration and packages would give other files."""

MANIFEST = "manifest.json"
FIELDS_WITHOUT_INFLUENCE = {"name", "eval_tokens", "cache_dir"}

Manifest = dict[str, Any]
"""``describe``'s entries, then ``vocab_size``, ``tokenizer_sha256``, ``splits`` (documents, tokens and bytes of each)
and ``digest``. It names no dates and no folders, so that two preparations of the same texts agree."""


def describe(config: DataConfig, versions: dict[str, str]) -> Manifest:
    """Everything that determines the content of a corpus."""
    settings = {key: value for key, value in asdict(config).items() if key not in FIELDS_WITHOUT_INFLUENCE}
    return {
        "format_version": FORMAT_VERSION,
        "settings": settings | {"packages": sorted(config.packages)},
        "versions": dict(sorted(versions.items())),
        "tokenizers_version": metadata.version("tokenizers"),
    }


def corpus_key(config: DataConfig, versions: dict[str, str]) -> str:
    """Twelve hexadecimal digits that differ where ``describe`` differs."""
    description = json.dumps(describe(config, versions), sort_keys=True)
    return hashlib.sha256(description.encode()).hexdigest()[:12]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json``."""
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Reads ``manifest.json``.

    Raises:
        OSError: it is missing.
        ValueError: it is not JSON.
    """
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
