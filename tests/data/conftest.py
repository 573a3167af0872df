"""A small installed package to read, and a configuration that reads it."""

import importlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ttt.config.schema import DataConfig
from ttt.data.corpus import Documents

WORDS = ["def", "return", "self", "value", "for", "in", "range", "import", "class", "None", "lambda", "index", "tensor"]


def random_code(rng: random.Random) -> str:
    lines = (" ".join(rng.choices(WORDS, k=rng.randint(2, 8))) for _ in range(rng.randint(20, 60)))
    return "\n".join(lines) + "\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install ``tinycode`` 1.0, of 60 modules, one of them twice, in a folder on ``sys.path``; return the folder."""
    site = tmp_path / "site"
    package = site / "tinycode"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('reading must not import')\n")
    rng = random.Random(0)
    for i in range(60):
        (package / "inner" / f"module_{i:02}.py").write_text(random_code(rng))
    (package / "copy.py").write_bytes((package / "inner" / "module_00.py").read_bytes())
    (package / "latin.py").write_bytes(b"# caf\xe9\n" * 100)
    metadata = site / "tinycode-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tinycode\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    return site


@pytest.fixture
def config(site: Path) -> DataConfig:
    return DataConfig(
        name="tiny",
        source="pycode",
        packages=["tinycode"],
        min_chars=100,
        max_chars=100_000,
        vocab_size=300,
        validation_fraction=0.2,
        test_fraction=0.1,
        eval_tokens=1000,
        cache_dir=str(site.parent / "cache"),
    )


@pytest.fixture(scope="session")
def make_documents() -> Callable[[list[int]], Documents]:
    """Return documents of these lengths; every token is its position among all tokens."""

    def make(lengths: list[int]) -> Documents:
        offsets = np.cumsum([0, *lengths])
        return Documents("made", "train", np.arange(offsets[-1], dtype=np.uint32), offsets)

    return make
