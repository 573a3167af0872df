"""A width given without heads, on the command line and in sweeps."""

from pathlib import Path

import pytest

from ttt.cli.compose import as_object, compose
from ttt.cli.heads import check_width_and_heads
from ttt.cli.sweep.expand import expand
from ttt.config.errors import UserError
from ttt.config.schema import TrainConfig
from ttt.config.sweep import read_sweep


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["size.width=128"],
            r"^size.width=128: size.heads=1 of .*; give size.heads too, such as size.heads=2$",
        ),
        (["size.width=96"], r"would make heads 96 wide, not 64; give size.heads too$"),
        (["size=w128", "size.width=64"], r"^size.width=64: size.heads=2 of size=w128 would make heads 32 wide"),
        (["size.width=64"], None),
        (["size.width=128", "size.heads=2"], None),
        (["size.width=128", "size.heads=1"], None),
        (["model=mamba", "size.width=96"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("configure")
def test_a_width_alone_that_changes_heads_is_refused(overrides: list[str], message: str | None) -> None:
    config = as_object(compose("train", overrides), TrainConfig)
    if message is None:
        check_width_and_heads(config, overrides)
    else:
        with pytest.raises(UserError, match=message):
            check_width_and_heads(config, overrides)


def test_a_sweep_over_widths_names_the_heads_too(tmp_path: Path) -> None:
    widths = {"base": ["size=w64", "model=transformer"], "axes": {"size.width": [64, 128]}}
    with pytest.raises(UserError, match=r"^sweep=mine: size.width=128: size.width=128: size.heads=1 of size=w64"):
        expand(read_sweep("mine", widths), tmp_path)
    heads = {"rules": [{"when": {"size.width": 128}, "add": ["size.heads=2"]}]}
    assert len(expand(read_sweep("mine", widths | heads), tmp_path).runs) == 2
