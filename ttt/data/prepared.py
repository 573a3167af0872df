"""A prepared corpus by its digest: opened from the cache without its source, which may be changed or absent."""

import glob
from pathlib import Path

from ttt.config.schema import DataConfig
from ttt.data.cache import cache_folder
from ttt.data.corpus import Corpus, open_corpus
from ttt.data.manifest import FORMAT_VERSION, MANIFEST, NewerManifestError, read_manifest


def find_prepared(config: DataConfig, digest: str) -> Corpus | None:
    """Return the corpus of this name and digest in ``data.cache_dir`` or the user's cache; None: neither has it.

    Raises:
        UserError: it is damaged.
    """
    for root in dict.fromkeys([cache_folder(config.cache_dir), cache_folder(None)]):
        for path in sorted(root.glob(f"{glob.escape(config.name)}-*/{MANIFEST}")):
            if _digest(path.parent) == digest:
                return open_corpus(path.parent, config.name, config.join)
    return None


def _digest(folder: Path) -> str | None:
    """Return the digest of a corpus; None: it is of another version, not complete or damaged."""
    try:
        manifest = read_manifest(folder)
        return str(manifest["digest"]) if manifest["format_version"] == FORMAT_VERSION else None
    except (OSError, ValueError, LookupError, TypeError, NewerManifestError):
        return None
