"""Turn the storage of requests and responses on and off, for owners and admins of an account."""

from __future__ import annotations

from starlette.responses import Response

from minitoolai.accounts.request_bodies import MAX_BODY_BYTES, MAX_DAYS, BodyKeeper
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, page
from minitoolai.storage.database import Connection

PATH = "/usage/bodies"


def _keeper(page: PageRequest) -> BodyKeeper:
    keeper = page.site.keys.bodies
    assert keeper is not None, "every server has one"
    return keeper


@page(PATH, access="user", action="team")
async def show(page: PageRequest) -> Response:
    """Show whether bodies are stored, and for how long."""
    return await _render(page)


async def _render(page: PageRequest, status: int = 200) -> Response:
    settings = await _keeper(page).settings(page.member.account_id)
    return page.render(
        "usage/bodies.html", status, days=0 if settings is None else settings.days, most_days=MAX_DAYS,
        most_kb=MAX_BODY_BYTES // 1024,
    )  # fmt: skip


@form(PATH, access="user", action="team")
async def turn_on(page: PageRequest) -> Response:
    """Store requests and responses from now on."""
    text = page.form["days"]
    days = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    if not 0 < days <= MAX_DAYS:
        n_ = page.ngettext
        message = n_("Choose %(num)d day.", "Choose 1 to %(num)d days.", MAX_DAYS) % {"num": MAX_DAYS}
        page.form.add_error("days", message)
        return await _render(page, 422)
    keeper, account_id = _keeper(page), page.member.account_id

    def change(connection: Connection) -> None:
        keeper.turn_on(connection, account_id, days)
        page.log_action(connection, "store_bodies", note=str(days))

    await page.site.writer.run(change)
    return page.redirect(PATH, flash=page.gettext("Requests and responses are stored from now on."))


@form(f"{PATH}/off", access="user", action="team")
async def turn_off(page: PageRequest) -> Response:
    """Store none from now on, and delete all stored ones."""
    keeper, account_id = _keeper(page), page.member.account_id

    def change(connection: Connection) -> None:
        keeper.turn_off(connection, account_id)
        page.log_action(connection, "delete_bodies")

    await page.site.writer.run(change)
    return page.redirect(PATH, flash=page.gettext("Nothing is stored any more, and what was stored is deleted."))


HANDLERS: list[Handler] = [show, turn_on, turn_off]
