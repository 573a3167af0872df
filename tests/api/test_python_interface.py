"""The names of ``import ttt``: their cost, their errors, and README's lines as written."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import ttt
from ttt.config.assets import assets

HEAVY = {"torch", "pandas", "numpy", "hydra", "omegaconf", "yaml"}


def test_importing_ttt_imports_nothing_heavy() -> None:
    code = f"import sys, ttt; dir(ttt); print({HEAVY} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"


def test_every_name_is_there_and_no_package_hides_it() -> None:
    for name in ttt.__all__:
        assert callable(getattr(ttt, name))
        assert name in dir(ttt)
        assert not (assets() / "ttt" / name).exists(), "importing that package would replace the name"
    with pytest.raises(AttributeError, match="module 'ttt' has no attribute 'lode'"):
        _ = ttt.lode


@pytest.mark.slow
def test_the_lines_of_the_readme_run_as_written(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (assets() / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^## Python\n.*?^```python\n(.*?)^```", text, re.M | re.S)
    monkeypatch.chdir(trained)
    found: dict[str, Any] = {}
    exec(block, found)
    assert found["logits"].shape == (1, found["ids"].shape[1], found["tokenizer"].size)
    assert isinstance(found["trace"], pd.DataFrame)
    assert found["runs"]["steps"].tolist() == [2]
    assert found["y"].shape == (2, 100, 256)
    assert found["y_next"].shape == (2, 1, 256)
    (example,) = re.findall(r"`(ttt\.build_layer\(\"mamba\"[^`]*)`", text)
    assert isinstance(eval(example, found), torch.nn.Module)
