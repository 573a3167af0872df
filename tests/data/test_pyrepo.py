"""The source whose documents are folders of installed packages."""

from dataclasses import replace
from pathlib import Path

import pytest

from ttt.config.schema import DataConfig
from ttt.data.pyrepo import without_copies
from ttt.data.sources import Document, open_source


@pytest.fixture
def config(config: DataConfig) -> DataConfig:
    return replace(config, source="pyrepo")


def code(first: int, last: int) -> str:
    return "".join(f"    value_{number} = {number} * width\n" for number in range(first, last))


def test_a_folder_is_a_document_of_its_files_in_order(config: DataConfig, site: Path) -> None:
    package = site / "tinycode"
    (package / "inner" / "a.py").write_text("a = 1\n\n\n")
    (package / "inner" / "b.py").write_text("b = 2\n")
    documents = {document.name: document.text for document in open_source(config).documents()}
    assert set(documents) == {"tinycode", "tinycode/inner"}
    assert documents["tinycode/inner"].startswith("# tinycode/inner/a.py\na = 1\n\n# tinycode/inner/b.py\nb = 2\n\n# ")
    assert "inner" not in documents["tinycode"]


@pytest.mark.slow
def test_the_standard_librarys_tables_are_left_out(config: DataConfig) -> None:
    config.packages = ["stdlib"]
    names = {document.name for document in open_source(config).documents()}
    assert "stdlib/json" in names
    assert "stdlib/encodings" not in names


def test_near_copies_are_left_out() -> None:
    files = {
        "original": code(0, 400),
        "indented copy": code(0, 400).replace("    ", "\t"),
        "mostly copied": code(0, 300) + code(1000, 1100),
        "half new": code(0, 150) + code(2000, 2250),
        "short": "a = 1\n",
        "another short": "a = 1\n",
    }
    kept = [file.name for file in without_copies(Document(name, text) for name, text in files.items())]
    assert kept == ["original", "half new", "short", "another short"]


def test_documents_are_the_same_every_time(config: DataConfig) -> None:
    first, second = (list(open_source(config).documents()) for _ in range(2))
    assert first == second
