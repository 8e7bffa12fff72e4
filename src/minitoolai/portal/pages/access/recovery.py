"""Recover an account after losing device and recovery codes: ask, confirm by e-mail, wait, remove the factors."""

from __future__ import annotations

from starlette.responses import Response

from minitoolai.accounts.users import Purpose
from minitoolai.core.models import User
from minitoolai.portal.mail.factor_reset_mail import pack_link, unpack_link
from minitoolai.portal.mail.letters import letter_composer
from minitoolai.portal.pages.access.auth import email_composer, wait_for_email_s
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import SECOND_FACTOR_PATH, Handler, form, page, too_many_requests
from minitoolai.storage.tables.factor_resets import FactorReset

PATH = "/signin/recover"


@page(PATH)
async def recover_page(page: PageRequest) -> Response:
    """Explain the journey to a browser that has proved the password, or show the removal of a link with its buttons.

    Opening a link must change nothing: mail scanners open links.
    """
    if secret := page.query.get("link", ""):
        return await _render(page, secret)
    challenge = page.challenge()
    if challenge is None:
        return page.redirect("/signin")
    return page.render("access/recover.html", is_open=page.site.factor_resets.is_open)


@form(PATH)
async def ask(page: PageRequest) -> Response:
    """Send the link that confirms or cancels the removal to the mailbox, after the password was proved."""
    challenge = page.challenge()
    user = None if challenge is None else await page.site.users.find(challenge.account_id)
    if user is None:
        return page.redirect("/signin")
    if wait_s := await wait_for_email_s(page, user.email):
        return too_many_requests(page, wait_s)
    outcome, reset = await page.site.factor_resets.start(user)
    if reset is None:
        return page.render("access/recover.html", 403, is_open=False)
    if outcome == "started":
        _send(page, user, "reset_asked", reset)
    return page.render("access/recover_sent.html", is_waiting=outcome == "waiting", ready_ms=reset.ready_ms)


async def _found(page: PageRequest, secret: str) -> tuple[FactorReset, User] | None:
    reset_id = unpack_link(page.site.signer, secret)
    return None if reset_id is None else await page.site.factor_resets.find(reset_id)


async def _render(page: PageRequest, secret: str) -> Response:
    found = await _found(page, secret)
    if found is None:
        return page.render("access/spent.html", 410, back="/signin")
    reset, user = found
    is_ready = reset.ready_ms is not None and reset.ready_ms <= page.site.clock.now_ms()
    return page.render("access/recover_link.html", link=secret, email=user.email, reset=reset, is_ready=is_ready)


@form(f"{PATH}/confirm")
async def confirm(page: PageRequest) -> Response:
    """Begin the waiting period."""
    found = await _found(page, page.form["link"])
    if found is None or await page.site.factor_resets.confirm(found[0].id) is None:
        return page.render("access/spent.html", 410, back="/signin")
    return await _render(page, page.form["link"])


@form(f"{PATH}/stop")
async def stop(page: PageRequest) -> Response:
    """Stop the removal, by the link of an e-mail."""
    found = await _found(page, page.form["link"])
    if found is None or not await page.site.factor_resets.stop(found[1].user_id):
        return page.render("access/spent.html", 410, back="/signin")
    _send(page, found[1], "reset_stopped", found[0])
    return page.redirect("/signin", flash=page.gettext("The removal was stopped. Your second factor stays."))


@form(f"{PATH}/finish")
async def finish(page: PageRequest) -> Response:
    """Remove all second factors, if the waiting period is over."""
    found = await _found(page, page.form["link"])
    if found is None or await page.site.factor_resets.finish(found[0].id) is None:
        return page.render("access/spent.html", 410, back="/signin")
    _send(page, found[1], "factors_reset", found[0])
    message = page.gettext("All second factors were removed. Sign in, and set up a new one.")
    return page.redirect("/signin", flash=message)


@form(f"{SECOND_FACTOR_PATH}/keep", access="user", action="self")
async def keep(page: PageRequest) -> Response:
    """Stop the removal of the signed-in user's second factors."""
    reset = await page.site.factor_resets.of_user(page.member)
    if reset is not None and await page.site.factor_resets.stop(page.member.user_id):
        page.site.users.send(email_composer(page, page.member.email)("reset_stopped", ""))
    message = page.gettext("The removal was stopped. Your second factor stays.")
    return page.redirect(SECOND_FACTOR_PATH, flash=message)


def _send(page: PageRequest, user: User, purpose: Purpose, reset: FactorReset) -> None:
    """Send an e-mail in the user's language: the page may have another one."""
    lang = user.language or page.lang
    site = page.site
    compose = letter_composer(site.shop, site.address(), lang, user.email, is_password_open=site.is_password_open)
    site.users.send(compose(purpose, pack_link(site.signer, reset.id)))


HANDLERS: list[Handler] = [recover_page, ask, confirm, stop, finish, keep]
