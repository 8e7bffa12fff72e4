"""Every page of the portal, and which paths are the portal's at all."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.pages import account, admin, auth, docs, home, keys, playground, topup, usage
from minitoolai.portal.routing import bare, broken, fallback_handlers, nothing_here
from minitoolai.portal.site import Site

log = logging.getLogger(__name__)

#: The modules with pages; each has a list HANDLERS.
MODULES = (home, auth, account, keys, usage, playground, topup, docs, admin)
FIRST_WORDS = frozenset(("", *LANGUAGES, "static", "webhooks", "favicon.ico", "robots.txt", "api-documentation"))


def is_portals(path: str) -> bool:
    """Whether a path leads to a page rather than to the API."""
    return path[1:].partition("/")[0] in FIRST_WORDS


def portal(site: Site) -> Litestar:
    """The portal as an ASGI app."""
    handlers = [handler for module in MODULES for handler in module.HANDLERS]
    return Litestar(
        [*handlers, *fallback_handlers(handlers)],
        state=State({"site": site}),
        openapi_config=None,
        logging_config=None,
        exception_handlers={HTTPException: _framework, Exception: _surprise},
    )


def _framework(request: Request[Any, Any, State], error: HTTPException) -> Response[bytes]:
    """Whatever the framework refuses by itself."""
    if error.status_code == HTTPStatus.NOT_FOUND and request.scope["path"][1:3] in LANGUAGES:
        return nothing_here(bare(request))
    words = f"{error.status_code} {request.method} {request.scope['path'][:200]}: {error.detail}\n"
    return Response(words.encode(), status_code=error.status_code, media_type="text/plain", headers=error.headers or {})


def _surprise(request: Request[Any, Any, State], error: Exception) -> Response[bytes]:
    log.error("the portal failed at %s %s", request.method, request.scope["path"][:200], exc_info=error)
    return broken(getattr(request.state, "visit", None) or bare(request))
