"""Automatic top-ups: consent with a threshold, an amount and a daily cap; change and stop it."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from minitoolai.billing.cashier import MAX_CENTS, MIN_CENTS
from minitoolai.billing.providers.protocol import NANO_PER_CENT
from minitoolai.core.errors import Overloaded
from minitoolai.portal.amounts import amount_text, read_amount
from minitoolai.portal.pages.money.topup import CHECKOUT_LIMIT, addresses
from minitoolai.portal.request import PageRequest, restore_draft
from minitoolai.portal.routing import Handler, form, not_found, page, too_many_requests
from minitoolai.storage.selling import auto_topups
from minitoolai.storage.selling.auto_topups import AutoTopup

FIELDS = ("threshold", "amount", "daily_cap")
#: State of a row while the customer is at the provider; its `customer` is then the number of the attempt.
PENDING = "pending"


@page("/topup/auto", access="user", action="pay")
async def auto(page: PageRequest) -> Response:
    """Show the automatic top-up and its form."""
    if page.site.auto_topups.provider is None:
        return not_found(page)
    restore_draft(page, "/topup/auto/save")
    topup = await page.site.database.read_async(auto_topups.find, page.member.account_id)
    for name in FIELDS if topup is not None else ():
        page.form.values.setdefault(name, amount_text(getattr(topup, name)))
    return await _render(page)


async def _render(page: PageRequest, status: int = 200) -> Response:
    topup = await page.site.database.read_async(auto_topups.find, page.member.account_id)
    return page.render(
        "money/auto.html", status, topup=topup, form_action=page.site.cashier.providers["stripe"].form_action
        if "stripe" in page.site.cashier.providers else "",
    )  # fmt: skip


@form("/topup/auto/save", access="user", action="pay", draft_fields=FIELDS)
async def save(page: PageRequest) -> Response:
    """Save the limits, and lead to the provider if there is no payment method yet."""
    _, auto_service = page.gettext, page.site.auto_topups
    if auto_service.provider is None:
        return not_found(page)
    amounts = {name: _read(page, name) for name in FIELDS}
    if page.form.is_valid and amounts["daily_cap"] < amounts["amount"]:
        page.form.add_error("daily_cap", _("The daily limit must be at least the amount of one top-up."))
    if not page.form["consent"]:
        page.form.add_error("consent", _("Confirm that your payment method may be charged automatically."))
    if not page.form.is_valid:
        return await _render(page, 422)
    if wait_s := await page.site.throttle.wait(f"checkout {page.member.account_id}", CHECKOUT_LIMIT):
        return too_many_requests(page, wait_s)
    person, now_ms = page.member, page.site.clock.now_ms()
    known = await page.site.database.read_async(auto_topups.find, person.account_id)
    name, _provider = auto_service.provider
    if known is not None and known.method and not page.form["replace"] and known.stopped != "failed":
        await auto_service.change(
            msgspec.structs.replace(known, **amounts, stopped=None, consented_ms=now_ms, changed_ms=now_ms)
        )
        await page.record_action("auto_topup", note=page.formatter.money(amounts["amount"]))
        return page.redirect("/topup/auto", flash=_("Automatic top-up is on."))
    number = page.site.clock.new_id()
    pending = AutoTopup(
        person.account_id, name, str(number), "", "", page.lang, **amounts, consented_ms=now_ms, changed_ms=now_ms,
        stopped=PENDING,
    )  # fmt: skip
    try:
        url = await auto_service.begin_setup(
            number, person.email, addresses(page, "/topup/auto/done", "/topup/auto"), page.lang
        )
    except Overloaded:
        page.form.add_error("", _("The payment provider is not responding. Nothing was charged. Try again."))
        return await _render(page, 503)
    await auto_service.change(pending)
    return page.redirect_to_url(url)


def _read(page: PageRequest, name: str) -> int:
    """Return an amount that can be charged, or record the error of its field."""
    message = page.gettext("Write an amount from %(least)s to %(most)s, with two places at most.")
    least, most = (page.formatter.money(n * NANO_PER_CENT) for n in (MIN_CENTS, MAX_CENTS))
    wrong = message % {"least": least, "most": most}
    cents, fraction = divmod(read_amount(page, name, wrong) or 0, NANO_PER_CENT)
    if fraction or not MIN_CENTS <= cents <= MAX_CENTS:
        page.form.add_error(name, wrong)
    return cents * NANO_PER_CENT


@page("/topup/auto/done", access="user", action="pay")
async def done(page: PageRequest) -> Response:
    """Store the payment method that the customer saved. The provider says whether the session is of this attempt."""
    service, account_id = page.site.auto_topups, page.member.account_id
    pending = await page.site.database.read_async(auto_topups.find, account_id)
    if pending is None or pending.stopped != PENDING:
        return page.redirect("/topup/auto")
    try:
        saved = await service.finish_setup(
            account_id, int(pending.customer), page.query.get("session", ""), threshold=pending.threshold,
            amount=pending.amount, daily_cap=pending.daily_cap, lang=page.lang,
        )  # fmt: skip
    except Overloaded:
        saved = None
    if saved is None:
        message = page.gettext("The payment method was not saved. Try again.")
        return page.redirect("/topup/auto", flash=message, kind="warn")
    await page.record_action("auto_topup", note=page.formatter.money(pending.amount))
    return page.redirect("/topup/auto", flash=page.gettext("Automatic top-up is on."))


@form("/topup/auto/stop", access="user", action="pay")
async def stop(page: PageRequest) -> Response:
    """Withdraw the consent."""
    await page.site.auto_topups.stop(page.member.account_id)
    await page.record_action("stop_auto_topup")
    return page.redirect("/topup/auto", flash=page.gettext("Automatic top-up is off."))


HANDLERS: list[Handler] = [auto, save, done, stop]
