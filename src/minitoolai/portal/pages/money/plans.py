"""Plans for customers: buy one, change, cancel or resume it, and see the remaining credit and its windows."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from minitoolai.accounts.rate_limits import Limit
from minitoolai.billing.selling import plans
from minitoolai.billing.selling.coupons import NoCoupon, redeem_coupon
from minitoolai.billing.selling.plans import Refused
from minitoolai.core.clock import generation_name, random_text
from minitoolai.core.errors import Overloaded
from minitoolai.core.models import StatementRow
from minitoolai.core.plans import PlanWindow
from minitoolai.core.threads import EXPORTS
from minitoolai.http.exports import Parts, csv_lines
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.account.account import COLUMNS, TRANSFER_NAMES, WORK_NAMES, statement_line
from minitoolai.portal.pages.money.topup import CHECKOUT_LIMIT, addresses, form_action
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, not_found, page, too_many_requests
from minitoolai.storage.database import Connection
from minitoolai.storage.selling import purses
from minitoolai.storage.selling.purses import Purse

COUPON_LIMIT = Limit(10, 900.0)
PERIODS = {"week": N_("a week"), "month": N_("a month"), "year": N_("a year")}
WINDOWS = {"5h": N_("in five hours"), "week": N_("in a week"), "month": N_("in a month")}
#: Purses that have ended and are shown.
MAX_PAST = 12
#: Transfers on a page of a plan's statement, and in one part of its file.
STATEMENT_SIZE, STATEMENT_PART = 50, 500


class Shown(msgspec.Struct, frozen=True):
    """The plan of a customer: its purse, and what may still be spent in each window."""

    purse: Purse
    room: dict[PlanWindow, int]


def _read(connection: Connection, account_id: int, now_ms: int) -> tuple[list[Shown], list[Purse]]:
    found = purses.open_purses(connection, account_id)
    running = [purse for purse in found if purse.ends_ms > now_ms or purse.renewal != "none"]
    past = [purse for purse in purses.purses_of(connection, account_id, MAX_PAST) if purse not in running]
    return [Shown(purse, purses.window_room(connection, purse, now_ms)) for purse in running], past


@page("/plans", access="user", action="pay")
async def show(page: PageRequest) -> Response:
    """Show the plan of the customer, and the plans on offer."""
    return await _render(page)


async def _render(page: PageRequest, status: int = 200) -> Response:
    now_ms = page.site.clock.now_ms()
    running, past = await page.site.database.read_async(_read, page.member.account_id, now_ms)
    offered = [plan for plan in page.site.reports.catalog.plans.values() if not plan.is_closed]
    by_card = {plan.name for plan in offered if page.site.subscriptions.can_renew(plan)}
    return page.render(
        "plans/plans.html", status, running=running, past=past, offered=offered, periods=PERIODS, windows=WINDOWS,
        now_ms=now_ms, once=random_text(20), by_card=by_card, form_action=form_action(page),
    )  # fmt: skip


@form("/plans/buy", access="user", action="pay")
async def buy(page: PageRequest) -> Response:
    """Buy a plan from the balance, or change to it. The same form sent twice buys once."""
    account_id, site, once = page.member.account_id, page.site, page.form["once"]
    name, price, coupon = page.form["plan"], page.form["price"], page.form["coupon"]
    if not once or not (price.isascii() and price.isdigit() and len(price) < 19):
        page.form.add_error("", page.gettext("Reload the page and try again."))
        return await _render(page, 422)
    if coupon and (wait_s := await site.throttle.wait(f"coupon {account_id}", COUPON_LIMIT)):
        return too_many_requests(page, wait_s)

    def change(connection: Connection) -> Purse | Refused:
        bought = plans.buy(
            connection, site.clock, account_id, site.reports.catalog.plans.get(name), expected_price=int(price),
            reference=f"plan:{account_id}:{once[:40]}", replace=page.form["change"] == "1", coupon=coupon or None,
        )  # fmt: skip
        if not isinstance(bought, Refused):
            page.log_action(connection, "buy_plan", name)
        return bought

    done = await site.writer.run(change)
    if isinstance(done, Refused):
        page.form.add_error("coupon" if done.reason in COUPON_WORDS else "", _why(page, done))
        return await _render(page, 422)
    return page.redirect("/plans", flash=page.gettext("The plan has begun."))


@form("/plans/subscribe", access="user", action="pay")
async def subscribe(page: PageRequest) -> Response:
    """Redirect to the provider's form for a plan that it charges for in each period. It is stored before."""
    site, person = page.site, page.member
    plan = site.reports.catalog.plans.get(page.form["plan"])
    if plan is None or plan.is_closed or not site.subscriptions.can_renew(plan):
        page.form.add_error("", _why(page, Refused("unknown")))
        return await _render(page, 422)
    if page.form["price"] != str(plan.price):
        page.form.add_error("", _why(page, Refused("price_changed", price=plan.price)))
        return await _render(page, 422)
    owned = await site.database.read_async(plans.current, person.account_id, site.clock.now_ms())
    if owned is not None and (owned.renewal == "provider" or owned.plan != plan.name):
        page.form.add_error("", _why(page, Refused("subscribed" if owned.renewal == "provider" else "owned")))
        return await _render(page, 422)
    if wait_s := site.throttle.wait_s(f"checkout {person.account_id}", CHECKOUT_LIMIT):
        return too_many_requests(page, wait_s)
    to = addresses(page, "/plans/subscribed", "/plans")
    try:
        address = await site.subscriptions.begin(person.account_id, person.email, plan, to, page.lang)
    except Overloaded:
        return await _no_answer(page)
    return page.redirect_to_url(address)


async def _no_answer(page: PageRequest) -> Response:
    page.form.add_error("", page.gettext("The payment provider is not responding. Nothing has changed. Try again."))
    return await _render(page, 503)


@page("/plans/subscribed", access="user", action="pay")
async def subscribed(page: PageRequest) -> Response:
    """Show the plan after the provider's form. Its first period is bought here too, in case the webhook is late."""
    try:
        found = await page.site.subscriptions.after_return(page.member.account_id, page.query.get("session", ""))
    except Overloaded:
        return page.render("topup/waiting.html")
    if found is None or found.state != "active":
        return page.render("topup/waiting.html")
    return page.redirect("/plans", flash=page.gettext("The plan has begun."))


COUPON_WORDS: dict[NoCoupon, str] = {
    "no_coupon": N_("There is no such coupon. Check the code for typos."),
    "coupon_used": N_("You have used this coupon before."),
    "coupon_spent": N_("This coupon has been used up."),
    "coupon_expired": N_("This coupon has expired."),
    "not_for_plans": N_("This coupon gives credit. Redeem it below."),
    "only_for_plans": N_("This coupon lowers the price of a plan. Enter it when you buy one."),
}


def _why(page: PageRequest, refused: Refused) -> str:
    _ = translate = page.gettext
    money = page.formatter.money
    words = next((text for reason, text in COUPON_WORDS.items() if reason == refused.reason), None)
    if words is not None:
        return translate(words)
    if refused.reason == "poor":
        message = _("The plan costs %(price)s, and your balance is %(balance)s. Top up first.")
        return message % {"price": money(refused.price), "balance": money(refused.available)}
    if refused.reason == "price_changed":
        return _("The price of this plan has changed to %(price)s.") % {"price": money(refused.price)}
    if refused.reason == "owned":
        return _("You have a plan already. Change it instead.")
    if refused.reason == "subscribed":
        return _("Your plan is renewed by card. Cancel that first; then you can change the plan.")
    if refused.reason == "renewed":
        return _("The next period of your plan has just been paid. Change the plan when it has begun.")
    return _("This plan is not on offer any more.")


@form("/plans/cancel", access="user", action="pay")
async def cancel(page: PageRequest) -> Response:
    """Do not renew the plan. Its credit stays until its end."""
    account_id, now_ms = page.member.account_id, page.site.clock.now_ms()
    try:
        await page.site.subscriptions.cancel(account_id)
    except Overloaded:
        return await _no_answer(page)

    def change(connection: Connection) -> None:
        plans.cancel(connection, account_id, now_ms)
        page.log_action(connection, "cancel_plan")

    await page.site.writer.run(change)
    return page.redirect("/plans", flash=page.gettext("The plan will not be renewed."))


@form("/plans/resume", access="user", action="pay")
async def resume(page: PageRequest) -> Response:
    """Renew the plan again."""
    account_id, now_ms = page.member.account_id, page.site.clock.now_ms()
    try:
        is_subscribed = await page.site.subscriptions.cancel(account_id, resume=True)
    except Overloaded:
        return await _no_answer(page)

    def change(connection: Connection) -> None:
        if not is_subscribed:
            plans.resume(connection, account_id, now_ms)
        page.log_action(connection, "resume_plan")

    await page.site.writer.run(change)
    return page.redirect("/plans", flash=page.gettext("The plan will be renewed."))


@form("/plans/coupon", access="user", action="pay")
async def coupon(page: PageRequest) -> Response:
    """Redeem a coupon for credit."""
    code, account_id, site = page.form["code"], page.member.account_id, page.site
    if wait_s := await site.throttle.wait(f"coupon {account_id}", COUPON_LIMIT):
        return too_many_requests(page, wait_s)

    def change(connection: Connection) -> Any:
        amount = redeem_coupon(connection, site.clock, account_id, code)
        if isinstance(amount, int):
            page.log_action(connection, "coupon", note=page.formatter.money(amount))
        return amount

    amount = await site.writer.run(change)
    if not isinstance(amount, int):
        translate = page.gettext
        page.form.add_error("code", translate(COUPON_WORDS[amount]))
        return await _render(page, 422)
    await site.throttle.forgive(f"coupon {account_id}")
    message = page.gettext("%(amount)s added to your balance.")
    return page.redirect("/balance", flash=message % {"amount": page.formatter.money(amount)})


# ── the statement of a plan ───────────────────────────────────────────────────────────────────────────────


async def _own_purse(page: PageRequest) -> Purse | None:
    number = page.request.path_params["number"]
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        return None
    purse = await page.site.database.read_async(purses.find, int(number))
    return purse if purse is not None and purse.owner_id == page.member.account_id else None


@page("/plans/{number}/statement", access="user", action="read")
async def statement(page: PageRequest) -> Response:
    """Show what a period of a plan was given and has paid (keyset pagination: rows below a number)."""
    purse = await _own_purse(page)
    if purse is None:
        return not_found(page)
    below = page.query_number("below")
    rows = await page.site.reports.archive.purse_statement(purse, below, STATEMENT_SIZE + 1)
    older = rows[STATEMENT_SIZE - 1] if len(rows) > STATEMENT_SIZE else None
    plan = page.site.reports.catalog.plans.get(purse.plan)
    return page.render(
        "plans/statement.html", purse=purse, title=plan.title if plan is not None else purse.plan,
        rows=rows[:STATEMENT_SIZE], older=older, newer=below is not None, kinds=TRANSFER_NAMES, work=WORK_NAMES,
        generation_name=generation_name,
    )  # fmt: skip


@page("/plans/{number}/statement.csv", access="user", action="read")
async def statement_csv(page: PageRequest) -> Response:
    """Download the whole statement of a period of a plan."""
    purse = await _own_purse(page)
    if purse is None:
        return not_found(page)
    return await page.export(_statement_csv(page, purse), "text/csv", f"plan-{purse.id}.csv")


async def _statement_csv(page: PageRequest, purse: Purse) -> Parts:
    yield csv_lines([COLUMNS])
    below: int | None = None
    while rows := await page.site.reports.archive.purse_statement(purse, below, STATEMENT_PART):
        yield await EXPORTS.run(_encode, rows)
        below = rows[-1].version


def _encode(rows: list[StatementRow]) -> bytes:
    return csv_lines(map(statement_line, rows))


HANDLERS: list[Handler] = [
    show, buy, subscribe, subscribed, cancel, resume, coupon, statement, statement_csv,
]  # fmt: skip
