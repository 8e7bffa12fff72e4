"""Sign in with other providers, and connect their identities to users who are signed in."""

from __future__ import annotations

import hmac
import logging

import msgspec
from starlette.responses import Response

from minitoolai.accounts.external.identities import Unadmitted
from minitoolai.accounts.external.protocol import (
    ATTEMPT_MS,
    Attempt,
    ExternalIdentity,
    SignInFailed,
    new_attempt,
)
from minitoolai.accounts.rate_limits import Limit, network_of
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.access.auth import admit_visitor
from minitoolai.portal.request import PENDING_COOKIE, PageRequest
from minitoolai.portal.routing import Handler, form, not_found, page, too_many_requests

log = logging.getLogger(__name__)
ATTEMPT_COOKIE = "external"
ATTEMPTS = Limit(30, 900.0)
CONNECT_PATH = "/account/connect"
REASONS: dict[Unadmitted, str] = {
    "known_address": N_(
        "An account with this address exists. Sign in to it once as before, then you can connect this sign-in."
    ),
    "closed": N_("Sign-up is closed. Ask the operator or the owner of an account for an invitation."),
    "unverified": N_("This provider has not verified your e-mail address. Verify it there, or use a password."),
}


def _redirect_url(page: PageRequest, name: str) -> str:
    """Return the address to which the provider sends the browser. It is registered there, so it has no language."""
    return f"{page.origin}/en/signin/done/{name}"


@page("/signin/with/{provider}")
async def begin(page: PageRequest) -> Response:
    """Send the browser to the provider. A token of the account page connects the identity instead of signing in."""
    name = page.path_params["provider"]
    provider = page.site.sign_ins.get(name)
    if provider is None:
        return not_found(page)
    if wait_s := await page.site.throttle.wait(f"external {network_of(page.client_ip)}", ATTEMPTS):
        return too_many_requests(page, wait_s)
    user_id = 0
    if page.user is not None:
        if page.site.signer.unpack("connect", page.query.get("connect", "")) != page.connect_mark:
            return page.redirect_to_url(page.next_url("/keys"))
        user_id = page.user.user_id
    attempt = new_attempt(name, page.next_url("/account" if user_id else "/keys"), page.site.clock.now_ms(), user_id)
    try:
        url = await provider.begin(attempt, _redirect_url(page, name))
    except SignInFailed as error:
        return _failed(page, name, error)
    packed = page.site.signer.pack(ATTEMPT_COOKIE, msgspec.to_builtins(attempt))
    page.set_cookie(ATTEMPT_COOKIE, packed, max_age_s=ATTEMPT_MS // 1000)
    return page.redirect_to_url(url)


def _failed(page: PageRequest, name: str, error: SignInFailed | str) -> Response:
    log.warning("sign-in with %s failed: %s", name, error)
    message = page.gettext("The sign-in did not work. Try again, or use another way to sign in.")
    return page.redirect("/account" if page.user else "/signin", flash=message, kind="warn")


def _attempt(page: PageRequest) -> Attempt | None:
    packed = page.cookie(ATTEMPT_COOKIE)
    value = page.site.signer.unpack(ATTEMPT_COOKIE, packed) if packed else None
    attempt = None if value is None else msgspec.convert(value, Attempt)
    return attempt if attempt is not None and attempt.until_ms > page.site.clock.now_ms() else None


@page("/signin/done/{provider}")
async def done(page: PageRequest) -> Response:
    """Verify the provider's answer; sign in, open an account, connect, or ask for a proof first."""
    name, attempt = page.path_params["provider"], _attempt(page)
    provider = page.site.sign_ins.get(name)
    if provider is None:
        return not_found(page)
    if attempt is not None and attempt.next_path[1:3] != page.lang:
        # The provider knows one address only. Go on in the language in which the sign-in began.
        return page.redirect_to_url(f"/{attempt.next_path[1:3]}{page.full_path[3:]}")
    page.set_cookie(ATTEMPT_COOKIE, "", max_age_s=0)
    if attempt is None or attempt.provider != name:
        return _failed(page, name, "this browser has not begun it, or began it too long ago")
    if not hmac.compare_digest(attempt.state.encode(), page.query.get("state", "").encode()):
        return _failed(page, name, "the answer is of another attempt")
    if "code" not in page.query:
        return _failed(page, name, f"the provider refused it: {page.query.get('error', '')[:80]}")
    try:
        identity = await provider.finish(attempt, _redirect_url(page, name), page.query)
    except SignInFailed as error:
        return _failed(page, name, error)
    if attempt.user_id:
        return await _connect(page, identity, attempt.user_id, attempt.next_path)
    site = page.site
    outcome = await site.external.admit(identity, page.lang, page.device, is_signup_open=site.is_signup_open)
    if isinstance(outcome, str):
        return _unadmitted(page, identity, outcome)
    return admit_visitor(page, outcome, attempt.next_path)


def _unadmitted(page: PageRequest, identity: ExternalIdentity, reason: Unadmitted) -> Response:
    message = page.gettext(REASONS[reason])
    if reason != "known_address":
        return page.redirect("/signin", flash=message, kind="warn")
    value = [msgspec.to_builtins(identity), page.site.clock.now_ms() + ATTEMPT_MS]
    page.set_cookie(PENDING_COOKIE, page.site.signer.pack(PENDING_COOKIE, value), max_age_s=ATTEMPT_MS // 1000)
    return page.redirect(f"/signin?next={page.url(CONNECT_PATH)}", flash=message, kind="warn")


@page(CONNECT_PATH, access="user", action="self")
async def connect_page(page: PageRequest) -> Response:
    """Ask whether to connect the identity that this browser has proved."""
    identity = page.pending_identity()
    if identity is None:
        return page.redirect("/account")
    return page.render("account/connect.html", identity=identity)


@form(CONNECT_PATH, access="user", action="self")
async def connect(page: PageRequest) -> Response:
    """Connect the identity that this browser has proved."""
    identity = page.pending_identity()
    page.set_cookie(PENDING_COOKIE, "", max_age_s=0)
    if identity is None:
        return page.redirect("/account")
    return await _connect(page, identity, page.member.user_id, page.url("/account"))


async def _connect(page: PageRequest, identity: ExternalIdentity, user_id: int, next_url: str) -> Response:
    if page.user is None or page.user.user_id != user_id:
        return page.redirect("/signin")
    if not await page.site.external.connect(page.user, identity):
        message = page.gettext("This sign-in is connected to another user.")
        return page.redirect_to_url(next_url, flash=message, kind="bad")
    return page.redirect_to_url(next_url, flash=page.gettext("You can sign in this way from now on."))


@form("/account/disconnect", access="user", action="self")
async def disconnect(page: PageRequest) -> Response:
    """Disconnect an identity."""
    if not await page.site.external.disconnect(page.member, page.form["issuer"], page.form["subject"]):
        message = page.gettext("This is your only way to sign in. Set a password first, with “Forgot your password?”.")
        return page.redirect("/account", flash=message, kind="bad")
    return page.redirect("/account", flash=page.gettext("This sign-in is no longer connected."))


HANDLERS: list[Handler] = [begin, done, connect_page, connect, disconnect]
