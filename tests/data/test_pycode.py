"""The source that reads installed packages."""

import platform
import sys
from pathlib import Path

import pytest

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.data.sources import open_source


def test_reads_files_without_importing(config: DataConfig) -> None:
    names = [document.name for document in open_source(config).documents()]
    assert "tinycode/inner/module_59.py" in names
    assert len(names) == 62
    assert "tinycode" not in sys.modules


def test_leaves_out_files_that_are_not_utf8(config: DataConfig) -> None:
    assert all(document.name != "tinycode/latin.py" for document in open_source(config).documents())


def test_texts_are_the_files(config: DataConfig, site: Path) -> None:
    (site / "tinycode" / "line_ends.py").write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    texts = {document.name: document.text for document in open_source(config).documents()}
    assert texts["tinycode/line_ends.py"].encode() == b"\xef\xbb\xbfa = 1\r\n"


@pytest.mark.slow
def test_stdlib_is_only_the_interpreters_library(config: DataConfig) -> None:
    config.packages = ["stdlib"]
    source = open_source(config)
    names = {document.name for document in source.documents()}
    assert "stdlib/argparse.py" in names
    assert not any("site-packages" in name for name in names)
    assert source.versions() == {"stdlib": platform.python_version()}


def test_a_package_may_have_another_name_than_its_distribution(config: DataConfig) -> None:
    config.packages = ["yaml", "typing_extensions"]
    source = open_source(config)
    assert set(source.versions()) == {"yaml", "typing_extensions"}
    names = {document.name for document in source.documents()}
    assert {"yaml/__init__.py", "typing_extensions/typing_extensions.py"} <= names


@pytest.mark.parametrize("package", ["no_such_package", "tiny-code", "os.path"])
def test_unknown_package(config: DataConfig, package: str) -> None:
    config.packages = [package]
    source = open_source(config)
    with pytest.raises(UserError, match=rf"^data\.packages={package}: .*install it"):
        source.versions()
    with pytest.raises(UserError, match=rf"^data\.packages={package}: .*install it"):
        list(source.documents())


def test_no_packages(config: DataConfig) -> None:
    config.packages = []
    with pytest.raises(UserError, match=r"^data\.packages=\[\]: "):
        open_source(config).versions()


def test_unreadable_file(config: DataConfig, site: Path) -> None:
    (site / "tinycode" / "folder.py").mkdir()
    with pytest.raises(UserError, match=r"folder\.py: cannot be read for data\.packages=tinycode"):
        list(open_source(config).documents())


def test_unknown_source(config: DataConfig) -> None:
    config.source = "pile"
    with pytest.raises(UserError, match=r"^data\.source=pile: choose one of .*pycode"):
        open_source(config)
