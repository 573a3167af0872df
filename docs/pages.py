"""Let MkDocs read the documents from their places in the repository, so that their links hold there and on the site."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

NAME = re.compile(r"(?<!\[)`(?P<name>[\w./]+\.(?:md|ipynb))`(?!\])")
"""A document that another names in backquotes."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of ``docs/`` by all pages of the navigation and the files of ``docs/``, named from the root."""
    root = Path(config.config_file_path).parent
    names = set(_pages(config.nav))
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
            names.add(f"docs/{file.src_uri}")
    for name in sorted(names):
        if not name.endswith(".py"):
            files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Make links of the documents that a page names in backquotes."""
    folder = posixpath.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        name = match["name"]
        if files.get_file_from_path(name) is None or name == page.file.src_uri:
            return match[0]
        return f"[`{name}`]({posixpath.relpath(name, folder)})"

    return NAME.sub(link, markdown)


def _pages(nav: Any) -> Iterator[str]:
    """Yield the paths in the navigation, a tree of lists and of mappings from titles."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(part)
