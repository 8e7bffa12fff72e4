"""The shop's own pages: terms, privacy policy and imprint, from the Markdown files that the catalog names."""

from __future__ import annotations

from starlette.responses import Response

from minitoolai.portal.i18n import N_
from minitoolai.portal.rendering.prose import render
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Function, Handler, not_found, page

#: Page → its title, for a text without a heading.
TITLES = {"terms": N_("Terms"), "privacy": N_("Privacy"), "imprint": N_("Imprint")}


def _show(name: str, usual_title: str) -> Function:
    async def show(request: PageRequest) -> Response:
        shop = request.site.shop
        text = shop.page(name, request.lang)
        if not text:
            return not_found(request)
        prose, translate = render(text), request.gettext
        title = prose.title or translate(usual_title)
        return request.render(
            "pages/shop.html", heading=title, prose=prose.html, prose_language=shop.page_language(name, request.lang)
        )

    return show


HANDLERS: list[Handler] = [page(f"/{name}")(_show(name, title)) for name, title in TITLES.items()]
