"""Notes on an account, and the view of the site as its customer sees it. Both are in the log of admin actions.

The view is read only: portal/request.py renders the pages, portal/routing.py refuses every change.
"""

from __future__ import annotations

from typing import Literal

from starlette.responses import Response

from minitoolai.core.clock import Clock
from minitoolai.core.models import AdminAction
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, not_found, page
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import reports

MAX_NOTE_LENGTH = 2_000


def log_action(
    connection: Connection,
    clock: Clock,
    admin_id: int,
    account_id: int,
    action: Literal["note", "view"],
    note: str | None,
    source: str | None,
) -> bool:
    """Write an action that changes nothing else into the log. Return False if there is no such account."""
    if reports.find_customer(connection, account_id) is None:
        return False
    reports.insert_admin_action(
        connection,
        AdminAction(clock.new_id(), admin_id, account_id, action, None, note, clock.now_ms(), source=source),
    )
    return True


def account_number(page: PageRequest) -> int:
    """Return the account number of the path, or -1 for what cannot be one."""
    number: str = page.path_params["number"]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else -1


async def _log(page: PageRequest, account_id: int, action: Literal["note", "view"], note: str | None = None) -> bool:
    admin_id, clock, source = page.member.user_id, page.site.clock, page.client_ip

    def change(connection: Connection) -> bool:
        return log_action(connection, clock, admin_id, account_id, action, note, source)

    return bool(await page.site.writer.run(change))


@form("/admin/accounts/{number}/note", access="admin", draft_fields=("text",))
async def note(page: PageRequest) -> Response:
    """Add a note. It cannot be changed later."""
    account_id, text = account_number(page), page.form["text"]
    place = f"/admin/accounts/{account_id}"
    if not text:
        return page.redirect(place, flash=page.gettext("Write a note first."), kind="bad")
    if len(text) > MAX_NOTE_LENGTH:
        most = page.formatter.number(MAX_NOTE_LENGTH)
        return page.redirect(
            place, flash=page.gettext("A note can have at most %(most)s characters.") % {"most": most}, kind="bad"
        )
    if not await _log(page, account_id, "note", text):
        return not_found(page)
    return page.redirect(place, flash=page.gettext("Note added."))


@form("/admin/accounts/{number}/view", access="admin")
async def begin(page: PageRequest) -> Response:
    """Show the site as this customer sees it, for an hour at most."""
    account_id = account_number(page)
    if not await _log(page, account_id, "view"):
        return not_found(page)
    page.begin_view(account_id)
    return page.redirect("/usage")


@page("/admin/accounts/{number}/view/end", access="admin")
async def end(page: PageRequest) -> Response:
    """Show the admin's own pages again."""
    page.end_view()
    return page.redirect(f"/admin/accounts/{account_number(page)}")


HANDLERS: list[Handler] = [note, begin, end]
