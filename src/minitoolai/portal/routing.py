"""`@page` and `@form` turn a function of a `PageRequest` into a handler in all seven languages, behind every check.

`page_routes` groups the handlers by path into Starlette routes, and adds what no handler covers: GET on the path of a
form redirects to its page, and an unsupported method gets a page with status 405.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal
from urllib.parse import quote

import msgspec
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from minitoolai.core.errors import (
    BodyTooLarge,
    ClientLeft,
    InvalidRequest,
    NotFound,
    Overloaded,
    ReportTooLarge,
    ServiceError,
    StoreError,
)
from minitoolai.core.roles import Action
from minitoolai.http.routing import Endpoint, MethodRoute, read_body
from minitoolai.portal.forms import MAX_FORM_BYTES, parse_form
from minitoolai.portal.i18n import DEFAULT, LANGUAGES
from minitoolai.portal.request import PageRequest, save_draft
from minitoolai.portal.role_names import ROLE_NAMES
from minitoolai.portal.site import Access

log = logging.getLogger(__name__)
Function = Callable[[PageRequest], Awaitable[Response]]
READING: Final = ("GET", "HEAD")
#: The other methods; browsers send only the first.
CHANGING: Final = ("POST", "PUT", "PATCH", "DELETE")
#: Pages that may change something when they are opened: they are not part of the view of an account.
WRITING_PAGES: Final = frozenset({"/topup/done", "/topup/auto/done"})
#: The pages that set up second factors: all that a user without a required one can reach.
SECOND_FACTOR_PATH: Final = "/account/second-factor"
PASSKEYS_PATH: Final = "/account/passkeys"
FACTOR_PATHS: Final = (SECOND_FACTOR_PATH, PASSKEYS_PATH)
#: The form that switches to another account of the user.
SWITCH_PATH: Final = "/team/switch"
#: Pages that the user of a suspended account may still read: usage, charges and payments.
OPEN_WHEN_SUSPENDED: Final = frozenset(
    ("/usage", "/usage/usage.csv", "/usage/requests", "/usage/requests.csv", "/usage/requests/{name}", "/balance")
    + ("/balance/statement.csv", "/invoices", "/invoices/{invoice}", "/invoices/statements/{month}")
)
is_valid_host: Final = re.compile(r"[0-9A-Za-z!$&'()*+,;=\-._~:\[\]@%]*").fullmatch


class LanguageConvertor(StringConvertor):
    """`{lang:lang}` in a path: the code of a language that the portal has."""

    regex = "|".join(LANGUAGES)


register_url_convertor("lang", LanguageConvertor())


class PageHandler(msgspec.Struct, frozen=True):
    """A function for some methods of `/{lang}{path}`, with the checks before it."""

    path: str
    methods: tuple[str, ...]
    access: Access
    function: Function
    is_form: bool = False
    draft_fields: Sequence[str] = ()
    #: What the member's role must allow on a page for users. "self": it concerns the user alone.
    action: Action | Literal["self"] = "self"

    async def __call__(self, request: Request) -> Response:
        """Check and run the function. Turn every error into a page."""
        page = new_page_request(request)
        request.scope["path_template"] = f"/{page.lang}{self.path}"
        try:
            await page.load_session()
            return await self._run(page)
        except (ServiceError, StoreError) as error:
            if isinstance(error, BodyTooLarge | InvalidRequest) and self.is_form and page.user is None:
                wait_s = page.site.request_failures.wait_s(request.scope)
                if wait_s:
                    return too_many_requests(page, wait_s)
            return error_response(page, error)
        except Exception:
            log.exception("error in %s %s", request.method, request.scope["path"][:200])
            return server_error(page)

    async def _run(self, page: PageRequest) -> Response:
        is_view = page.viewed is not None and self.access != "admin"
        if is_view and (self.methods != READING or self.path in WRITING_PAGES):
            return _read_only(page)
        if self.is_form:
            page.form = parse_form(await _read_form(page.request))
            session_ended = self.access != "public" and page.user is None and page.is_same_origin
            if not session_ended and not page.has_valid_token():
                return _stale_form(page)
        if self.access != "public" and page.user is None:
            save_draft(page, self.draft_fields)
            return _redirect_to_sign_in(page, explain=self.is_form)
        if self.access != "public" and page.lacks_second_factor and not self.path.startswith(FACTOR_PATHS):
            message = page.gettext("Admins must use a second factor. Set one up to continue.")
            if page.site.is_second_factor_required_of_all:
                message = page.gettext("This site requires a second factor. Set one up to continue.")
            return page.redirect(SECOND_FACTOR_PATH, flash=message, kind="warn")
        if self.access == "admin" and not page.member.is_admin:
            return not_found(page)
        if is_view:
            page.show_as_customer()
        if self.access == "user" and self.action != "self" and not page.may(self.action):
            return forbidden(page)
        if self.access != "public" and page.member.suspended_ms is not None and not self._is_open_when_suspended:
            return page.render("frame/suspended.html", 403)
        return await self.function(page)

    @property
    def _is_open_when_suspended(self) -> bool:
        return self.path in (SWITCH_PATH, "/team/accounts") or (self.path in OPEN_WHEN_SUSPENDED and not self.is_form)


#: What the list HANDLERS of a page module holds.
Handler = PageHandler | MethodRoute


def page(
    path: str, *, access: Access = "public", action: Action | Literal["self"] = "self"
) -> Callable[[Function], PageHandler]:
    """Handle GET `/{lang}{path}`.

    A page for users redirects a visitor to the sign-in and back, and says so if the member's role does not allow the
    `action`. A page for admins is a 404 for other users.
    """
    return lambda function: PageHandler(path, READING, access, function, action=action)


def form(
    path: str,
    *,
    access: Access = "public",
    draft_fields: Sequence[str] = (),
    action: Action | Literal["self"] = "self",
) -> Callable[[Function], PageHandler]:
    """Handle POST `/{lang}{path}` of a form: read `page.form` and check its CSRF token, then run the function.

    `draft_fields`: what to restore with `restore_draft` if the session had ended when the form was sent.
    """
    return lambda function: PageHandler(path, ("POST",), access, function, True, draft_fields, action)


def any_method(path: str) -> Callable[[Function], PageHandler]:
    """Handle every method of `/{lang}{path}`. The body is not read."""
    return lambda function: PageHandler(path, (*READING, *CHANGING), "public", function)


def page_routes(handlers: Iterable[PageHandler]) -> list[MethodRoute]:
    """Return one route per path, with a handler for every method, ordered so that the most specific comes first."""
    by_path: dict[str, list[PageHandler]] = {}
    for handler in handlers:
        by_path.setdefault(handler.path, []).append(handler)
    return [_page_route(path, by_path[path]) for path in sorted(by_path, key=_specificity)]


def _page_route(path: str, handlers: list[PageHandler]) -> MethodRoute:
    endpoints: dict[str, Endpoint] = {method: handler for handler in handlers for method in handler.methods}
    route = MethodRoute(f"/{{lang:lang}}{path}".rstrip("/"), endpoints)
    access = handlers[0].access
    if "GET" not in endpoints:
        route.endpoints |= dict.fromkeys(READING, PageHandler(path, READING, access, _redirect_to_parent))
    unsupported = tuple(method for method in CHANGING if method not in endpoints)
    route.endpoints |= dict.fromkeys(unsupported, PageHandler(path, unsupported, access, method_not_allowed))
    return route


def _specificity(path: str) -> tuple[bool, int, int]:
    """Sort fixed paths before those with parameters, paths that match any rest last, and of these the shortest last."""
    return ":path}" in path, path.count("{"), -len(path.partition("{")[0])


async def _redirect_to_parent(page: PageRequest) -> Response:
    return page.redirect(page.path.rpartition("/")[0] or "/")


def _redirect_to_sign_in(page: PageRequest, *, explain: bool) -> Response:
    """Redirect to the sign-in, which leads back to this page, or to the page of this form."""
    message = page.gettext("You have been signed out. Sign in to return to the form.")
    return page.redirect(f"/signin?next={quote(page.full_path)}", flash=message if explain else "", kind="warn")


def new_page_request(request: Request, default_lang: str = DEFAULT) -> PageRequest:
    """Make the page request in the language of its path, without loading its session."""
    check_host(request)
    return PageRequest(request.app.state.site, request, path_language(request, default_lang))


def path_language(request: Request, default: str = DEFAULT) -> str:
    """Return the language with which the path of a request begins."""
    lang = request.scope["path"].strip("/").partition("/")[0]
    return lang if lang in LANGUAGES else default


def check_host(request: Request) -> None:
    """Refuse an invalid Host header with HTTPException 400: links are built from it."""
    if not is_valid_host(request.headers.get("host", "")):
        raise HTTPException(400, "Invalid host header")


async def _read_form(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise InvalidRequest("send the form as application/x-www-form-urlencoded", param="Content-Type")
    return await read_body(request, MAX_FORM_BYTES)


# ── pages that say what went wrong ────────────────────────────────────────────────────────────────────────


def _stale_form(page: PageRequest) -> Response:
    """403: the CSRF token is missing, or belongs to another browser or session."""
    _ = page.gettext
    return page.error_page(
        403,
        _("This form has expired"),
        _("It belongs to another session, or your browser blocks cookies. Reload the page and try again."),
        can_reload=True,
    )


def _read_only(page: PageRequest) -> Response:
    """403: an admin who views an account as its customer sees it tried to change something."""
    _ = page.gettext
    page.show_as_customer()
    return page.error_page(
        403, _("This view is read-only"), _("You are viewing the site as a customer. You cannot change anything here.")
    )


def forbidden(page: PageRequest) -> Response:
    """403: the role of the member does not allow this."""
    _ = page.gettext
    if page.member.role is None:
        return page.error_page(
            403,
            _("You do not belong to any account"),
            _("You left your last account or were removed from it. Ask its owner for an invitation."),
        )
    message = _("Your role in this account is “%(role)s”, which does not include this. Ask an owner or admin.")
    return page.error_page(403, _("Not part of your role"), message % {"role": _(ROLE_NAMES[page.member.role])})


def not_found(page: PageRequest) -> Response:
    """404."""
    _ = page.gettext
    return page.error_page(404, _("Page not found"), _("The page may have moved, or the address is mistyped."))


async def not_found_page(page: PageRequest) -> Response:
    """Answer 404, as a page function."""
    return not_found(page)


async def method_not_allowed(page: PageRequest) -> Response:
    """405."""
    _ = page.gettext
    response = page.error_page(
        405, _("Method not allowed"), _("This page does not accept this kind of request."), can_reload=True
    )
    response.headers["allow"] = "GET, HEAD"
    return response


def server_error(page: PageRequest) -> Response:
    """500."""
    _ = page.gettext
    return page.error_page(
        500, _("Something went wrong on our side"), _("The error has been logged. None of your data is lost.")
    )


def too_many_requests(page: PageRequest, wait_s: int) -> Response:
    """429, with the time to wait."""
    minutes = -(-wait_s // 60)
    _, n_ = page.gettext, page.ngettext
    message = n_("Please try again in %(num)d minute.", "Please try again in %(num)d minutes.", minutes)
    response = page.error_page(429, _("Too many attempts"), message % {"num": minutes})
    response.headers["retry-after"] = str(wait_s)
    return response


def error_response(page: PageRequest, error: ServiceError | StoreError) -> Response:
    """Return the page for an error that a page function raised."""
    _ = page.gettext
    if isinstance(error, NotFound):
        return not_found(page)
    if isinstance(error, BodyTooLarge):
        message = _("Forms are limited to %(most)s kB.") % {"most": MAX_FORM_BYTES // 1024}
        return page.error_page(413, _("The form is too large"), message, can_reload=True)
    if isinstance(error, InvalidRequest | ClientLeft):
        message = _("Your request could not be read. Reload the page and try again.")
        return page.error_page(400, _("The request failed"), message, can_reload=True)
    if isinstance(error, ReportTooLarge):
        message = _("This report takes too long. Choose a shorter period, or download it as a file.")
        return page.error_page(503, _("The form is too large"), message, can_reload=True)
    if isinstance(error, Overloaded):
        return page.error_page(503, _("The server is busy"), _("Please try again in a moment. Nothing was changed."))
    log.error("page %s failed: %s", page.path, error, exc_info=error)
    return server_error(page)
