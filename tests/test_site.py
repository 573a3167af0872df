"""The site is built strictly, has every document and every public name, and loads nothing from the net."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

import ttt
from ttt.config.assets import assets

ROOT = assets()
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("ttt/**/*.md")]
DOCUMENTS += [ROOT / folder / "README.md" for folder in ("slurm", "sweeps")]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


def page(document: Path) -> str:
    """Return the path of a document's page."""
    name = document.relative_to(ROOT).with_suffix(".html").as_posix()
    return re.sub(r"\bREADME\b", "index", name)


def test_every_document_is_a_page_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for document in DOCUMENTS:
        assert (site / page(document)).is_file(), f"mkdocs.yml names no {document.relative_to(ROOT)}"
        if document != ROOT / "README.md":
            assert f'href="{page(document)}" class="md-nav__link"' in start


class Loads(HTMLParser):
    """Collects the addresses that a browser loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag != "a" and given.get("rel") != "canonical":
            self.found += [given[name] or "" for name in ("src", "href") if name in given]


def addresses(site: Path) -> Iterator[tuple[Path, str]]:
    for path in site.rglob("*.html"):
        yield from ((path, address) for address in Loads(path.read_text(encoding="utf-8")).found)
    for path in site.rglob("*.css"):
        yield from ((path, address) for address in re.findall(r"url\(([^)]*)\)", path.read_text(encoding="utf-8")))


def test_a_page_loads_files_of_the_site_alone(site: Path) -> None:
    found = dict.fromkeys(addresses(site))
    assert any(address.endswith("docs/figures/overview.png") for _, address in found)
    for path, given in found:
        address = given.strip("\"'")
        if not address.startswith(("data:", "#")):
            assert not re.match(r"\w+:|//", address), f"{path} loads {address}"
            assert path.name == "404.html" or (path.parent / address.partition("?")[0]).is_file()


def test_every_public_name_has_its_entry(site: Path) -> None:
    text = (site / "docs/api.html").read_text(encoding="utf-8")
    for name in ttt.__all__:
        assert re.search(rf'<h2 id="ttt\.api\.\w+\.{name}"', text)
    assert text.count("ValueError") >= len(ttt.__all__)


def test_a_document_that_is_named_is_a_link(site: Path) -> None:
    text = (site / "docs/tutorial.html").read_text(encoding="utf-8")
    assert re.search(r'<a href="../CONTRIBUTING.html"><code>CONTRIBUTING.md</code></a>', text)
