"""Keys: make one (its text is shown once), see what they are for and when they were used, revoke them."""

from __future__ import annotations

import msgspec
from litestar.handlers import HTTPRouteHandler

from minitoolai.accounts.keys import NewKey, make_key, revoke_own
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import KeyRow
from minitoolai.portal.drafts import refill
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.keys_form import FIELDS, LAST_MS, read_name, read_rules
from minitoolai.portal.request import Answer, Visit
from minitoolai.portal.routing import form, nothing_here, page
from minitoolai.storage import accounts, budgets
from minitoolai.storage.database import Connection

MOST_KEYS = 100
ROWS = 25
PERIODS = {"daily": N_("today"), "monthly": N_("this month"), "total": N_("in all")}
#: How the rows of what was spent call these periods.
SPENT = {"daily": "day", "monthly": "month", "total": "total"}
#: So many names are counted rather than said.
MANY = 4


class Shown(msgspec.Struct, frozen=True):
    """A key in the table; of one with budgets, (what may be spent, what was) by period."""

    row: KeyRow
    used_ms: int | None
    budgets: dict[str, tuple[int, int]]
    is_over: bool
    #: Whether it ends with a day, so that the day says it all.
    ends_with_day: bool


def shown_keys(connection: Connection, account_id: int, now_ms: int, wanted: int) -> tuple[list[Shown], int, int]:
    """A page of the account's keys, first those that work, the newest first; which page, and which is the last."""
    rows = sorted(
        accounts.keys_of(connection, account_id), key=lambda row: (row.revoked_ms is not None, -row.created_ms)
    )
    last = max(len(rows) - 1, 0) // ROWS
    here = min(wanted, last)
    uses = accounts.uses_of(connection, account_id)
    shown = [_shown(connection, row, uses.get(row.id), now_ms) for row in rows[here * ROWS : (here + 1) * ROWS]]
    return shown, here, last


def _shown(connection: Connection, row: KeyRow, used_ms: int | None, now_ms: int) -> Shown:
    limits = {period: getattr(row.rules, f"budget_{period}") for period in PERIODS}
    limits = {period: limit for period, limit in limits.items() if limit is not None}
    spent = budgets.spent(connection, row.family or row.id, now_ms) if limits and row.revoked_ms is None else {}
    shown = {period: (limit, spent.get(SPENT[period], 0)) for period, limit in limits.items()}
    ends_ms = row.rules.expires_ms
    is_over = ends_ms is not None and ends_ms <= now_ms
    return Shown(row, used_ms, shown, is_over, ends_ms is not None and ends_ms % MS_PER_DAY == LAST_MS)


@page("/keys", needs="user")
async def keys(visit: Visit) -> Answer:
    """Every key of the account."""
    refill(visit, "/keys")
    return await show_keys(visit)


async def show_keys(visit: Visit, status: int = 200, made: NewKey | None = None, old: KeyRow | None = None) -> Answer:
    """The page; `made`: a key to be shown this once, in the place of `old`, where there is one."""
    asked = visit.query.get("page", "")
    wanted = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 0
    rows, here, last = await visit.site.database.read_soon(
        shown_keys, visit.member.account_id, visit.site.clock.now_ms(), wanted
    )
    return visit.render(
        "keys/keys.html", status, keys=rows, made=made, old=old, periods=PERIODS, page_number=here, last=last,
        models=list(visit.site.reports.models()), said_of={key.row.id: _said(visit, key) for key in rows},
    )  # fmt: skip


def _said(visit: Visit, key: Shown) -> list[str]:
    """What the key may do, beside its budgets, in a few words each."""
    _, n_, writing, rules = visit.gettext, visit.ngettext, visit.writing, key.row.rules
    said = []
    if rules.expires_ms is not None:
        day = writing.day(rules.expires_ms) if key.ends_with_day else writing.moment(rules.expires_ms)
        said.append(_("until %(day)s") % {"day": day})
    for names, some in (
        (rules.models, n_("%(num)d model", "%(num)d models", len(rules.models))),
        (rules.allow_ip, n_("%(num)d address", "%(num)d addresses", len(rules.allow_ip))),
    ):
        words = ", ".join(names) if len(names) < MANY else some % {"num": len(names)}
        said += [_("only %(names)s") % {"names": words}] if names else []
    for most, words in (
        (rules.rate.requests_per_minute, _("%(count)s requests a minute")),
        (rules.rate.tokens_per_minute, _("%(count)s tokens a minute")),
        (rules.rate.streams, _("%(count)s answers at once")),
    ):
        said += [words % {"count": writing.number(most)}] if most else []
    if rules.rate.dollars_per_minute:
        said.append(_("%(amount)s a minute") % {"amount": writing.money(rules.rate.dollars_per_minute)})
    return said


@form("/keys", needs="user", keeps=FIELDS)
async def create(visit: Visit) -> Answer:
    """Make a key. Its text is on the answer and nowhere else, so there is nothing to redirect to."""
    name, account_id = read_name(visit), visit.member.account_id
    rules = read_rules(visit, visit.site.reports.models())
    made = make_key(account_id, name, visit.site.pepper, visit.site.clock, rules)

    def change(connection: Connection) -> bool:
        has_room = may_have_another(connection, account_id)
        if has_room:
            accounts.insert_key(connection, made.row)
        return has_room

    if visit.form.is_good and not await visit.site.writer.run(change):
        visit.form.refuse("", too_many(visit))
    if not visit.form.is_good:
        return await show_keys(visit, 422)
    visit.form.clear()
    return await show_keys(visit, made=made)


def may_have_another(connection: Connection, account_id: int) -> bool:
    """Whether the account has fewer keys than it may have."""
    return sum(key.revoked_ms is None for key in accounts.keys_of(connection, account_id)) < MOST_KEYS


def too_many(visit: Visit) -> str:
    """Why there is no key more."""
    return visit.gettext("You have very many keys already. Revoke one that you do not need.")


@form("/keys/revoke", needs="user")
async def revoke(visit: Visit) -> Answer:
    """It stops working within a second."""
    key_id, account_id, now_ms = visit.form["key"], visit.member.account_id, visit.site.clock.now_ms()

    if not await visit.site.writer.run(lambda connection: revoke_own(connection, account_id, key_id, now_ms)):
        return nothing_here(visit)
    return visit.redirect("/keys", said=visit.gettext("The key is revoked. It stops working within a second."))


HANDLERS: list[HTTPRouteHandler] = [keys, create, revoke]
