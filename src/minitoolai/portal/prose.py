"""Render the Markdown of the shop's own pages as HTML that is safe to show: no HTML of the author, no images."""

from __future__ import annotations

import re
from functools import lru_cache

from markupsafe import Markup


class Prose:
    """A page: its title, which is the first heading, and its HTML."""

    __slots__ = ("html", "title")

    def __init__(self, title: str, html: Markup) -> None:
        self.title, self.html = title, html


@lru_cache(64)
def render(text: str) -> Prose:
    """Return a page. HTML in the text is shown as text, and links lead to http, https, mailto and this site only."""
    from markdown_it import MarkdownIt  # only shops with pages of their own pay for the import

    parser = MarkdownIt("js-default", {"html": False, "typographer": False}).disable("image")
    parser.validateLink = _is_harmless  # type: ignore[method-assign]
    tokens = parser.parse(text)
    headings = (tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open")
    title = re.sub(r"[*_`\[\]]", "", next(headings, ""))
    return Prose(title, Markup(parser.renderer.render(tokens, parser.options, {})))  # noqa: S704 - escaped by the parser


def _is_harmless(url: str) -> bool:
    return re.match(r"(?:https?://|mailto:|/(?!/)|#|[^:/?#]+(?:$|[/?#]))", url.strip(), re.IGNORECASE) is not None
