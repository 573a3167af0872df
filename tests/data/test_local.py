"""Local files, valid and invalid."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import zstandard

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.data import rows
from ttt.data.sources import Document, open_source

TEXTS = ["first\ntext é", "second", "third " * 100]


def lines(texts: list[str], column: str = "text") -> bytes:
    return "".join(json.dumps({"id": 1, column: text}) + "\n" for text in texts).encode()


def read(path: object, column: str = "text") -> list[Document]:
    config = DataConfig("local", "local", path=str(path), column=column)
    return list(open_source(config).documents())


def parquet(path: Path) -> None:
    pd.DataFrame({"body": TEXTS, "id": [1, 2, 3]}).to_parquet(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", lambda path: path.write_bytes(lines(TEXTS, "body"))),
        ("a.json", lambda path: path.write_text(json.dumps([{"body": text} for text in TEXTS]))),
        ("a.json.gz", lambda path: path.write_bytes(gzip.compress(lines(TEXTS, "body")))),
        ("a.jsonl.zst", lambda path: path.write_bytes(zstandard.compress(lines(TEXTS, "body")))),
        ("a.parquet", parquet),
    ],
)
def test_rows_are_documents(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    expected = [Document(f"{name}:{number}", text) for number, text in enumerate(TEXTS, start=1)]
    assert read(tmp_path, "body") == read(tmp_path / name, "body") == expected


def test_a_folder_a_pattern_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "inner" / f"{number}.txt").write_text(text)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert [document.text for document in read(tmp_path)] == TEXTS
    assert [document.name for document in read(tmp_path)] == [f"inner/{number}.txt" for number in range(3)]
    assert [document.text for document in read(f"{tmp_path}/**/[12].txt")] == TEXTS[1:]
    assert read(tmp_path / "inner" / "0.txt") == [Document("0.txt", TEXTS[0])]


def test_versions_follow_the_files_and_not_the_folder(tmp_path: Path) -> None:
    source = open_source(DataConfig("local", "local", path=str(tmp_path / "one")))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.txt").write_text("a")
    first = source.versions()
    (tmp_path / "one").rename(tmp_path / "two")
    source.config.path = str(tmp_path / "two")
    assert source.versions() == first
    (tmp_path / "two" / "a.txt").write_text("ab")
    assert source.versions() != first


def test_only_the_size_of_plain_files_is_known(tmp_path: Path) -> None:
    source = open_source(DataConfig("local", "local", path=str(tmp_path)))
    (tmp_path / "a.txt").write_text("abc")
    assert source.text_bytes() == 3
    (tmp_path / "b.jsonl.gz").write_bytes(b"")
    assert source.text_bytes() is None


BAD = {
    "empty.txt": (b"", "it is empty"),
    "empty.jsonl": (b"", "it is empty"),
    "blank.jsonl.gz": (gzip.compress(b""), "it has no documents"),
    "binary.txt": (bytes(range(256)) * 10, "can't decode byte 0x80"),
    "zero.txt": (b"a\0b", "has a zero byte, so it is not text"),
    "binary.jsonl": (b"\x01\x02\xff" * 1000, "cannot be read"),
    "latin.txt": (b"caf\xe9", "can't decode byte 0xe9"),
    "latin.jsonl": (b'{"text": "caf\xe9"}\n', "can't decode byte 0xe9"),
    "cut.jsonl": (b'{"text": "a"}\n{"text": "b\n', "JSON parse error"),
    "plain.json.gz": (lines(TEXTS), "Not a gzipped file"),
    "cut.json.gz": (gzip.compress(lines(TEXTS))[:-12], "cannot be read"),
    "plain.jsonl.zst": (lines(TEXTS), "zstd decompress error"),
    "cut.jsonl.zst": (zstandard.compress(lines(TEXTS))[:-5], "the file was cut"),
    "list.jsonl": (b'{"text": "a"}\n5\n', "row 2 is not a JSON object"),
    "no.parquet": (b"PAR1 not at all", "Parquet magic bytes"),
    "surrogate.jsonl": (b'{"text": "\\ud800"}\n', "surrogate"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, why = BAD[name]
    (tmp_path / "0.txt").write_text("a good one before")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / name}: ")
    assert why in line
    assert line.endswith(("leave it out of data.path", "leave it out"))
    assert "\n" not in line
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_gigantic_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]) -> None:
    monkeypatch.setattr(rows, "LINE_BYTES", 1000)
    path = tmp_path / ("a.jsonl.gz" if pack is gzip.compress else "a.jsonl")
    path.write_bytes(pack(lines(["a" * 900] * 5)))
    assert len(read(path)) == 5
    path.write_bytes(pack(lines(["a", "b" * 1100, "c"])))
    with pytest.raises(UserError, match=r"a\.jsonl.*: cannot be read \(a line is longer than 1,000 bytes\); fix it"):
        read(path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (lines(TEXTS, "body"), r"^data\.column=text: .*a\.jsonl row 1 has no such column; choose one of id, body$"),
        (b'{"text": "a"}\n{"text": 5}\n', r"^data\.column=text: .*a\.jsonl row 2 has int there, not text"),
        (b'{"text": null}\n' * 2, r"^data\.column=text: none of the 2 rows of .*a\.jsonl has text there$"),
    ],
)
def test_a_missing_column(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=line):
        read(tmp_path)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (None, "give a folder"),
        ("no/such/folder", "does not exist$"),
        ("input.txt", "does not exist$"),
        ("no/*.txt", "no file matches"),
        (".", "no file there ends in txt"),
    ],
)
def test_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None, why: str) -> None:
    monkeypatch.chdir(tmp_path)
    config = DataConfig("local", "local", path=path)
    with pytest.raises(UserError, match=rf"^data\.path=.*: {why}"):
        open_source(config).versions()


JSONL_AS_FOUND = {
    "other columns change type": b"""{"id": 1, "text": "a"}\n{"id": "", "text": "b"}\n{"id": {}, "text": "c"}\n""",
    "other columns are null": b"""{"id": null, "text": "a"}\n{"id": [1, "2"], "text": "b"}\n{"text": "c"}\n""",
    "huge numbers": b"""{"text": "a", "id": """ + b"9" * 5000 + b"""}\n{"text": "b", "id": NaN}\n{"text": "c"}\n""",
    "byte order mark and blank lines": b"""\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n{"text": "c"}""",
    "objects over several lines": b"""{\n "text": "a"\n}\n{"text": "b"} {\n"text":\n"c"}\n""",
    "an array over several lines": b"""[\n{"text": "a", "n": 1},\n{"text": "b", "n": "1"},\n{"text": "c"}\n]\n""",
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("content", JSONL_AS_FOUND.values(), ids=JSONL_AS_FOUND)
def test_only_the_text_column_is_read(tmp_path: Path, content: bytes, pack: Callable[[bytes], bytes]) -> None:
    ending = {bytes: "", gzip.compress: ".gz"}.get(pack, ".zst")
    (tmp_path / f"a.jsonl{ending}").write_bytes(pack(content))
    assert [document.text for document in read(tmp_path)] == ["a", "b", "c"]


def test_a_type_that_changes_late_in_a_large_file(tmp_path: Path) -> None:
    early = lines(["a" * 1000] * 12_000)
    (tmp_path / "a.jsonl").write_bytes(early + b'{"id": "late", "text": "b"}\n')
    assert len(read(tmp_path)) == 12_001


def test_all_frames_of_a_zst_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(zstandard.compress(lines([text])) for text in TEXTS))
    assert [document.text for document in read(tmp_path)] == TEXTS


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rows_without_text_are_counted(tmp_path: Path, ending: str, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "a"}, {"text": None}, {"text": "b"}, {}]
    if ending == "jsonl":
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        pd.DataFrame({"text": ["a", None, "b", None]}).to_parquet(tmp_path / "a.parquet")
    source = open_source(DataConfig("mine", "local", path=str(tmp_path)))
    for _ in range(2):
        found = [(document.name, document.text) for document in source.documents()]
        assert found == [(f"a.{ending}:1", "a"), (f"a.{ending}:3", "b")]
    assert capfd.readouterr().err == "data=mine: 2 of 4 rows have no text in data.column=text, left out\n"


@pytest.mark.parametrize("name", ["a.md", "a.py", "README", "a.tar", "A.TXT"])
def test_a_file_that_is_named_is_read_whatever_its_ending(tmp_path: Path, name: str) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / name).write_text(TEXTS[0])
    (tmp_path / "src" / ".hidden").write_bytes(b"\xff")
    for path in (tmp_path / "src" / name, f"{tmp_path}/src/{name[:2]}*", f"{tmp_path}/**/{name}", f"{tmp_path}/src/*"):
        assert read(path) == [Document(name, TEXTS[0])]


def test_upper_case_endings_of_named_files(tmp_path: Path) -> None:
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(lines(TEXTS)))
    assert [document.text for document in read(tmp_path / "A.JSONL.GZ")] == TEXTS


def test_files_of_a_folder_that_are_left_out_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a.txt", "b.md", "c.md"):
        (tmp_path / name).write_text(name)
    assert len(read(tmp_path)) == len(read(f"{tmp_path}/*")) == 1
    assert capfd.readouterr().err.count("data=local: 2 files that do not end in txt, jsonl, json, parquet are") == 2
