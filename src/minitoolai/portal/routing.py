"""`@page` and `@form`: a function of a visit becomes a handler in all seven languages, behind every check.

`the_rest` adds what nobody wrote: whatever else is asked of these paths is answered by a page, too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast
from urllib.parse import quote

from litestar import Request, Response
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.types import Method

from minitoolai.core.errors import BodyTooLarge, InvalidRequest, NotFound, Overloaded, ServiceError, StoreError
from minitoolai.portal import request as drafts
from minitoolai.portal.forms import LARGEST_FORM, parse_form
from minitoolai.portal.i18n import DEFAULT, LANGUAGES
from minitoolai.portal.request import Answer, PageRequest
from minitoolai.portal.site import Needs, Site

log = logging.getLogger(__name__)
Function = Callable[[PageRequest], Awaitable[Answer]]
#: Methods beside GET and HEAD; browsers know the first alone.
CHANGING: tuple[Method, ...] = ("POST", "PUT", "PATCH", "DELETE")


def page(path: str, *, needs: Needs = "nobody") -> Callable[[Function], HTTPRouteHandler]:
    """GET `/{lang}{path}`. A page that needs a user leads visitors to sign in and back; admin pages do not exist."""
    return lambda function: _handler(("GET", "HEAD"), path, needs, function)


def form(path: str, *, needs: Needs = "nobody", keeps: Sequence[str] = ()) -> Callable[[Function], HTTPRouteHandler]:
    """POST `/{lang}{path}` of a form of ours: `visit.form` is read, and its token checked, before the function runs.

    `keeps`: fields that outlive a session that ended; its page fills them in with `drafts.refill`.
    """
    return lambda function: _handler(("POST",), path, needs, function, reads_form=True, keeps=keeps)


def anything(path: str) -> Callable[[Function], HTTPRouteHandler]:
    """Every method of `/{lang}{path}`; what is sent is not read."""
    return lambda function: _handler(("GET", "HEAD", *CHANGING), path, "nobody", function)


def _handler(
    methods: Sequence[Method],
    path: str,
    needs: Needs,
    function: Function,
    *,
    reads_form: bool = False,
    keeps: Sequence[str] = (),
) -> HTTPRouteHandler:
    # The framework reads these hints in this module, so __module__ stays as it is.
    async def handle(request: Request[Any, Any, State]) -> Response[bytes]:
        return await _answer(request, needs, function, reads_form=reads_form, keeps=keeps)

    handle.__name__, handle.__doc__ = function.__name__, function.__doc__
    paths = [f"/{lang}{path}" for lang in LANGUAGES]
    return HTTPRouteHandler(paths, http_method=methods, status_code=200, opt={"path": path, "needs": needs})(handle)


def fallback_handlers(handlers: Iterable[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """For the paths of these: a form's path, looked at, leads to its page; a method that is nobody's is told so."""
    taken: dict[str, set[str]] = {}
    needs_of: dict[str, Needs] = {}
    for handler in handlers:
        if "path" in handler.opt:
            taken.setdefault(handler.opt["path"], set()).update(handler.http_methods)
            needs_of.setdefault(handler.opt["path"], handler.opt["needs"])
    more = []
    for path, methods in taken.items():
        if "GET" not in methods:
            more.append(page(path, needs=needs_of[path])(_lead_back))
        if others := [method for method in CHANGING if method not in methods]:
            more.append(_handler(others, path, needs_of[path], not_so))
    # The framework's router does not come back from such a branch to the path that answers everything.
    branches = {path[: path.rindex("}") + 1] for path in taken if "{" in path and ":path" not in path}
    return [*more, *(anything(f"{branch}/{{rest:path}}")(nowhere) for branch in sorted(branches))]


async def nowhere(visit: PageRequest) -> Answer:
    """Whatever no other page answers."""
    return nothing_here(visit)


async def _lead_back(visit: PageRequest) -> Answer:
    return visit.redirect(visit.path.rpartition("/")[0] or "/")


async def _answer(
    request: Request[Any, Any, State], needs: Needs, function: Function, *, reads_form: bool, keeps: Sequence[str]
) -> Answer:
    visit = await start(request)
    try:
        if reads_form:
            visit.form = parse_form(await _read(request))
            is_lost = needs != "nobody" and visit.user is None and visit.is_from_here
            if not is_lost and not visit.is_own_form():
                return _foreign(visit)
        if needs != "nobody" and visit.user is None:
            drafts.keep(visit, keeps)
            return _to_sign_in(visit, said=reads_form)
        if needs == "admin" and not visit.member.is_admin:
            return nothing_here(visit)
        return await function(visit)
    except (ServiceError, StoreError) as error:
        return _refusal(visit, error)


def _to_sign_in(visit: PageRequest, *, said: bool) -> Answer:
    """And from there back: to the page, or to the page of the form."""
    words = visit.gettext("You were signed out in the meantime. Sign in, and you are led back to the form.")
    return visit.redirect(f"/signin?next={quote(visit.here)}", said=words if said else "", kind="warn")


async def start(request: Request[Any, Any, State], otherwise: str = DEFAULT) -> PageRequest:
    """The visit behind a request, in the language of its path, or `otherwise`."""
    visit = bare(request, otherwise)
    request.state.visit = visit
    return await visit.begin()


def bare(request: Request[Any, Any, State], otherwise: str = DEFAULT) -> PageRequest:
    """The same without a look at who it is: for saying that something went wrong."""
    lang = request.scope["path"].strip("/").partition("/")[0]
    return PageRequest(cast(Site, request.app.state.site), request, lang if lang in LANGUAGES else otherwise)


async def _read(request: Request[Any, Any, State]) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise InvalidRequest("send the form as browsers do")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM:
            raise BodyTooLarge(f"the form is larger than {LARGEST_FORM // 1024} kB")
    return body


def _foreign(visit: PageRequest) -> Answer:
    _ = visit.gettext
    return visit.fail(
        403,
        _("This form has grown old"),
        _("It belongs to another session, or your browser keeps no cookies. Load the page anew and try again."),
        again=True,
    )


def nothing_here(visit: PageRequest) -> Answer:
    """404."""
    _ = visit.gettext
    return visit.fail(404, _("There is nothing here"), _("The page may have moved, or the address has a slip in it."))


async def not_so(visit: PageRequest) -> Answer:
    """405."""
    _ = visit.gettext
    answer = visit.fail(405, _("That is not how it works"), _("This page cannot be asked in that way."), again=True)
    answer.headers["allow"] = "GET, HEAD"
    return answer


def broken(visit: PageRequest) -> Answer:
    """500."""
    _ = visit.gettext
    return visit.fail(500, _("Something broke on our side"), _("It has been written down. Nothing of yours is lost."))


def too_often(visit: PageRequest, wait_s: int) -> Answer:
    """429, with when to come back."""
    minutes = -(-wait_s // 60)
    _, n_ = visit.gettext, visit.ngettext
    words = n_("Please try again in %(num)d minute.", "Please try again in %(num)d minutes.", minutes)
    answer = visit.fail(429, _("That was a little often"), words % {"num": minutes})
    answer.headers["retry-after"] = str(wait_s)
    return answer


def _refusal(visit: PageRequest, error: ServiceError | StoreError) -> Answer:
    _ = visit.gettext
    if isinstance(error, NotFound):
        return nothing_here(visit)
    if isinstance(error, BodyTooLarge):
        words = _("A form may have %(most)s kB; this one has more.") % {"most": LARGEST_FORM // 1024}
        return visit.fail(413, _("That was too much"), words, again=True)
    if isinstance(error, InvalidRequest):
        words = _("What was sent could not be read. Load the page anew and try again.")
        return visit.fail(400, _("That did not work"), words, again=True)
    if isinstance(error, Overloaded):
        return visit.fail(503, _("Much is going on"), _("Please try again in a moment. Nothing was changed."))
    log.error("a page failed: %s", error, exc_info=error)
    return broken(visit)
