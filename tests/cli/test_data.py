"""``ttt-data`` from the command line."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from starter import Starter

ROOT = Path(__file__).parents[2]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"document {number}, " * (30 * number + 20))
    return folder


Data = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def data(starter: Starter) -> Data:
    """Run ``ttt-data`` in a folder."""

    def run(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        command = [*arguments, f"data.cache_dir={folder}/cache"]
        return starter.run("from ttt.cli.data import main; main()", command, cwd=folder, environment=variables)

    return run


@pytest.mark.slow
def test_prepare_and_inspect(data: Data, tmp_path: Path, texts: Path) -> None:
    local = ["data=local", f"data.path={texts}", "data.vocab_size=300", "data.validation_fraction=0.2"]
    prepared = data(tmp_path, "prepare", *local)
    assert prepared.returncode == 0, prepared.stderr
    assert "tokenising" in prepared.stderr
    assert "MB/s" in prepared.stderr
    shown = data(tmp_path, "inspect", *local, "sample=12", "verify=true")
    assert shown.returncode == 0, shown.stderr
    assert "tokenising" not in shown.stderr
    assert prepared.stdout in shown.stdout
    for part in (
        "digest",
        "documents",
        "length at 50%",
        "at least 1k",
        "at least 32k",
        "train document 0",
        "document ",
    ):
        assert part in shown.stdout
    assert (tmp_path / "figures" / "data_local.png").read_bytes().startswith(b"\x89PNG")
    (shard,) = (tmp_path / "cache").glob("*/train-00000.npy")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    damaged = data(tmp_path, "inspect", *local, "verify=true")
    assert damaged.returncode == 2
    assert damaged.stderr.startswith(f"error: {shard}: damaged (its SHA-256")


@pytest.mark.slow
def test_pack_carries_the_corpus_to_another_cache(data: Data, tmp_path: Path, texts: Path) -> None:
    local = ["data=local", f"data.path={texts}", "data.vocab_size=300", "data.validation_fraction=0.2"]
    packed = data(tmp_path, "pack", *local, "file=carried/local.zip", "progress=false")
    assert packed.returncode == 0, packed.stderr
    digest, there, file = packed.stdout.splitlines()
    assert (there.split()[1], file) == ("data.packed=local.zip", "carried/local.zip")
    for path in texts.iterdir():
        path.unlink()
    shown = data(tmp_path / "carried", "prepare", *local, "data.packed=local.zip", "progress=false")
    assert shown.returncode == 0, shown.stderr
    assert digest.split()[1].rstrip(",")[:12] in shown.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["prepare", "data=pile"], "error: data.hub=monology/pile-uncopyrighted: cannot be read"),
        (["prepare", "data=books"], "error: data.hub=emozilla/pg19: cannot be read"),
        (["prepare", "data=local"], "error: data.path=null: give a folder"),
        (["prepare", "data=local", "data.path=texts", "data.workers=-1"], "error: data.workers=-1: must be at least"),
        (["inspect", "data=local", "data.path=texts", "split=tset"], "error: split=tset: choose one of train"),
        (["inspect", "data=local", "data.path=texts", "document=99"], "error: document=99: train has "),
        (["prepare", "data=poems"], "error: data=poems: choose one of books, local, mqar, pile, pycode"),
        (["repair", "data=pile"], "error: repair: no such command; choose one of prepare, inspect, pack"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_data(
    data: Data, tmp_path: Path, texts: Path, arguments: list[str], line: str
) -> None:
    assert texts.exists()
    done = data(tmp_path, *arguments, "progress=false", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    if arguments[0] == "prepare":
        assert not list(tmp_path.glob("cache/*/"))


@pytest.mark.slow
def test_help(data: Data) -> None:
    shown = data(ROOT, "prepare", "--help").stdout
    assert "ttt-data prepare data=NAME" in shown
    assert "monology" not in shown
    assert "substitute" in shown
