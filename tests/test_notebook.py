"""The notebook runs from its first cell to its last and draws the committed figure."""

import ast
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ttt.config.assets import assets

ROOT = assets()
NOTEBOOK = ROOT / "docs/notebooks/laptop.ipynb"


def run(notebook: Path) -> tuple[dict[str, Any], list[Any]]:
    """Run the cells in this process; return their names, and the value of the last line of each."""
    names: dict[str, Any] = {}
    shown = []
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        *lines, last = ast.parse(source).body
        assert isinstance(last, ast.Expr), "a cell ends with what it shows"
        exec(compile(ast.Module(lines, []), str(notebook), "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), str(notebook), "eval"), names))
    return names, shown


@pytest.mark.slow
def test_the_notebook_draws_the_committed_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(NOTEBOOK.parent)
    names, shown = run(NOTEBOOK)
    drawn = sum(len(axes.lines) for axes in names["picture"].axes)
    assert drawn >= names["table"]["run_id"].nunique()
    committed = pd.read_csv(ROOT / "docs/figures/per_token.csv")
    pd.testing.assert_frame_equal(names["table"][list(committed)].fillna(""), committed.fillna(""), check_dtype=False)
    methods, _, gains = shown
    assert methods["count"].sum() == len(names["runs"].dropna(subset="validation_perplexity"))
    assert gains.notna().all()


def test_the_notebook_is_committed_without_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
