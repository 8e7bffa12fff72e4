"""`@page` and `@form`: a function of a visit becomes a handler in all seven languages, behind every check."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import quote

from litestar import Request, Response
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.types import Method

from minitoolai.core.errors import BodyTooLarge, InvalidRequest, NotFound, Overloaded, ServiceError, StoreError
from minitoolai.portal.forms import LARGEST_FORM, parse_form
from minitoolai.portal.i18n import DEFAULT, LANGUAGES
from minitoolai.portal.navigation import Needs
from minitoolai.portal.site import Site
from minitoolai.portal.visit import Answer, Visit

log = logging.getLogger(__name__)
Function = Callable[[Visit], Awaitable[Answer]]


def page(path: str, *, needs: Needs = "nobody") -> Callable[[Function], HTTPRouteHandler]:
    """GET `/{lang}{path}`. A page that needs a user leads visitors to sign in and back; admin pages do not exist."""
    return lambda function: _handler(["GET", "HEAD"], path, needs, function)


def form(path: str, *, needs: Needs = "nobody") -> Callable[[Function], HTTPRouteHandler]:
    """POST `/{lang}{path}` of a form of ours: `visit.form` is read, and its token checked, before the function runs."""
    return lambda function: _handler(["POST"], path, needs, function)


def _handler(methods: list[Method], path: str, needs: Needs, function: Function) -> HTTPRouteHandler:
    # The framework reads these hints in this module, so __module__ stays as it is.
    async def handle(request: Request[Any, Any, State]) -> Response[bytes]:
        return await _answer(request, needs, function, reads_form="POST" in methods)

    handle.__name__, handle.__doc__ = function.__name__, function.__doc__
    paths = [f"/{lang}{path}" for lang in LANGUAGES]
    return HTTPRouteHandler(paths, http_method=methods, status_code=200)(handle)


async def _answer(request: Request[Any, Any, State], needs: Needs, function: Function, *, reads_form: bool) -> Answer:
    visit = await start(request)
    try:
        if reads_form:
            visit.form = parse_form(await _read(request))
            if not visit.is_own_form():
                return _foreign(visit)
        if needs != "nobody" and visit.user is None:
            return visit.send_to(visit.url(f"/signin?next={quote(request.scope['path'])}"))
        if needs == "admin" and not visit.member.is_admin:
            return nothing_here(visit)
        return await function(visit)
    except (ServiceError, StoreError) as error:
        return _refusal(visit, error)


async def start(request: Request[Any, Any, State], otherwise: str = DEFAULT) -> Visit:
    """The visit behind a request, in the language of its path, or `otherwise`."""
    lang = request.scope["path"].strip("/").partition("/")[0]
    site = cast(Site, request.app.state.site)
    return await Visit(site, request, lang if lang in LANGUAGES else otherwise).begin()


async def _read(request: Request[Any, Any, State]) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise InvalidRequest("send the form as browsers do")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM:
            raise BodyTooLarge(f"the form is larger than {LARGEST_FORM // 1024} kB")
    return body


def _foreign(visit: Visit) -> Answer:
    _ = visit.gettext
    return visit.fail(
        403,
        _("This form has grown old"),
        _("It belongs to another session, or your browser keeps no cookies. Go back, reload the page, and try again."),
    )


def nothing_here(visit: Visit) -> Answer:
    """404."""
    _ = visit.gettext
    return visit.fail(404, _("There is nothing here"), _("The page may have moved, or the address has a slip in it."))


def too_often(visit: Visit, wait_s: int) -> Answer:
    """429, with when to come back."""
    minutes = -(-wait_s // 60)
    _, n_ = visit.gettext, visit.ngettext
    words = n_("Please try again in %(num)d minute.", "Please try again in %(num)d minutes.", minutes)
    answer = visit.fail(429, _("That was a little often"), words % {"num": minutes})
    answer.headers["retry-after"] = str(wait_s)
    return answer


def _refusal(visit: Visit, error: ServiceError | StoreError) -> Answer:
    _ = visit.gettext
    if isinstance(error, NotFound):
        return nothing_here(visit)
    if isinstance(error, InvalidRequest):
        return visit.fail(413 if isinstance(error, BodyTooLarge) else 400, _("That did not work"), error.message)
    if isinstance(error, Overloaded):
        return visit.fail(503, _("Much is going on"), _("Please try again in a moment. Nothing was changed."))
    log.error("a page failed: %s", error, exc_info=error)
    return visit.fail(500, _("Something broke on our side"), _("It has been written down. Nothing of yours is lost."))
