"""Render Markdown as HTML that is safe to show: the shop's own pages, and the answers of models.

HTML of the author is shown as text, and images are never loaded. So a text cannot run a script, style the page or
contact another host. `portal/static/studio-markdown.js` shows streamed answers by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from markdown_it.renderer import RendererProtocol
    from markdown_it.token import Token

#: Longest part of an answer that is rendered, in characters.
MAX_ANSWER = 200_000


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


def render_answer(text: str) -> Markup:
    """Return an answer of a model. Links lead to http, https and mailto only, never to a page of this site."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("js-default", {"html": False, "linkify": False, "typographer": False}).disable("image")
    parser.validateLink = _is_link_of_answer  # type: ignore[method-assign]
    parser.add_render_rule("link_open", _open_link)
    tokens = parser.parse(text[:MAX_ANSWER])
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            # The page has headings of its own above.
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704 - escaped by the parser


def _open_link(renderer: RendererProtocol, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    """Return the tag of a link that tells the other site nothing, and search engines not to follow it."""
    address = escape(str(tokens[at].attrGet("href") or ""))
    return f'<a href="{address}" rel="noopener noreferrer nofollow" target="_blank">'


def _is_link_of_answer(url: str) -> bool:
    return re.match(r"(?:https?://|mailto:)", url.strip(), re.IGNORECASE) is not None


def _is_harmless(url: str) -> bool:
    return re.match(r"(?:https?://|mailto:|/(?!/)|#|[^:/?#]+(?:$|[/?#]))", url.strip(), re.IGNORECASE) is not None
