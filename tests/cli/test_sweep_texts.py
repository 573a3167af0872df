"""Paths and other free text in a sweep: taken as typed, on the command line and in a file."""

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ttt.cli.sweep.expand import expand, load_cluster
from ttt.cli.sweep.files import sweep_file
from ttt.cli.sweep.overrides import with_overrides
from ttt.cli.sweep.request import Request
from ttt.config.assets import assets
from ttt.config.keys import free_text_keys
from ttt.config.schema import TrainConfig
from ttt.config.sweep import Sweep, read_sweep

TEXTS = [
    "a,b",
    "x=1, [2] (3)",
    "données/~x {1}",
    "it's",
    'say "a"',
    "back\\slash\\",
    " blank ",
    "[a,b]",
    "range(0,3)",
    "1",
    "true",
    "'a,b'",
]


def sweep(**axes: list[object]) -> Sweep:
    return read_sweep("some", {"base": ["data=local"], "axes": {"seed": [0], **axes}})


@pytest.mark.parametrize("text", TEXTS)
def test_a_path_on_the_command_line_is_one_value(text: str) -> None:
    assert with_overrides(sweep(), [f"data.path={text}"]).base == ("data=local", f"data.path={text}")
    assert with_overrides(sweep(**{"data.path": ["p"]}), [f"data.path={text}"]).axes["data.path"] == (text,)


def test_a_path_arrives_as_typed(tmp_path: Path) -> None:
    """Quotes around the whole value, as Hydra needs them, are taken off."""
    plan = expand(sweep(**{"data.path": [*TEXTS]}), tmp_path)
    assert {config.data.path for config in plan.configs.values()} == {*TEXTS[:-1], "a,b"}


def test_null_is_null_and_a_file_has_several_paths(tmp_path: Path) -> None:
    plan = expand(with_overrides(sweep(**{"data.path": ["a,b", "c"]}), ["data.tokenizer=null"]), tmp_path)
    assert [(config.data.path, config.data.tokenizer) for config in plan.configs.values()] == [
        ("a,b", None),
        ("c", None),
    ]


def test_names_are_still_swept() -> None:
    changed = with_overrides(sweep(), ["model.activation=gelu,silu", "data=local,pycode"])
    assert changed.axes["model.activation"] == ("gelu", "silu")
    assert changed.axes["data"] == ("local", "pycode")


def test_every_key_that_names_a_folder_or_file_is_free_text() -> None:
    keys = free_text_keys(TrainConfig)
    assert {"runs", "run", "parent.run", "data.path", "data.tokenizer", "data.cache_dir", "data.column"} <= keys
    for key in keys:
        assert isinstance(OmegaConf.select(OmegaConf.structured(TrainConfig), key, default=""), str | None), key


def test_texts_of_a_cluster_are_as_typed() -> None:
    changes = ["account=007", "constraint=[a100|h100]", "partition=gpu,long", "qos=null", "mem_gb=3"]
    cluster = load_cluster("a100", changes)
    assert (cluster.account, cluster.constraint, cluster.partition) == ("007", "[a100|h100]", "gpu,long")
    assert (cluster.qos, cluster.mem_gb) == (None, 3)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("{defaults: a100}")
    request = Request("submit", {"runs": "~/r", "sweep": "~/mine.yaml"})
    assert (request.runs_folder, request.folder) == (tmp_path / "r", tmp_path / "r/sweeps/mine")
    assert Request("submit", {"folder": "~/f"}).folder == tmp_path / "f"
    assert sweep_file("~/mine.yaml").path == tmp_path / "mine.yaml"
    assert load_cluster("~/c.yaml", []).name == "c"


def test_the_values_of_the_readme_are_read() -> None:
    table = (assets() / "sweeps/README.md").read_text(encoding="utf-8").partition("| written | values |")[2]
    written = [
        word for row in table.splitlines() if row.startswith("| `") for word in re.findall("`([^`]+=[^`]+)`", row)
    ]
    changed = {word: with_overrides(sweep(), shlex.split(word)) for word in written[:10]}
    assert {word.strip("'").partition("=")[0] for word in changed} >= {"seed", "ctx", "model.hidden", "data.path"}
    numbers = {word: len(found.runs()) for word, found in changed.items()}
    assert numbers["seed=0,1,2"] == numbers["seed=range(0,3)"] == numbers["seed=choice(0,1,2)"] == 3
    assert numbers["'model.hidden=[4],[4,4]'"] == 2
    assert numbers["'model.hidden=[4,4]'"] == numbers["'data.path=a, b [2].txt'"] == 1
