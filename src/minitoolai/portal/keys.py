"""Keys: make one (its text is shown once), see what they are for and when they were used, revoke them."""

from __future__ import annotations

from datetime import datetime

import msgspec
from litestar.handlers import HTTPRouteHandler

from minitoolai.core.key_rules import KeyRules
from minitoolai.core.money import parse_dollars
from minitoolai.core.records import KeyRow
from minitoolai.portal.framing import form, nothing_here, page
from minitoolai.portal.i18n import N_
from minitoolai.portal.visit import Answer, Visit
from minitoolai.services.accounts import LONGEST_NAME, NewKey, make_key, revoke_own
from minitoolai.storage import accounts, budgets
from minitoolai.storage.database import Connection

MOST_KEYS = 100
PERIODS = {"daily": N_("today"), "monthly": N_("this month"), "total": N_("in all")}
#: How the rows of what was spent call these periods.
SPENT = {"daily": "day", "monthly": "month", "total": "total"}


class Shown(msgspec.Struct, frozen=True):
    """A key in the table; of one with budgets, (what may be spent, what was) by period."""

    row: KeyRow
    used_ms: int | None
    budgets: dict[str, tuple[int, int]]
    is_over: bool


def _of(connection: Connection, account_id: int, now_ms: int) -> list[Shown]:
    uses = accounts.uses_of(connection, account_id)
    rows = [_shown(connection, row, uses.get(row.id), now_ms) for row in accounts.keys_of(connection, account_id)]
    return sorted(rows, key=lambda shown: (shown.row.revoked_ms is not None, -shown.row.created_ms))


def _shown(connection: Connection, row: KeyRow, used_ms: int | None, now_ms: int) -> Shown:
    limits = {period: getattr(row.rules, f"budget_{period}") for period in PERIODS}
    limits = {period: limit for period, limit in limits.items() if limit is not None}
    spent = budgets.spent(connection, row.family or row.id, now_ms) if limits and row.revoked_ms is None else {}
    is_over = row.rules.expires_ms is not None and row.rules.expires_ms <= now_ms
    return Shown(row, used_ms, {p: (limit, spent.get(SPENT[p], 0)) for p, limit in limits.items()}, is_over)


@page("/keys", needs="user")
async def keys(visit: Visit) -> Answer:
    """Every key of the account."""
    return await _show(visit)


async def _show(visit: Visit, status: int = 200, made: NewKey | None = None) -> Answer:
    shown = await visit.site.database.read_soon(_of, visit.member.account_id, visit.site.clock.now_ms())
    return visit.render("keys/keys.html", status, keys=shown, made=made, periods=PERIODS)


@form("/keys", needs="user")
async def create(visit: Visit) -> Answer:
    """Make a key. Its text is on the answer and nowhere else, so there is nothing to redirect to."""
    name, account_id = visit.form["name"], visit.member.account_id
    if not name:
        visit.form.refuse("name", visit.gettext("Give the key a name that tells you later what it is for."))
    elif len(name) > LONGEST_NAME:
        words = visit.ngettext("It has at most %(num)d character.", "It has at most %(num)d characters.", LONGEST_NAME)
        visit.form.refuse("name", words % {"num": LONGEST_NAME})
    made = make_key(account_id, name, visit.site.pepper, visit.site.clock, _rules(visit))

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


def _rules(visit: Visit) -> KeyRules:
    """The limits of the form; what is wrong with one stands next to it."""
    limits: dict[str, int] = {}
    for period in PERIODS:
        text = visit.form[f"budget_{period}"].replace(",", ".")
        try:
            if text:
                limits[f"budget_{period}"] = parse_dollars(text)
        except ValueError:
            visit.form.refuse(f"budget_{period}", visit.gettext("Write an amount of dollars, like 5.00."))
    expires_ms = None
    if text := visit.form["expires"]:
        try:
            # The end of the day that was named.
            expires_ms = int(datetime.fromisoformat(f"{text}T23:59:59+00:00").timestamp() * 1000) + 999
        except ValueError:
            expires_ms = 0
        if expires_ms <= visit.site.clock.now_ms():
            visit.form.refuse("expires", visit.gettext("Choose a day to come, like 2030-12-31."))
    return KeyRules(**limits, expires_ms=expires_ms)  # type: ignore[arg-type]


@form("/keys/revoke", needs="user")
async def revoke(visit: Visit) -> Answer:
    """It stops working within a second."""
    key_id, account_id, now_ms = visit.form["key"], visit.member.account_id, visit.site.clock.now_ms()
    if not await visit.site.writer.run(lambda connection: revoke_own(connection, account_id, key_id, now_ms)):
        return nothing_here(visit)
    return visit.redirect("/keys", said=visit.gettext("The key is revoked. It stops working within a second."))


HANDLERS: list[HTTPRouteHandler] = [keys, create, revoke]
