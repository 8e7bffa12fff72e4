"""The user's own page: password, and leaving."""

from __future__ import annotations

from litestar.handlers import HTTPRouteHandler

from minitoolai.portal.pages.auth import GUESSES, read_new_password
from minitoolai.portal.pages.letters import composer
from minitoolai.portal.request import Answer, Visit
from minitoolai.portal.routing import form, page, too_often


@page("/account", needs="user")
async def account_page(visit: Visit) -> Answer:
    """What we know of the user, and the forms."""
    return visit.render("account/account.html")


@form("/account/password", needs="user")
async def change_password(visit: Visit) -> Answer:
    """A new password, for whoever knows the old one."""
    old, new = visit.form.secret("password_old"), visit.form.secret("password")
    if wait_s := _wait(visit):
        return too_often(visit, wait_s)
    read_new_password(visit, new)
    if visit.form.is_good and not await visit.site.users.knows_password(visit.member, old):
        visit.form.refuse("password_old", visit.gettext("This is not your password."))
    if not visit.form.is_good:
        return visit.render("account/account.html", 422)
    write = composer(visit, visit.member.email)
    visitor = await visit.site.users.change_password(visit.member, new, write)
    if visitor:
        visit.sign_in(visitor)
    return visit.redirect("/account", said=visit.gettext("Your new password is set; other browsers are signed out."))


@form("/account/leave", needs="user")
async def leave(visit: Visit) -> Answer:
    """Delete the user, for whoever knows the password and says so."""
    password = visit.form.secret("password_leave")
    if wait_s := _wait(visit):
        return too_often(visit, wait_s)
    if not await visit.site.users.knows_password(visit.member, password):
        visit.form.refuse("password_leave", visit.gettext("This is not your password."))
        return visit.render("account/account.html", 422)
    if not await visit.site.users.leave(visit.member):
        said = visit.gettext("Requests of this account are still running. Try again in a minute.")
        return visit.redirect("/account", said=said, kind="bad")
    visit.sign_out()
    return visit.redirect("/", said=visit.gettext("Your account is deleted. Goodbye!"))


def _wait(visit: Visit) -> int:
    return visit.site.attempts.wait_s(f"guess {visit.address} {visit.member.email}", GUESSES)


HANDLERS: list[HTTPRouteHandler] = [account_page, change_password, leave]
