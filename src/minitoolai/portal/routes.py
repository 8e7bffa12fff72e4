"""All pages of the portal as one ASGI app, and the paths that belong to it."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from minitoolai.http.routing import MethodRoute
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.pages import (
    account,
    admin,
    auth,
    check,
    docs,
    email,
    home,
    keys,
    llms,
    playground,
    security,
    topup,
    usage,
)
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import PageHandler, not_found, page_routes
from minitoolai.portal.site import Site

#: The modules with pages; each has a list HANDLERS.
MODULES = (home, auth, account, security, email, keys, usage, playground, topup, docs, llms, check, admin)
#: First segments of the paths that belong to the portal. The API has all others.
FIRST_SEGMENTS = frozenset(
    ("", *LANGUAGES, "static", "webhooks", "favicon.ico", "robots.txt", "api-documentation", *llms.PATHS)
)


def is_portal_path(path: str) -> bool:
    """Return True if a path belongs to the portal rather than to the API."""
    return path[1:].partition("/")[0] in FIRST_SEGMENTS


def portal(site: Site) -> Starlette:
    """Return the portal as an ASGI app."""
    handlers = [handler for module in MODULES for handler in module.HANDLERS]
    plain = [handler for handler in handlers if isinstance(handler, MethodRoute)]
    pages = page_routes(handler for handler in handlers if isinstance(handler, PageHandler))
    app = Starlette(routes=[*plain, *pages], exception_handlers={HTTPException: _http_error})
    app.router.redirect_slashes = False
    app.state.site = site
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer 404 and 405 of the router: with a page where the path has a language, else with a line of text."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 404 and path[1:3] in LANGUAGES:
        return not_found(PageRequest(request.app.state.site, request, path[1:3]))
    text = f"{error.status_code} {request.method} {path[:200]}: {error.detail}\n"
    return PlainTextResponse(text, error.status_code, error.headers)
