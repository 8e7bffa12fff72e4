"""Pages for admins about what customers are charged by: the price group and the plan of an account, and coupons."""

from __future__ import annotations

from starlette.responses import Response

from minitoolai.billing.selling import coupons as selling
from minitoolai.billing.selling import plans
from minitoolai.billing.selling.plans import Refused
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.portal.amounts import read_amount
from minitoolai.portal.pages.insight.account import render_account
from minitoolai.portal.pages.insight.view import account_number
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, not_found, page
from minitoolai.storage.database import Connection
from minitoolai.storage.selling import coupons
from minitoolai.storage.selling.coupons import Coupon
from minitoolai.storage.selling.purses import Purse
from minitoolai.storage.tables import reports

MAX_COUPONS = 50
MAX_USES, MAX_DAYS = 1_000_000, 36_500
MAX_NOTE_LENGTH = 200


@form("/admin/accounts/{number}/group", access="admin")
async def set_group(page: PageRequest) -> Response:
    """Put the account into a price group, or into none. It takes effect within a second."""
    account_id, admin_id, clock, group = (
        account_number(page),
        page.member.user_id,
        page.site.clock,
        page.form["group"],
    )
    if await page.report(reports.find_customer, account_id) is None:
        return not_found(page)
    if group and group not in page.site.reports.catalog.groups:
        page.form.add_error("", page.gettext("The catalog has no such price group."))
        return await render_account(page, account_id, 422)
    await page.site.writer.run(
        lambda connection: plans.set_group_as(connection, clock, admin_id, account_id, group or None, note=None)
    )
    return page.redirect(f"/admin/accounts/{account_id}", flash=page.gettext("The price group is set."))


@form("/admin/accounts/{number}/plan", access="admin")
async def start_plan(page: PageRequest) -> Response:
    """Start a plan, paid from the balance of the account, in place of its present one."""
    account_id, admin_id, clock, once = account_number(page), page.member.user_id, page.site.clock, page.form["once"]
    plan = page.site.reports.catalog.plans.get(page.form["plan"])
    if await page.report(reports.find_customer, account_id) is None:
        return not_found(page)
    if plan is None or not once:
        page.form.add_error("", page.gettext("Reload the page and try again."))
        return await render_account(page, account_id, 422)

    def change(connection: Connection) -> Purse | Refused:
        return plans.start_plan_as(connection, clock, admin_id, account_id, plan, note=None, once=once[:40])

    done = await page.site.writer.run(change)
    if isinstance(done, Refused):
        message = page.gettext("This plan is not on offer any more.")
        if done.reason == "renewed":
            message = page.gettext("The next period of the plan has just been paid. Change it when it has begun.")
        elif done.reason == "poor":
            message = page.gettext("The balance of the account does not cover the plan.")
        page.form.add_error("", message)
        return await render_account(page, account_id, 422)
    return page.redirect(f"/admin/accounts/{account_id}", flash=page.gettext("The plan has begun."))


@form("/admin/accounts/{number}/end-plan", access="admin")
async def end_plan(page: PageRequest) -> Response:
    """Do not renew the plan of the account."""
    account_id, admin_id, clock = account_number(page), page.member.user_id, page.site.clock
    if await page.report(reports.find_customer, account_id) is None:
        return not_found(page)
    await page.site.writer.run(
        lambda connection: plans.cancel_plan_as(connection, clock, admin_id, account_id, note=None)
    )
    return page.redirect(f"/admin/accounts/{account_id}", flash=page.gettext("The plan will not be renewed."))


# ── coupons ───────────────────────────────────────────────────────────────────────────────────────────────


@page("/admin/coupons", access="admin")
async def show_coupons(page: PageRequest) -> Response:
    """Show the coupons, newest first (keyset pagination: before a time and an ID)."""
    return await _render(page)


async def _render(page: PageRequest, status: int = 200) -> Response:
    parts = page.query.get("before", "").split("-")
    is_place = len(parts) == 2 and all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts)
    before = tuple(map(int, parts)) if is_place else None
    found = await page.report(coupons.list_coupons, MAX_COUPONS + 1, before)
    shown = found[:MAX_COUPONS]
    older = f"{shown[-1].created_ms}-{shown[-1].id}" if len(found) > MAX_COUPONS else None
    return page.render(
        "admin/coupons.html", status, found=shown, older=older, newer=before is not None,
        now_ms=page.site.clock.now_ms(),
    )  # fmt: skip


@form("/admin/coupons/create", access="admin")
async def create_coupon(page: PageRequest) -> Response:
    """Add a coupon: percent off plans, or an amount of credit."""
    _, clock, admin_id = page.gettext, page.site.clock, page.member.user_id
    code, percent = selling.plain_code(page.form["code"]), _number(page.form["percent"], 100)
    uses, days = _number(page.form["uses"], MAX_USES), _number(page.form["days"], MAX_DAYS)
    amount = read_amount(page, "amount") if page.form["amount"] else None
    if not code:
        page.form.add_error("code", _("Use 3 to 40 letters and digits."))
    if (percent is None) == (amount is None) and not page.form.errors:
        page.form.add_error("percent", _("Enter a percentage from 1 to 100, or an amount, not both."))
    if uses is None:
        page.form.add_error("uses", _("Enter how many accounts may use it."))
    if page.form["days"] and days is None:
        page.form.add_error("days", _("Enter a number of days, or nothing."))
    if not page.form.is_valid or uses is None:
        return await _render(page, 422)
    now_ms, note = clock.now_ms(), page.form["note"][:MAX_NOTE_LENGTH] or None
    ends_ms = None if days is None else now_ms + days * MS_PER_DAY
    coupon = Coupon(clock.new_id(), code, percent, amount, uses, 0, note, now_ms, ends_ms)
    if not await page.site.writer.run(lambda connection: selling.create_coupon(connection, clock, coupon, admin_id)):
        page.form.add_error("code", _("There is a coupon with this code."))
        return await _render(page, 422)
    return page.redirect("/admin/coupons", flash=_("The coupon is created."))


def _number(text: str, most: int) -> int | None:
    """Return a whole number from 1 to `most`, or None for anything else."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    return number if 1 <= number <= most else None


@form("/admin/coupons/cancel", access="admin")
async def cancel_coupon(page: PageRequest) -> Response:
    """Cancel a coupon. Earlier uses stay."""
    clock, admin_id, code = page.site.clock, page.member.user_id, page.form["code"]
    await page.site.writer.run(
        lambda connection: selling.cancel_coupon(connection, clock, code, note=None, admin_id=admin_id)
    )
    return page.redirect("/admin/coupons", flash=page.gettext("The coupon is cancelled."))


HANDLERS: list[Handler] = [set_group, start_plan, end_plan, show_coupons, create_coupon, cancel_coupon]
