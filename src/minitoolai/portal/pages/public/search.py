"""Search the guide, the API reference, the error codes and the models, in the language of the page."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from markupsafe import Markup, escape
from starlette.responses import Response

from minitoolai.portal.error_words import customer_codes
from minitoolai.portal.pages.public.docs import SECTIONS, guide
from minitoolai.portal.pages.public.reference import reference_of
from minitoolai.portal.reference import Field, Reference
from minitoolai.portal.request import MarkdownRequest, PageRequest
from minitoolai.portal.routing import Handler, page
from minitoolai.storage.text_index import AFTER, BEFORE, Passage, TextIndex

MOST_HITS = 20
MOST_CHARACTERS = 200


class SearchResult(msgspec.Struct, frozen=True):
    """A line of the results: where it leads, its title, and the text around the match."""

    address: str
    title: str
    snippet: Markup


@page("/search")
async def search(page: PageRequest) -> Response:
    """Show the results, or only the form."""
    text = page.query.get("q", "")[:MOST_CHARACTERS].strip()
    hits = (await _index(page)).search(text, MOST_HITS) if text else []
    results = [SearchResult(page.url(hit.address), hit.title, _marked(hit.snippet)) for hit in hits]
    return page.render("reference/search.html", text=text, results=results)


async def _index(page: PageRequest) -> TextIndex:
    """Return the index of the page's language. It is made at the first search, and anew for other models.

    A reload replaces the contents of the catalog, not the object, so the models themselves are compared.
    """
    models, known = page.site.reports.models(), page.site.search_indexes.get(page.lang)
    if known is None or known[0] != models:
        known = page.site.search_indexes[page.lang] = models, TextIndex(await _passages(page))
    return known[1]


class _UnpackedRequest(MarkdownRequest):
    """A request for Markdown that is read here: the response is not compressed."""

    def text(self, text: str, media_type: str, status: int = 200) -> Response:
        return Response(text, status, media_type=media_type)


async def _passages(page: PageRequest) -> list[Passage]:
    return [*await _of_guide(page), *_of_errors(page), *_of_reference(reference_of(page)), *_of_models(page)]


async def _of_guide(page: PageRequest) -> list[Passage]:
    """Return the sections of the guide. All visitors share the index, so it names no address of the site."""
    request = _UnpackedRequest(page.site, page.request, page.lang, "/docs")
    response = await guide.function(request)
    text = bytes(response.body).decode().replace(request.origin, "")
    anchors = {page.gettext(title): anchor for anchor, title in SECTIONS.items()}
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return [
        Passage(f"/docs#{anchors[title]}", title, _plain(body))
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
        if title in anchors
    ]


def _of_errors(page: PageRequest) -> Iterator[Passage]:
    for status, code, words in customer_codes():
        text = re.sub(r"<[^>]*>", "", page.gettext(words))
        yield Passage("/docs/errors", code, f"{status or ''} {text}".strip())


def _of_reference(reference: Reference) -> Iterator[Passage]:
    for one in reference.operations.values():
        texts = [one.title, one.description]
        for fields in (one.parameters, *(form.fields for body in one.bodies for form in body.forms)):
            for field in fields:
                texts += _words_of(field)
        yield Passage(f"/reference/{one.slug}", f"{one.method} {one.path}", _plain(" · ".join(filter(None, texts))))


def _words_of(field: Field) -> Iterator[str]:
    yield f"{field.name}: {field.description}" if field.description else field.name
    for form in field.forms:
        for inner in form.fields:
            yield from _words_of(inner)


def _of_models(page: PageRequest) -> Iterator[Passage]:
    for offer in page.site.reports.offers():
        yield Passage(f"/models/{offer.model.name}", offer.model.name, page.gettext("Models"))


def _plain(text: str) -> str:
    """Return Markdown without its marks, on one line."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[`*|#]+|^-{3,}$", " ", text, flags=re.MULTILINE)).strip()


def _marked(snippet: str) -> Markup:
    html = str(escape(snippet)).replace(BEFORE, "<mark>").replace(AFTER, "</mark>")
    return Markup(html)  # noqa: S704 - escaped above


HANDLERS: list[Handler] = [search]
