"""Change the e-mail address of the user: asked for on the account page, confirmed by links to both mailboxes."""

from __future__ import annotations

from starlette.responses import Response

from minitoolai.accounts.addresses import email_forms
from minitoolai.accounts.email_changes import LinkedChange
from minitoolai.portal.mail.letters import alarm_path
from minitoolai.portal.pages.access.auth import can_mail, email_composer, read_email, wait_for_email_s, wrong_code
from minitoolai.portal.pages.account.account import render_account
from minitoolai.portal.proofs import prove
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, page, too_many_requests

CONFIRM_PATH = "/account/email/confirm"


@form("/account/email", access="user", action="self")
async def change_email(page: PageRequest) -> Response:
    """Send a link to both mailboxes, if the password and the code of the second factor are right."""
    email = read_email(page)
    if email and page.member.email in email_forms(email):
        page.form.add_error("email", page.gettext("This is already your address."))
    evidence = await prove(page, "password_email", "code_email")
    if isinstance(evidence, Response):
        return evidence
    if page.form.is_valid and (wait_s := await wait_for_email_s(page, email)):
        return too_many_requests(page, wait_s)
    if page.form.is_valid and not await can_mail(page, email):
        return await render_account(page, 503)
    if page.form.is_valid and evidence is not None and not await page.site.users.consume(evidence):
        page.form.add_error("code_email", wrong_code(page))
    if not page.form.is_valid:
        return await render_account(page, 422)
    old, new = email_composer(page, page.member.email, about=email), email_composer(page, email)
    await page.site.email_changes.start(page.member, email, old, new)
    message = page.gettext("We sent a link to both inboxes. The address changes once you have opened both.")
    return page.redirect("/account", flash=message)


@page(CONFIRM_PATH)
async def confirm_page(page: PageRequest) -> Response:
    """Show the buttons: opening a link must change nothing, mail scanners open links."""
    secret = page.query.get("link", "")
    return _render(page, secret, await page.site.email_changes.find(secret))


def _render(page: PageRequest, secret: str, found: LinkedChange | None) -> Response:
    if found is None:
        return page.render("access/spent.html", 410, back="/account")
    return page.render("access/email.html", link=secret, old=found.user.email, new=found.change.email)


@form(CONFIRM_PATH)
async def confirm(page: PageRequest) -> Response:
    """Confirm the change for one mailbox. The second one changes the address."""
    secret = page.form["link"]
    found = await page.site.email_changes.find(secret)
    outcome = await page.site.email_changes.confirm(secret)
    if found is None or outcome is None:
        return _render(page, secret, None)
    to = "/account" if page.user else "/signin"
    if outcome == "taken":
        message = page.gettext("Another account now uses this address. Your address was not changed.")
        return page.redirect(to, flash=message, kind="bad")
    if outcome == "waiting":
        message = page.gettext("Confirmed. Now open the link in your other inbox.")
        return page.redirect(to, flash=message)
    for email in (found.user.email, found.change.email):
        page.site.users.send(email_composer(page, email, about=found.change.email)("email_changed", ""))
    message = page.gettext("Your address is now %(email)s.") % {"email": found.change.email}
    return page.redirect(to, flash=message)


@form(f"{CONFIRM_PATH}/stop")
async def stop(page: PageRequest) -> Response:
    """Stop the change. From the old mailbox, also sign out everywhere and lead to a new password."""
    secret = page.form["link"]
    found = await page.site.email_changes.find(secret)
    if found is None or not await page.site.email_changes.stop(secret):
        return _render(page, secret, None)
    if found.is_new:
        return page.redirect("/", flash=page.gettext("The change was cancelled."))
    message = page.gettext("The change was cancelled, and all browsers were signed out. Set a new password now.")
    # Without passwords no page resets one. The account shows who is signed in and changes the password.
    return page.redirect(alarm_path(is_password_open=page.site.is_password_open), flash=message, kind="warn")


HANDLERS: list[Handler] = [change_email, confirm_page, confirm, stop]
