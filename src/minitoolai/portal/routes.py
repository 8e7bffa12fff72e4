"""All pages of the portal as one ASGI app, and the paths that belong to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import compile_path

from minitoolai.http.asgi import Scope
from minitoolai.http.routing import MethodRoute
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.pages.access import auth, email, external, passkeys, recovery, security
from minitoolai.portal.pages.account import account, bodies, keys, log_export, request_log, team, usage
from minitoolai.portal.pages.admin import admin, corrections, selling
from minitoolai.portal.pages.insight import account as admin_account
from minitoolai.portal.pages.insight import dashboard, engines, view
from minitoolai.portal.pages.insight import requests as admin_requests
from minitoolai.portal.pages.insight import search as admin_search
from minitoolai.portal.pages.money import auto_topup, invoices, notices, plans, topup
from minitoolai.portal.pages.public import changelog, check, docs, home, limits, llms, models, reference, search, shop
from minitoolai.portal.pages.studio import chat, gallery, playground, prompts, transcribe
from minitoolai.portal.reference import Reference
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import PageHandler, is_valid_host, method_not_allowed, not_found, page_routes
from minitoolai.portal.site import Site

#: The modules with pages; each has a list HANDLERS.
MODULES = (
    home, auth, external, team, account, security, passkeys, recovery, email, keys, usage, request_log, bodies,
    log_export, chat, playground, prompts, gallery, transcribe, topup, plans, invoices, auto_topup, notices, docs,
    limits, changelog, models, reference, search, llms, check, shop, admin, corrections, selling, admin_account,
    dashboard, engines, admin_requests, admin_search, view,
)  # fmt: skip
#: First segments of the paths that belong to the portal. The API has all others.
FIRST_SEGMENTS = frozenset(
    (
        "",
        *LANGUAGES,
        "static",
        "webhooks",
        "favicon.ico",
        "robots.txt",
        "sitemap.xml",
        "api-documentation",
        *llms.PATHS,
    )
)


def is_portal_path(path: str) -> bool:
    """Return True if a path belongs to the portal rather than to the API."""
    return path[1:].partition("/")[0] in FIRST_SEGMENTS


def wants_page(scope: Scope) -> bool:
    """Return True if a person opened this address in a browser: a program of a customer does not accept HTML."""
    accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    return scope["method"] in ("GET", "HEAD") and b"text/html" in accept


def page_for_browser(site: Site) -> Callable[[Request], Response | None]:
    """Return what answers a browser at a path that nothing here has; its result is None for any other client.

    It redirects to the page of that name in the visitor's language, such as `/keys` → `/de/keys`, or says that there
    is none.
    """
    modules = [handler for module in MODULES for handler in module.HANDLERS if isinstance(handler, PageHandler)]
    patterns = [compile_path(one.path)[0] for one in modules if "GET" in one.methods and ":path}" not in one.path]

    def respond(request: Request) -> Response | None:
        if not wants_page(request.scope) or not is_valid_host(request.headers.get("host", "")):
            return None
        lang, path = home.language_of(request), request.scope["path"].rstrip("/")
        page = PageRequest(site, request, lang)
        if any(pattern.match(path) for pattern in patterns):
            query = request.scope["query_string"].decode("latin-1")
            response = page.redirect_to_url(page.url(quote(path)) + (f"?{query}" if query else ""))
            response.status_code = 302
        else:
            response = not_found(page)
        response.headers["vary"] = "accept, accept-language, cookie, accept-encoding"
        return response

    return respond


def portal(site: Site, description: dict[str, Any]) -> Starlette:
    """Return the portal as an ASGI app. `description`: of the API, in OpenAPI."""
    handlers = [handler for module in MODULES for handler in module.HANDLERS]
    plain = [handler for handler in handlers if isinstance(handler, MethodRoute)]
    pages = page_routes(handler for handler in handlers if isinstance(handler, PageHandler))
    app = Starlette(routes=[*plain, *pages], exception_handlers={HTTPException: _http_error})
    app.router.redirect_slashes = False
    app.state.site = site
    app.state.reference = Reference(description)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer 404 and 405 of the router: with a page for a browser and where the path has a language, else with text."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 404 and path[1:3] in LANGUAGES:
        return not_found(PageRequest(request.app.state.site, request, path[1:3]))
    if error.status_code in (404, 405) and wants_page(request.scope):
        page = PageRequest(request.app.state.site, request, home.language_of(request))
        return not_found(page) if error.status_code == 404 else await method_not_allowed(page)
    text = f"{error.status_code} {request.method} {path[:200]}: {error.detail}\n"
    return PlainTextResponse(text, error.status_code, error.headers)
