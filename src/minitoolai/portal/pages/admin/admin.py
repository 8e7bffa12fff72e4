"""Pages for admins: accounts and credit, engines, jobs, the audit, revenue, and the log of admin actions."""

from __future__ import annotations

import hashlib
import logging
from typing import Any, cast

from starlette.responses import Response

from minitoolai.billing.payments import grant_as_admin, log_catalog_reload, revoke_keys
from minitoolai.billing.usage import REVENUE_DAYS
from minitoolai.chat.catalog_reload import Change
from minitoolai.core.clock import MS_PER_DAY, generation_name
from minitoolai.core.errors import CatalogError, InvalidRequest, SettingsError
from minitoolai.core.models import JobRow
from minitoolai.core.money import LARGEST_TOTAL_NANO
from minitoolai.portal.amounts import read_amount
from minitoolai.portal.pages.account.usage import KINDS, STATES
from minitoolai.portal.pages.insight.account import ACTIONS, render_account
from minitoolai.portal.pages.insight.dashboard import deduct
from minitoolai.portal.pages.insight.view import account_number
from minitoolai.portal.request import PageRequest, restore_draft
from minitoolai.portal.routing import Handler, form, not_found, page
from minitoolai.storage.database import Connection
from minitoolai.storage.insight.traffic import Filter, Traffic, add_up, emails_of, refunds_since, traffic_by_day
from minitoolai.storage.tables import reports

log = logging.getLogger(__name__)

MAX_ROWS = 50
MAX_NOTE_LENGTH = 200


def margin_since(connection: Connection, from_day: int) -> Traffic:
    """Return the sums of all requests since a day, after refunds."""
    refunds = refunds_since(connection, "kind", from_day, Filter())
    by_day = traffic_by_day(connection, from_day, Filter())
    return add_up(deduct(by_day, ((key[0], refund) for key, refund in refunds.items())).values())


@page("/admin", access="admin")
async def overview(page: PageRequest) -> Response:
    """Show revenue, models and the last audit."""
    revenue = await page.site.revenue.rows()
    today = page.site.clock.now_ms() // MS_PER_DAY
    total = await page.report(margin_since, today - REVENUE_DAYS + 1)
    offers = page.site.reports.offers()
    return page.render(
        "admin/overview.html",
        revenue=revenue,
        sold=sum(row.sold - row.refunded for row in revenue),
        days=REVENUE_DAYS,
        kinds=KINDS,
        ms_per_day=MS_PER_DAY,
        total=total,
        requests=sum(row.requests for row in revenue),
        unavailable=[offer.model.name for offer in offers if offer.engine is None],
        auditor=page.site.auditor,
    )


@page("/admin/jobs", access="admin")
async def jobs(page: PageRequest) -> Response:
    """Show image jobs that are queued or running, or failed in the last day."""
    since_ms = page.site.clock.now_ms() - MS_PER_DAY
    after = _job_place(page.query.get("after", ""))

    def read(connection: Connection) -> tuple[list[JobRow], reports.JobPlace | None, dict[int, str]]:
        rows, place = reports.list_jobs(connection, since_ms, MAX_ROWS, after)
        return rows, place, emails_of(connection, sorted({row.account_id for row in rows}))

    rows, place, emails = await page.report(read)
    older = None if place is None else "-".join((place.state, *map(str, place.key)))
    return page.render(
        "admin/jobs.html", rows=rows, states=STATES, generation_name=generation_name, older=older,
        newer=after is not None, emails=emails,
    )  # fmt: skip


def _job_place(text: str) -> reports.JobPlace | None:
    """Return where the page before ended, or None for anything that no page names."""
    state, *key = text.split("-")
    lengths = {"running": 2, "queued": 3, "failed": 1}
    if lengths.get(state) != len(key) or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in key):
        return None
    return reports.JobPlace(cast(Any, state), tuple(map(int, key)))


@page("/admin/accounts/{number}", access="admin")
async def account(page: PageRequest) -> Response:
    """Show one account with its keys and admin actions."""
    restore_draft(page, f"{page.path}/grant")
    return await render_account(page, account_number(page))


@form("/admin/accounts/{number}/grant", access="admin", draft_fields=("amount", "note"))
async def grant(page: PageRequest) -> Response:
    """Give credit. The same form sent twice gives it once: `once` is the idempotency key."""
    account_id, admin_id, clock = account_number(page), page.member.user_id, page.site.clock
    source = page.client_ip
    note, once, amount = _note(page), page.form["once"], read_amount(page, "amount") or 0
    if not amount:
        page.form.add_error("amount", page.gettext("Enter an amount in dollars, such as 5.00."))
    if not once:
        page.form.add_error("", page.gettext("Reload the page and try again."))
    if not page.form.is_valid:
        return await render_account(page, account_id, 422)

    def change(connection: Connection) -> bool | InvalidRequest:
        try:
            return grant_as_admin(connection, clock, admin_id, account_id, amount, note=note, once=once, source=source)
        except InvalidRequest as error:
            # Nothing was written. The writer would log an exception as a fault.
            return error

    done = await page.site.writer.run(change)
    if isinstance(done, InvalidRequest):
        most = page.formatter.money(LARGEST_TOTAL_NANO)
        message = page.gettext("This does not fit into the ledger: all credits together may be at most %(most)s.")
        page.form.add_error("amount", message % {"most": most})
        return await render_account(page, account_id, 422)
    if not done:
        return not_found(page)
    message = page.gettext("%(amount)s were given.") % {"amount": page.formatter.money(amount)}
    return page.redirect(f"/admin/accounts/{account_id}", flash=message)


@form("/admin/accounts/{number}/revoke", access="admin")
async def revoke(page: PageRequest) -> Response:
    """Revoke every key of the account. They stop working within a second."""
    account_id, admin_id, clock = account_number(page), page.member.user_id, page.site.clock
    source = page.client_ip
    note = _note(page)
    if not page.form.is_valid:
        return await render_account(page, account_id, 422)

    def change(connection: Connection) -> int | None:
        return revoke_keys(connection, clock, admin_id, account_id, note=note, source=source)

    if await page.site.writer.run(change) is None:
        return not_found(page)
    return page.redirect(f"/admin/accounts/{account_id}", flash=page.gettext("All keys of the account are revoked."))


@page("/admin/actions", access="admin")
async def actions(page: PageRequest) -> Response:
    """Show the log of admin actions: action, account and reason (keyset pagination: below an ID)."""
    below = page.query_number("below", longest=18)
    rows = await page.report(reports.admin_actions, MAX_ROWS + 1, None, below)
    older = rows[MAX_ROWS - 1] if len(rows) > MAX_ROWS else None
    return page.render(
        "admin/audit_log.html", done=rows[:MAX_ROWS], actions=ACTIONS, older=older, newer=below is not None
    )


@page("/admin/catalog", access="admin")
async def catalog(page: PageRequest) -> Response:
    """Show what the catalog's file would change if it were read again, or its mistake."""
    return _render_catalog(page)


def _render_catalog(page: PageRequest, status: int = 200) -> Response:
    reload, error = page.site.catalog_reload, None
    changes: list[Change] = []
    try:
        changes = reload.preview()
    except (CatalogError, SettingsError) as mistake:
        error = str(mistake)
    return page.render(
        "admin/catalog.html", status, changes=changes, error=error, seen=_digest(changes),
        is_supervised=reload.is_supervised, is_shared=page.site.database.is_shared,
    )  # fmt: skip


def _digest(changes: list[Change]) -> str:
    return hashlib.sha256(repr(changes).encode()).hexdigest()[:32]


@form("/admin/catalog/reload", access="admin")
async def reload_catalog(page: PageRequest) -> Response:
    """Read the catalog again in all processes of this server, if its changes are still those that the admin saw."""
    reload = page.site.catalog_reload
    try:
        if page.form["seen"] != _digest(reload.preview()):
            page.form.add_error("", page.gettext("The file has changed again. Check the changes below."))
            return _render_catalog(page, 409)
        summary = reload.reload_everywhere()
    except (CatalogError, SettingsError):
        # The page shows the mistake.
        return _render_catalog(page, 422)
    admin_id, clock, source = page.member.user_id, page.site.clock, page.client_ip
    log.info("catalog read again by an admin: %s", summary)
    await page.site.writer.run(lambda c: log_catalog_reload(c, clock, admin_id, summary, source=source))
    if reload.is_supervised:
        message = page.gettext("The processes of this server are being replaced one by one.")
    else:
        message = page.gettext("The catalog is reloaded.")
    return page.redirect("/admin/catalog", flash=message)


def _note(page: PageRequest) -> str:
    note = page.form["note"]
    if not note:
        page.form.add_error("note", page.gettext("Give a reason. It is recorded in the audit log."))
    elif len(note) > MAX_NOTE_LENGTH:
        page.form.add_error("note", page.gettext("That is too long."))
    return note


HANDLERS: list[Handler] = [overview, jobs, account, grant, revoke, catalog, reload_catalog, actions]
