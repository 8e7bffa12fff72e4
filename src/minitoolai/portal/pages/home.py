"""The way in: `/` by language, the front page, the choice of a theme, files, and what is not there."""

from __future__ import annotations

from typing import Any, cast

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler

from minitoolai.portal.forms import read_cookies
from minitoolai.portal.highlight import example
from minitoolai.portal.i18n import preferred
from minitoolai.portal.request import Answer, PageRequest, security_headers
from minitoolai.portal.routing import anything, form, nowhere, page
from minitoolai.portal.site import Site

YEAR = "public, max-age=31536000, immutable"


@get("/")
async def root(request: Request[Any, Any, State]) -> Response[bytes]:
    """To the visitor's language."""
    lang = language_of(request)
    headers = {"location": f"/{lang}/", "vary": "accept-language, cookie", "cache-control": "private, no-cache"}
    return Response(b"", status_code=302, headers=headers | security_headers(secure=False))


def language_of(request: Request[Any, Any, State]) -> str:
    """The language of a visitor at an address without one."""
    cookies = read_cookies(request.headers.get("cookie", ""))
    return preferred(request.headers.get("accept-language", ""), cookies.get("lang", ""))


@page("/")
async def home(visit: PageRequest) -> Answer:
    """What this is."""
    return visit.render("pages/home.html", example=example)


@form("/theme")
async def theme(visit: PageRequest) -> Answer:
    """Dark, light, or as the system says; remembered."""
    chosen = visit.form["theme"]
    visit.remember("theme", chosen if chosen in ("light", "dark") else "")
    return visit.send_to(visit.next("/"))


@get("/static/{path:path}")
async def static(request: Request[Any, Any, State], path: str) -> Response[bytes]:
    """A file, for a year: its address changes with it."""
    asset = cast(Site, request.app.state.site).assets.find(path)
    if asset is None:
        return Response(b"", status_code=404)
    headers = {"cache-control": YEAR, "x-content-type-options": "nosniff", "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.packed, media_type=asset.media_type, headers=headers | {"content-encoding": "gzip"})
    return Response(asset.body, media_type=asset.media_type, headers=headers)


@get("/favicon.ico")
async def favicon(request: Request[Any, Any, State]) -> Response[bytes]:
    """For browsers that ask without being told."""
    address = cast(Site, request.app.state.site).assets.url("mark.svg")
    return Response(b"", status_code=302, headers={"location": address})


@get("/robots.txt")
async def robots() -> Response[str]:
    """Search engines may read what everybody may."""
    return Response("User-agent: *\nDisallow: /*/signin\nDisallow: /*/reset\n", media_type="text/plain")


HANDLERS: list[HTTPRouteHandler] = [root, home, theme, static, favicon, robots, anything("/{rest:path}")(nowhere)]
