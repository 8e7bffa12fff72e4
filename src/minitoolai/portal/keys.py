"""Keys: make one (its text is shown once), see what they are for and when they were used, revoke them."""

from __future__ import annotations

import msgspec
from litestar.handlers import HTTPRouteHandler

from minitoolai.core.records import KeyRow
from minitoolai.portal.framing import form, nothing_here, page
from minitoolai.portal.visit import Answer, Visit
from minitoolai.services.accounts import LONGEST_NAME, NewKey, make_key, revoke_own
from minitoolai.storage import accounts
from minitoolai.storage.database import Connection

MOST_KEYS = 100


class Shown(msgspec.Struct, frozen=True):
    """A key in the table."""

    row: KeyRow
    used_ms: int | None


def _of(connection: Connection, account_id: int) -> list[Shown]:
    uses = accounts.uses_of(connection, account_id)
    rows = [Shown(row, uses.get(row.id)) for row in accounts.keys_of(connection, account_id)]
    return sorted(rows, key=lambda shown: (shown.row.revoked_ms is not None, -shown.row.created_ms))


@page("/keys", needs="user")
async def keys(visit: Visit) -> Answer:
    """Every key of the account."""
    return await _show(visit)


async def _show(visit: Visit, status: int = 200, made: NewKey | None = None) -> Answer:
    shown = await visit.site.database.read_soon(_of, visit.member.account_id)
    return visit.render("keys/keys.html", status, keys=shown, made=made)


@form("/keys", needs="user")
async def create(visit: Visit) -> Answer:
    """Make a key. Its text is on the answer and nowhere else, so there is nothing to redirect to."""
    name, account_id = visit.form["name"], visit.member.account_id
    if not name:
        visit.form.refuse("name", visit.gettext("Give the key a name that tells you later what it is for."))
    elif len(name) > LONGEST_NAME:
        words = visit.ngettext("It has at most %(num)d character.", "It has at most %(num)d characters.", LONGEST_NAME)
        visit.form.refuse("name", words % {"num": LONGEST_NAME})
    made = make_key(account_id, name, visit.site.pepper, visit.site.clock)

    def change(connection: Connection) -> bool:
        active = [key for key in accounts.keys_of(connection, account_id) if key.revoked_ms is None]
        if len(active) < MOST_KEYS:
            accounts.insert_key(connection, made.row)
        return len(active) < MOST_KEYS

    if visit.form.is_good and not await visit.site.writer.run(change):
        visit.form.refuse("name", visit.gettext("You have very many keys already. Revoke one that you do not need."))
    if not visit.form.is_good:
        return await _show(visit, 422)
    visit.form.values.clear()
    return await _show(visit, made=made)


@form("/keys/revoke", needs="user")
async def revoke(visit: Visit) -> Answer:
    """It stops working within a second."""
    key_id, account_id, now_ms = visit.form["key"], visit.member.account_id, visit.site.clock.now_ms()
    if not await visit.site.writer.run(lambda connection: revoke_own(connection, account_id, key_id, now_ms)):
        return nothing_here(visit)
    return visit.redirect("/keys", said=visit.gettext("The key is revoked. It stops working within a second."))


HANDLERS: list[HTTPRouteHandler] = [keys, create, revoke]
