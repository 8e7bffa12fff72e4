"""For admins: accounts and credit, engines, jobs, the audit, revenue, and the trail of what admins did."""

from __future__ import annotations

from litestar.handlers import HTTPRouteHandler

from minitoolai.billing import payments as admins
from minitoolai.billing.usage import REVENUE_DAYS
from minitoolai.core.clock import MS_PER_DAY, generation_name, random_text
from minitoolai.core.models import AdminAction, KeyRow, User
from minitoolai.core.money import parse_dollars
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.usage import KINDS, STATES
from minitoolai.portal.request import Answer, PageRequest, refill
from minitoolai.portal.routing import form, nothing_here, page
from minitoolai.storage import accounts, reports
from minitoolai.storage.database import Connection

MOST_ROWS = 50
LONGEST_NOTE = 200
ACTIONS = {"grant": N_("credit given"), "revoke_keys": N_("all keys revoked")}


@page("/admin", needs="admin")
async def overview(visit: PageRequest) -> Answer:
    """How things stand."""
    revenue = await visit.site.revenue.rows()
    return visit.render(
        "admin/overview.html",
        revenue=revenue,
        sold=sum(row.sold for row in revenue),
        days=REVENUE_DAYS,
        kinds=KINDS,
        ms_per_day=MS_PER_DAY,
        offers=visit.site.reports.offers(),
        auditor=visit.site.auditor,
    )


@page("/admin/jobs", needs="admin")
async def jobs(visit: PageRequest) -> Answer:
    """What waits, what is drawn, and what failed in the last day."""
    since_ms = visit.site.clock.now_ms() - MS_PER_DAY
    rows = await visit.site.database.read_async(reports.list_jobs, since_ms, MOST_ROWS)
    return visit.render("admin/jobs.html", rows=rows, states=STATES, generation_name=generation_name)


@page("/admin/accounts", needs="admin")
async def search(visit: PageRequest) -> Answer:
    """Accounts by address or number."""
    words = visit.query.get("q", "")[:200].replace("\0", "").strip()
    found = await visit.site.database.read_async(reports.search_users, words, MOST_ROWS)
    return visit.render("admin/accounts.html", words=words, found=found, most=MOST_ROWS)


@page("/admin/accounts/{number:str}", needs="admin")
async def one(visit: PageRequest) -> Answer:
    """One account."""
    refill(visit, f"{visit.path}/grant")
    return await _show(visit, _number(visit))


async def _show(visit: PageRequest, account_id: int, status: int = 200) -> Answer:
    def read(connection: Connection) -> tuple[User | None, list[KeyRow], list[AdminAction]]:
        person = reports.find_customer(connection, account_id)
        keys = [key for key in accounts.keys_of(connection, account_id) if key.revoked_ms is None]
        return person, keys, reports.admin_actions(connection, MOST_ROWS, account_id)

    person, keys, done = await visit.site.database.read_async(read)
    if person is None:
        return nothing_here(visit)
    return visit.render(
        "admin/account.html", status, person=person, keys=keys, done=done, actions=ACTIONS, once=random_text(20)
    )


@form("/admin/accounts/{number:str}/grant", needs="admin", keeps=("amount", "note"))
async def grant(visit: PageRequest) -> Answer:
    """Give credit; the same form sent twice gives it once."""
    account_id, admin_id, clock = _number(visit), visit.member.account_id, visit.site.clock
    note, once, amount = _note(visit), visit.form["once"], 0
    try:
        amount = parse_dollars(visit.form["amount"].replace(",", "."))
    except ValueError:
        visit.form.refuse("amount", visit.gettext("Write an amount like 5.00."))
    if not once:
        visit.form.refuse("", visit.gettext("Reload the page and try again."))
    if not visit.form.is_good:
        return await _show(visit, account_id, 422)

    def change(connection: Connection) -> bool:
        return admins.grant_as_admin(connection, clock, admin_id, account_id, amount, note=note, once=once)

    if not await visit.site.writer.run(change):
        return nothing_here(visit)
    said = visit.gettext("%(amount)s were given.") % {"amount": visit.writing.money(amount)}
    return visit.redirect(f"/admin/accounts/{account_id}", said=said)


@form("/admin/accounts/{number:str}/revoke", needs="admin")
async def revoke(visit: PageRequest) -> Answer:
    """Every key of the account stops working within a second."""
    account_id, admin_id, clock = _number(visit), visit.member.account_id, visit.site.clock
    note = _note(visit)
    if not visit.form.is_good:
        return await _show(visit, account_id, 422)

    def change(connection: Connection) -> int | None:
        return admins.revoke_keys(connection, clock, admin_id, account_id, note=note)

    if await visit.site.writer.run(change) is None:
        return nothing_here(visit)
    return visit.redirect(f"/admin/accounts/{account_id}", said=visit.gettext("All keys of the account are revoked."))


@page("/admin/actions", needs="admin")
async def trail(visit: PageRequest) -> Answer:
    """What admins did, to whom, and why."""
    done = await visit.site.database.read_async(reports.admin_actions, 2 * MOST_ROWS)
    return visit.render("admin/actions.html", done=done, actions=ACTIONS)


def _number(visit: PageRequest) -> int:
    """The account of the path; what no account's number can be is nobody's."""
    number: str = visit.params["number"]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else -1


def _note(visit: PageRequest) -> str:
    note = visit.form["note"]
    if not note:
        visit.form.refuse("note", visit.gettext("Say why: it is written into the trail."))
    elif len(note) > LONGEST_NOTE:
        visit.form.refuse("note", visit.gettext("That is too long."))
    return note


HANDLERS: list[HTTPRouteHandler] = [overview, jobs, search, one, grant, revoke, trail]
