"""One account with everything about it: usage, requests, statement, payments, keys, sessions, notes and limits."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response

from minitoolai.accounts.users import IDLE_MS
from minitoolai.core.clock import MS_PER_DAY, generation_name, random_text
from minitoolai.core.models import AdminAction, Payment, SessionRow, User
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.account.account import TRANSFER_NAMES, WORK_NAMES, device_name
from minitoolai.portal.pages.account.keys import PERIODS, KeyListItem, key_list, limit_texts
from minitoolai.portal.pages.account.usage import KINDS, STATES, by_cost, daily_columns, group_cells
from minitoolai.portal.pages.insight.view import account_number
from minitoolai.portal.rendering.charts import column_chart
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, not_found, page
from minitoolai.storage.database import Connection
from minitoolai.storage.insight.requests import LogFilter, LogRow, list_requests
from minitoolai.storage.selling import purses
from minitoolai.storage.selling.purses import Purse
from minitoolai.storage.tables import payments, reports, responses, users

#: Lines of each list on the page of the account, and on a page of its own.
FEW, MANY = 5, 50
DAYS = 30
#: Names of the actions in the log of admin actions.
ACTIONS = {
    "grant": N_("Credit added"),
    "revoke_keys": N_("All keys revoked"),
    "reload_catalog": N_("Catalog reloaded"),
    "suspend": N_("Account suspended"),
    "unsuspend": N_("Account reinstated"),
    "reverse": N_("Credit taken back"),
    "refund": N_("Charge refunded"),
    "cancel_vouchers": N_("Vouchers cancelled"),
    "note": N_("Note"),
    "view": N_("Viewed as customer"),
    "set_group": N_("Price group set"),
    "start_plan": N_("Plan started"),
    "end_plan": N_("Plan cancelled"),
    "create_coupon": N_("Coupon created"),
    "cancel_coupon": N_("Coupon cancelled"),
    "reset_second_factor": N_("Second factors removed"),
}


class Sections(msgspec.Struct, frozen=True):
    """What one account has in the database."""

    user: User
    keys: list[KeyListItem]
    last_keys: int
    sessions: list[SessionRow]
    payments: list[Payment]
    owed: int
    requests: list[LogRow]
    jobs: list[LogRow]
    actions: list[AdminAction]
    notes: list[AdminAction]
    stored_bytes: int
    purses: list[Purse]


def read_sections(connection: Connection, account_id: int, now_ms: int, below: int | None) -> Sections | None:
    """Return the newest rows of every list, or None if there is no such account."""
    user = reports.find_customer(connection, account_id)
    if user is None:
        return None
    keys, _, last_keys = key_list(connection, account_id, now_ms, 0)
    actions = reports.admin_actions(connection, MANY + 1, account_id, below)
    return Sections(
        user,
        keys,
        last_keys,
        users.sessions_of(connection, account_id, now_ms, IDLE_MS),
        payments.payments_of(connection, account_id, FEW),
        sum(payment.owed for payment in payments.payments_owing(connection, account_id)),
        list_requests(connection, LogFilter(account_id), FEW).rows,
        list_requests(connection, LogFilter(account_id, kind="image"), FEW).rows,
        actions,
        reports.account_notes(connection, account_id, FEW),
        responses.total_bytes(connection, account_id),
        purses.open_purses(connection, account_id),
    )


async def render_account(page: PageRequest, account_id: int, status: int = 200) -> Response:
    """Return the page of one account, with the errors of a form."""
    now_ms, below = page.site.clock.now_ms(), page.query_number("below", longest=18)
    found = await page.report(read_sections, account_id, now_ms, below)
    if found is None:
        return not_found(page)
    cells = await page.site.usage.cells(account_id, DAYS)
    statement = await page.site.reports.archive.statement_page(
        account_id, below=None, before_ms=now_ms + 60_000, rows_wanted=FEW
    )
    totals = group_cells(cells, lambda cell: (cell.kind,))
    by_day = group_cells(cells, lambda cell: (cell.day, cell.kind))
    by_model = sorted(group_cells(cells, lambda cell: (cell.model, cell.kind)), key=by_cost)
    return page.render(
        "admin/account.html", status, person=found.user, found=found, once=random_text(20), ms_per_day=MS_PER_DAY,
        done=found.actions[:MANY], older=found.actions[MANY - 1] if len(found.actions) > MANY else None,
        newer=below is not None, days=DAYS, cost=sum(cell.cost for cell in totals), models=by_model[:FEW],
        requests=sum(cell.requests for cell in totals), statement=statement,
        cost_chart=column_chart(daily_columns(page, by_day, DAYS, lambda cell: cell.cost), page.formatter.money),
        groups=page.site.reports.catalog.groups,
        plans=[plan for plan in page.site.reports.catalog.plans.values() if not plan.is_closed],
        **_names(page), **_key_names(page, found.keys[:FEW]),
    )  # fmt: skip


def _names(page: PageRequest) -> dict[str, Any]:
    return {
        "transfer_names": TRANSFER_NAMES,
        "work_names": WORK_NAMES,
        "kinds": KINDS,
        "states": STATES,
        "generation_name": generation_name,
        "device_name": partial(device_name, page),
        "actions": ACTIONS,
    }


def _key_names(page: PageRequest, keys: list[KeyListItem]) -> dict[str, Any]:
    return {"keys": keys, "key_periods": PERIODS, "limits_of": {key.row.id: limit_texts(page, key) for key in keys}}


# ── whole lists ───────────────────────────────────────────────────────────────────────────────────────────


@page("/admin/accounts/{number}/statement", access="admin")
async def statement(page: PageRequest) -> Response:
    """Show the statement of an account (keyset pagination: rows below a number, before a time)."""
    account_id, below, before_ms = account_number(page), page.query_number("below"), page.query_number("until")
    user = await page.report(reports.find_customer, account_id)
    if user is None:
        return not_found(page)
    rows = await page.site.reports.archive.statement_page(
        account_id, below=below, before_ms=before_ms or page.site.clock.now_ms() + 60_000, rows_wanted=MANY + 1
    )
    older = rows[MANY - 1] if len(rows) > MANY else None
    return page.render(
        "admin/statement.html", person=user, statement=rows[:MANY], newer=below is not None, older=older, **_names(page)
    )


@page("/admin/accounts/{number}/payments", access="admin")
async def all_payments(page: PageRequest) -> Response:
    """Show the payments of an account (keyset pagination: below an ID)."""
    account_id, below = account_number(page), page.query_number("below", longest=18)

    def read(connection: Connection) -> tuple[User | None, list[Payment]]:
        rows = payments.payments_of(connection, account_id, MANY + 1, below)
        return reports.find_customer(connection, account_id), rows

    user, rows = await page.report(read)
    if user is None:
        return not_found(page)
    older = rows[MANY - 1] if len(rows) > MANY else None
    return page.render(
        "admin/payments.html", person=user, payments=rows[:MANY], newer=below is not None, older=older, **_names(page)
    )


@page("/admin/accounts/{number}/keys", access="admin")
async def all_keys(page: PageRequest) -> Response:
    """Show a page of the keys of an account, active ones first."""
    account_id, wanted, now_ms = account_number(page), page.query_number("page", longest=5), page.site.clock.now_ms()

    def read(connection: Connection) -> tuple[User | None, tuple[list[KeyListItem], int, int]]:
        return reports.find_customer(connection, account_id), key_list(connection, account_id, now_ms, wanted or 0)

    user, (keys, number, last) = await page.report(read)
    if user is None:
        return not_found(page)
    return page.render(
        "admin/keys.html", person=user, page_number=number, last=last, **_names(page), **_key_names(page, keys)
    )


HANDLERS: list[Handler] = [statement, all_payments, all_keys]
