import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic import make_ladder, make_latency, make_run

from ttt.analysis.store import load_results
from ttt.plots.registry import figures
from ttt.plots.report import report

FIGURES = list(figures().values())
VOID = {"meta", "img", "br"}


class Tags(HTMLParser):
    """Collects the tags that are open and the attributes of all tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_report_is_one_well_formed_page_with_everything(tmp_path: Path) -> None:
    make_ladder(tmp_path, seeds=(0, 1))
    make_latency(tmp_path)
    run = make_run(tmp_path, "ttt_mlp", steps=2, status="diverged", evaluated=False)
    make_run(tmp_path, "ttt_mlp", seed=1, steps=1, steps_planned=2, perplexity=60)
    page = report(load_results(tmp_path), FIGURES)
    assert page.count("<td>stopped early</td>") == 1
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    attributes = tags.attributes
    sources = [value or "" for name, value in attributes if name in ("src", "href")]
    assert all(source.startswith(("data:", "#", "https://arxiv.org/")) for source in sources)
    assert sum(source.startswith("data:image/png") for source in sources) == page.count("<img") >= 5
    anchors = {value for name, value in attributes if name == "id"}
    assert {source[1:] for source in sources if source.startswith("#")} <= anchors
    assert run.path.name in page
    assert "the loss became nan" in page
    assert re.search(r"Not drawn.*ttt-eval run=FOLDER probe=inner_loss", page, re.DOTALL)
    assert "not resolved" in page


@pytest.mark.slow
def test_equal_results_give_equal_pages_and_text_is_escaped(tmp_path: Path) -> None:
    make_run(tmp_path, "<b>", "own", steps=2, perplexity=30, evaluated=False)
    pages = [report(load_results(tmp_path), FIGURES) for _ in range(2)]
    assert pages[0] == pages[1]
    assert "<b>-own" not in pages[0]
    assert "&lt;b&gt;-own" in pages[0]
