"""
Check the links within the site: each leads to a file, and to an anchor, that are there.

Sphinx checks what it resolves itself, but neither plain links of a page nor links to what pydoctor writes.  As an
extension this warns when the build has ended, which is an error with C{-W}.
This module knows only HTML.
"""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value is None:
                continue
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value)
            elif name in ("href", "src"):
                self.links.append(value)


def brokenLinks(site: Path) -> Iterator[str]:
    """A sentence for each link that leads nowhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        if path.is_relative_to(site / "api"):
            continue  # pydoctor complains itself, and its indexes name attributes twice that a property gives
        for link in sorted(set(page.links)):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                yield f"{path.relative_to(site)} links to {link}, which is not there"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(site)} links to {link}, which has no such anchor"


def setup(app: Any) -> dict[str, bool]:
    from sphinx.util import logging

    def check(app: Any, exception: Exception | None) -> None:
        if exception is None and app.builder.format == "html":
            for sentence in brokenLinks(Path(app.outdir).resolve()):
                logging.getLogger("links").warning(sentence)

    app.connect("build-finished", check, priority=900)  # behind pydoctor's
    return {"parallel_read_safe": True}
