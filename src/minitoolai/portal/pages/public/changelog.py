"""The changelog: CHANGELOG.md of this version, or the shop's own file, in pages that stay small."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import msgspec
from markupsafe import Markup
from starlette.responses import Response

from minitoolai import __version__
from minitoolai.core.catalog.shop import Shop
from minitoolai.portal.rendering.prose import render
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, not_found, page

#: A page ends with the section that exceeds this many characters.
PAGE_SIZE = 16_000
OWN_FILE = Path(__file__).parents[2] / "CHANGELOG.md"


class Section(msgspec.Struct, frozen=True):
    """One subject of a version, as HTML, and its page. `version` is empty unless the section is the first of it."""

    anchor: str
    page: int
    version: str
    title: str
    html: Markup


def text_of(shop: Shop, lang: str) -> str:
    """Return the changelog as Markdown. A shop with a name of its own has its own file, or none ("")."""
    if shop.is_own:
        return shop.page("changelog", lang)
    return _own_text()


@cache
def _own_text() -> str:
    return released_text(OWN_FILE.read_text("utf-8"), __version__)


def released_text(text: str, version: str) -> str:
    """Return a changelog without a section "Unreleased", which customers could not place.

    Until the file has a section of the version that runs, the unreleased changes are those of this version.
    """
    above, *rest = re.split(r"^## Unreleased *\n", text, maxsplit=1, flags=re.MULTILINE)
    if not rest:
        return text
    if re.search(rf"^## \[?{re.escape(version)}\b", text, re.MULTILINE):
        _, *older = re.split(r"^(?=## )", rest[0], maxsplit=1, flags=re.MULTILINE)
        return above + "".join(older)
    return f"{above}## {version}\n{rest[0]}"


@cache
def sections_of(text: str) -> tuple[Section, ...]:
    """Return the sections of a changelog, newest first. Headings are `## version` and `### subject`."""
    found: list[Section] = []
    # Links to files of the repository lead nowhere here.
    text = re.sub(r" ?\(\[[^\]]*\]\((?!https?:)[^)]*\)\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)
    number, size = 1, 0
    # Above the first heading is what the file says about itself.
    for version, body in _split(text, "## ")[1:]:
        heading = version
        for title, words in _split(body, "### "):
            if not title and not words.strip():
                continue
            if size > PAGE_SIZE:
                number, size = number + 1, 0
            found.append(Section(f"change-{len(found) + 1}", number, heading, title, render(words).html))
            heading, size = "", size + len(words)
    return tuple(found)


def _split(text: str, mark: str) -> list[tuple[str, str]]:
    """Return (heading, text below it) of each heading that begins with this mark; first the text above all of them."""
    parts = re.split(rf"^{mark}(.*)$", text, flags=re.MULTILINE)
    return [("", parts[0]), *zip(map(str.strip, parts[1::2]), parts[2::2], strict=True)]


@page("/changelog")
async def changelog(page: PageRequest) -> Response:
    """Show a page of the changelog, the newest changes first."""
    shop = page.site.shop
    text = text_of(shop, page.lang)
    if not text:
        return not_found(page)
    sections = sections_of(text)
    number = page.query_number("page", longest=4) or 1
    shown = [section for section in sections if section.page == number]
    if not shown:
        return not_found(page)
    language = shop.page_language("changelog", page.lang) if shop.is_own else "en"
    return page.render(
        "pages/changelog.html", contents=sections, sections=shown, number=number, last=sections[-1].page,
        text_language=language,
    )  # fmt: skip


HANDLERS: list[Handler] = [changelog]
