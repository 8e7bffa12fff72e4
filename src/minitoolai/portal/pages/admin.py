"""Pages for admins: accounts and credit, engines, jobs, the audit, revenue, and the log of admin actions."""

from __future__ import annotations

from typing import Any, cast

from starlette.responses import Response

from minitoolai.billing.payments import grant_as_admin, revoke_keys
from minitoolai.billing.usage import REVENUE_DAYS
from minitoolai.core.clock import MS_PER_DAY, generation_name, random_text
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import AdminAction, KeyRow, User
from minitoolai.core.money import LARGEST_TOTAL_NANO, parse_dollars
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.usage import KINDS, STATES
from minitoolai.portal.request import PageRequest, restore_draft
from minitoolai.portal.routing import Handler, form, not_found, page
from minitoolai.storage import accounts, reports
from minitoolai.storage.database import Connection

MAX_ROWS = 50
MAX_NOTE_LENGTH = 200
ACTIONS = {"grant": N_("credit given"), "revoke_keys": N_("all keys revoked")}


@page("/admin", access="admin")
async def overview(page: PageRequest) -> Response:
    """Show revenue, models and the last audit."""
    revenue = await page.site.revenue.rows()
    return page.render(
        "admin/overview.html",
        revenue=revenue,
        sold=sum(row.sold for row in revenue),
        days=REVENUE_DAYS,
        kinds=KINDS,
        ms_per_day=MS_PER_DAY,
        offers=page.site.reports.offers(),
        auditor=page.site.auditor,
    )


@page("/admin/jobs", access="admin")
async def jobs(page: PageRequest) -> Response:
    """Show image jobs that are queued or running, or failed in the last day."""
    since_ms = page.site.clock.now_ms() - MS_PER_DAY
    after = _job_place(page.query.get("after", ""))
    rows, place = await page.report(reports.list_jobs, since_ms, MAX_ROWS, after)
    older = None if place is None else "-".join((place.state, *map(str, place.key)))
    return page.render(
        "admin/jobs.html", rows=rows, states=STATES, generation_name=generation_name, older=older,
        newer=after is not None,
    )  # fmt: skip


def _job_place(text: str) -> reports.JobPlace | None:
    """Return where the page before ended, or None for anything that no page names."""
    state, *key = text.split("-")
    lengths = {"running": 2, "queued": 3, "failed": 1}
    if lengths.get(state) != len(key) or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in key):
        return None
    return reports.JobPlace(cast(Any, state), tuple(map(int, key)))


@page("/admin/accounts", access="admin")
async def search(page: PageRequest) -> Response:
    """Search accounts by e-mail address or number."""
    words = page.query.get("q", "")[:200].replace("\0", "").strip()
    below = page.query_number("below")
    found = await page.report(reports.search_users, words, MAX_ROWS + 1, below)
    older = found[MAX_ROWS - 1] if len(found) > MAX_ROWS else None
    return page.render("admin/accounts.html", words=words, found=found[:MAX_ROWS], older=older, newer=below is not None)


@page("/admin/accounts/{number}", access="admin")
async def account(page: PageRequest) -> Response:
    """Show one account with its keys and admin actions."""
    restore_draft(page, f"{page.path}/grant")
    return await _render_account(page, _account_id(page))


async def _render_account(page: PageRequest, account_id: int, status: int = 200) -> Response:
    below = page.query_number("below", longest=18)

    def read(connection: Connection) -> tuple[User | None, list[KeyRow], list[AdminAction]]:
        user = reports.find_customer(connection, account_id)
        keys = [key for key in accounts.keys_of(connection, account_id) if key.revoked_ms is None]
        return user, keys, reports.admin_actions(connection, MAX_ROWS + 1, account_id, below)

    user, keys, actions = await page.report(read)
    if user is None:
        return not_found(page)
    return page.render(
        "admin/account.html", status, person=user, keys=keys, done=actions[:MAX_ROWS], actions=ACTIONS,
        once=random_text(20), older=actions[MAX_ROWS - 1] if len(actions) > MAX_ROWS else None,
        newer=below is not None,
    )  # fmt: skip


@form("/admin/accounts/{number}/grant", access="admin", draft_fields=("amount", "note"))
async def grant(page: PageRequest) -> Response:
    """Give credit. The same form sent twice gives it once: `once` is the idempotency key."""
    account_id, admin_id, clock = _account_id(page), page.member.account_id, page.site.clock
    note, once, amount = _note(page), page.form["once"], 0
    try:
        amount = parse_dollars(page.form["amount"].replace(",", "."))
    except ValueError:
        page.form.add_error("amount", page.gettext("Write an amount like 5.00."))
    if not once:
        page.form.add_error("", page.gettext("Reload the page and try again."))
    if not page.form.is_valid:
        return await _render_account(page, account_id, 422)

    def change(connection: Connection) -> bool | InvalidRequest:
        try:
            return grant_as_admin(connection, clock, admin_id, account_id, amount, note=note, once=once)
        except InvalidRequest as error:
            # Nothing was written. The writer would log an exception as a fault.
            return error

    done = await page.site.writer.run(change)
    if isinstance(done, InvalidRequest):
        most = page.formatter.money(LARGEST_TOTAL_NANO)
        message = page.gettext("This does not fit into the ledger: all credits together may be at most %(most)s.")
        page.form.add_error("amount", message % {"most": most})
        return await _render_account(page, account_id, 422)
    if not done:
        return not_found(page)
    message = page.gettext("%(amount)s were given.") % {"amount": page.formatter.money(amount)}
    return page.redirect(f"/admin/accounts/{account_id}", flash=message)


@form("/admin/accounts/{number}/revoke", access="admin")
async def revoke(page: PageRequest) -> Response:
    """Revoke every key of the account. They stop working within a second."""
    account_id, admin_id, clock = _account_id(page), page.member.account_id, page.site.clock
    note = _note(page)
    if not page.form.is_valid:
        return await _render_account(page, account_id, 422)

    def change(connection: Connection) -> int | None:
        return revoke_keys(connection, clock, admin_id, account_id, note=note)

    if await page.site.writer.run(change) is None:
        return not_found(page)
    return page.redirect(f"/admin/accounts/{account_id}", flash=page.gettext("All keys of the account are revoked."))


@page("/admin/actions", access="admin")
async def actions(page: PageRequest) -> Response:
    """Show the log of admin actions: action, account and reason (keyset pagination: below an ID)."""
    below = page.query_number("below", longest=18)
    rows = await page.report(reports.admin_actions, 2 * MAX_ROWS + 1, None, below)
    older = rows[2 * MAX_ROWS - 1] if len(rows) > 2 * MAX_ROWS else None
    return page.render(
        "admin/actions.html", done=rows[: 2 * MAX_ROWS], actions=ACTIONS, older=older, newer=below is not None
    )


def _account_id(page: PageRequest) -> int:
    """Return the account number of the path, or -1 for what cannot be one."""
    number: str = page.path_params["number"]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else -1


def _note(page: PageRequest) -> str:
    note = page.form["note"]
    if not note:
        page.form.add_error("note", page.gettext("Say why: it is written into the trail."))
    elif len(note) > MAX_NOTE_LENGTH:
        page.form.add_error("note", page.gettext("That is too long."))
    return note


HANDLERS: list[Handler] = [overview, jobs, search, account, grant, revoke, actions]
