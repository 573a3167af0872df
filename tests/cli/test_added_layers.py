"""Layers are found however their registration is written, and errors name the file."""

from pathlib import Path

import pytest

from ttt.cli.added import added_backbones, added_layers
from ttt.config.discover import registered_names
from ttt.config.errors import UserError

IMPORT = "from ttt.layers.registry import register_layer\n"
CLASS = "class EMA: ...\n"


def names(path: Path) -> list[str]:
    return registered_names(path, "register_layer")


def file(folder: Path, source: str) -> Path:
    path = folder / "ema.py"
    path.write_text(source)
    return path


@pytest.mark.parametrize(
    "decorator",
    [
        '@register_layer("ema", EMAConfig, backbones=("transformer",))',
        "@register_layer('ema', EMAConfig, backbones=('transformer',))",
        '@register_layer(name="ema", schema=EMAConfig, backbones=("transformer",))',
        '@register_layer(schema=EMAConfig, backbones=("transformer",), name="ema")',
        '@register_layer(\n    "ema",\n    EMAConfig,\n    backbones=("transformer",),\n)',
        '@registry.register_layer("ema", EMAConfig, ("own",))',
        '@other\n@register_layer("ema", EMAConfig, ("own",))  # a comment',
    ],
)
def test_a_layer_is_found(tmp_path: Path, decorator: str) -> None:
    assert names(file(tmp_path, f"{IMPORT}\n{decorator}\n{CLASS}")) == ["ema"]


def test_several_layers_in_a_file_are_found(tmp_path: Path) -> None:
    source = "".join(f'@register_layer("{name}", Config, ("own",))\nclass {name}: ...\n' for name in ("A", "B"))
    assert names(file(tmp_path, IMPORT + source)) == ["A", "B"]


@pytest.mark.parametrize("source", ["", "x = 1\n", '"""Not of ``register_layer`` but about it."""\n'])
def test_other_files_register_nothing(tmp_path: Path, source: str) -> None:
    assert names(file(tmp_path, source)) == []


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (f"{IMPORT}NAME = 'ema'\n@register_layer(NAME, Config)\n{CLASS}", "ema.py:3: .* must be a string literal"),
        (f"{IMPORT}@register_layer(f'e{{1}}', Config)\n{CLASS}", "ema.py:2: .* must be a string literal"),
        (f"{IMPORT}@register_layer()\n{CLASS}", "ema.py:2: .* must be a string literal"),
        (f"{IMPORT}register = register_layer\n{CLASS}", "ema.py: imports register_layer and never calls it"),
        (f"from ttt.layers.registry import register_layer as add\n@add('ema', C)\n{CLASS}", "never calls it"),
        (f"{IMPORT}class EMA(\n", "ema.py:2: not Python"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_named(tmp_path: Path, source: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        names(file(tmp_path, source))


def test_the_shipped_layers_need_no_import() -> None:
    assert added_layers() == {}


def test_the_shipped_backbones_need_no_import() -> None:
    assert added_backbones() == {}
