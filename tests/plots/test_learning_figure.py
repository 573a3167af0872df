"""The figure of the training loss, seed by seed."""

from typing import Any

import numpy as np
import pytest
from synthetic import TOKENS_PER_STEP, make_copying, make_ladder, make_run

from ttt.analysis.store import load_results
from ttt.plots.learning import FIGURE, order_sentence
from ttt.plots.style import paper_style


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("runs")
    make_ladder(folder, seeds=(0, 1))
    make_run(folder, "mamba", "own", steps=8, perplexity=50.0, evaluated=False)
    for size, ctx, steps in (("w64", 1024, 200), ("w192", 2048, 1)):
        make_run(folder, size=size, ctx=ctx, steps=steps, perplexity=50.0, evaluated=False)
    make_copying(folder, lambda name: name.startswith("ttt_linear-mamba-w128-512-0"))
    return FIGURE.table(load_results(folder))


@pytest.mark.slow
def test_rows_of_table_1_are_named_where_there_is_a_table_1(table: Any) -> None:
    names = {ctx: set(part["name"]) for ctx, part in table.groupby("ctx")}
    assert {name[:5] for name in names[512]} == {*(f"row {row}" for row in range(1, 9)), "Mamba"}
    assert names[1024] == {"TTT-Linear (M)"}


@pytest.mark.slow
def test_half_and_end_come_first(table: Any) -> None:
    places = table["place"].tolist()
    number = sum(place != "" for place in places)
    assert "" not in places[:number]
    long = table[table["ctx"] == 1024]
    assert long.loc[long["place"] == "half", "tokens"].tolist() == [100 * TOKENS_PER_STEP]
    assert long.loc[long["place"] == "end", "tokens"].tolist() == [200 * TOKENS_PER_STEP]
    assert len(long) == 64
    assert (np.diff(long.loc[long["place"] == "", "tokens"]) > 0).all()
    # A single step has no half.
    assert table.loc[table["ctx"] == 2048, "place"].tolist() == ["end"]


@pytest.mark.slow
def test_seeds_are_thin_and_a_ring_is_at_the_end_of_a_run_that_copies(table: Any) -> None:
    with paper_style():
        canvas = FIGURE.draw(table)
    # Panels are sorted by context.
    axes = canvas.axes[1]
    thin = [line for line in axes.lines if line.get_linewidth() == 0.5]
    assert len(thin) == 16
    rings = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    assert len(rings) == 1
    assert any(text.get_text() == "copies from context at the end" for text in canvas.legends[0].get_texts())
    assert "Order at half of the tokens" in canvas.get_supxlabel()


def test_the_caption_names_pairs_that_swap() -> None:
    import pandas as pd

    values = {"half": {"row 4 (a)": 4.0, "row 5 (b)": 4.1}, "end": {"row 4 (a)": 3.1, "row 5 (b)": 3.05}}
    rows = [
        {"data": "pycode", "size": "s2", "ctx": ctx, "name": name, "seed": 0, "place": place, "smoothed": loss}
        for ctx in (512, 1024)
        for place, losses in values.items()
        for name, loss in losses.items()
    ]
    table = pd.DataFrame(rows)
    table.loc[(table["ctx"] == 1024) & (table["name"] == "row 5 (b)"), "smoothed"] += 1
    assert order_sentence(table) == (
        "Order at half of the tokens, elsewhere as at the end; swapped from half to end: "
        "pycode s2 at 512: row 5 and row 4 (at most 0.100 nats apart)."
    )
    assert order_sentence(table[table["ctx"] == 1024]) == "Order at half of the tokens: the same as at the end."
