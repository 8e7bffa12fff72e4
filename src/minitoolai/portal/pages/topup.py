"""Top up by voucher, and by card if Stripe is configured; and the webhook that Stripe calls."""

from __future__ import annotations

import re
from decimal import Decimal

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from minitoolai.accounts.rate_limits import Limit
from minitoolai.billing.payments import NoVoucher, redeem
from minitoolai.billing.stripe import MAX_CENTS, MIN_CENTS, NANO_PER_CENT
from minitoolai.core.errors import BodyTooLarge, ClientLeft, InvalidRequest, Overloaded, StoreError
from minitoolai.http.routing import read_body, route
from minitoolai.portal.request import PageRequest, restore_draft
from minitoolai.portal.routing import Handler, form, not_found, page, too_many_requests
from minitoolai.portal.site import Site
from minitoolai.storage.database import Connection
from minitoolai.storage.payments import payments_of

VOUCHER_LIMIT = Limit(10, 900.0)
CHECKOUT_LIMIT = Limit(20, 3600.0)
AMOUNTS = (5, 10, 20, 50, 100)
MAX_EVENT_BYTES = 1024 * 1024
#: Payments on a page.
MAX_PAYMENTS = 50
#: Host of Stripe's payment form. The content security policy must allow our form to lead there.
STRIPE_HOST = "https://checkout.stripe.com"


@page("/topup", access="user")
async def topup(page: PageRequest) -> Response:
    """Show the ways to top up, and past payments."""
    restore_draft(page, "/topup/card")
    return await _render_topup(page)


async def _render_topup(page: PageRequest, status: int = 200) -> Response:
    below = page.query_number("below", longest=18)
    rows = await page.site.database.read_async(payments_of, page.member.account_id, MAX_PAYMENTS + 1, below)
    return page.render(
        "topup/topup.html", status, form_action=_form_action(page), payments=rows[:MAX_PAYMENTS], amounts=AMOUNTS,
        older=rows[MAX_PAYMENTS - 1] if len(rows) > MAX_PAYMENTS else None, newer=below is not None,
        least=MIN_CENTS * NANO_PER_CENT, most=MAX_CENTS * NANO_PER_CENT,
    )  # fmt: skip


def _form_action(page: PageRequest) -> str:
    checkout = page.site.checkout
    return "" if checkout is None else checkout.form_action or STRIPE_HOST


@form("/topup/voucher", access="user")
async def voucher(page: PageRequest) -> Response:
    """Redeem a voucher code."""
    code, account_id, site = page.form["code"], page.member.account_id, page.site
    if wait_s := site.throttle.wait_s(f"voucher {account_id}", VOUCHER_LIMIT):
        return too_many_requests(page, wait_s)

    def change(connection: Connection) -> int | NoVoucher:
        return redeem(connection, site.clock, site.secret_keys, account_id, code)

    amount = await site.writer.run(change)
    if not isinstance(amount, int):
        page.form.add_error("code", _voucher_error(page, amount))
        return await _render_topup(page, 422)
    site.throttle.reset(f"voucher {account_id}")
    message = page.gettext("Done: %(amount)s were added to your balance.")
    return page.redirect("/balance", flash=message % {"amount": page.formatter.money(amount)})


def _voucher_error(page: PageRequest, reason: NoVoucher) -> str:
    _ = page.gettext
    if reason == "used":
        return _("This voucher was redeemed already.")
    if reason == "expired":
        return _("This voucher is too old.")
    if reason == "too_large":
        return _("This voucher does not fit into the ledger. It stays valid; ask the operator for a smaller one.")
    return _("There is no such voucher. Check the code for slips.")


@form("/topup/card", access="user", draft_fields=("amount",))
async def card(page: PageRequest) -> Response:
    """Redirect to Stripe's payment form. The payment is stored before, so that no paid one is unknown."""
    checkout = page.site.checkout
    if checkout is None:
        return not_found(page)
    cents = _cents(page.form["amount"])
    if cents is None or not MIN_CENTS <= cents <= MAX_CENTS:
        message = page.gettext("Write an amount from %(least)s to %(most)s, with two places at most.")
        least, most = (page.formatter.money(n * NANO_PER_CENT) for n in (MIN_CENTS, MAX_CENTS))
        page.form.add_error("amount", message % {"least": least, "most": most})
        return await _render_topup(page, 422)
    if wait_s := page.site.throttle.wait_s(f"checkout {page.member.account_id}", CHECKOUT_LIMIT):
        return too_many_requests(page, wait_s)
    try:
        address = await checkout.create_session(
            page.member.account_id,
            page.member.email,
            cents,
            # Never from the Host header, as in e-mails: Stripe would lead the browser wherever a request named.
            done_url=page.site.address() + page.url("/topup/done?session={CHECKOUT_SESSION_ID}"),
            back_url=page.site.address() + page.url("/topup"),
            lang=page.lang,
        )
    except Overloaded:
        page.form.add_error(
            "amount", page.gettext("The payment provider does not answer. Nothing was charged; try again.")
        )
        return await _render_topup(page, 503)
    return page.redirect_to_url(address)


def _cents(text: str) -> int | None:
    plain = text.replace(",", ".").removeprefix("$").strip()
    return int(Decimal(plain) * 100) if re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,2})?", plain) else None


@page("/topup/done", access="user")
async def done(page: PageRequest) -> Response:
    """Show the result after Stripe's form. Credit the account here too, in case the webhook is late."""
    checkout = page.site.checkout
    if checkout is None:
        return not_found(page)
    try:
        payment = await checkout.payment_for_return(page.member.account_id, page.query.get("session", ""))
    except Overloaded:
        return page.render("topup/waiting.html")
    if payment is None:
        return not_found(page)
    if payment.state != "paid":
        return page.render("topup/waiting.html")
    message = page.gettext("Thank you! %(amount)s were paid and added to your balance.")
    return page.redirect("/balance", flash=message % {"amount": page.formatter.money(payment.paid)})


@route("/webhooks/stripe", "POST")
async def stripe_webhook(request: Request) -> Response:
    """Receive an event of Stripe. 400 for a wrong signature; 503 makes Stripe send it again."""
    site: Site = request.app.state.site
    if site.checkout is None:
        return PlainTextResponse("no payments are set up here\n", 404)
    try:
        body = await read_body(request, MAX_EVENT_BYTES)
        await site.checkout.handle_webhook(body, request.headers.get("stripe-signature", ""))
    except InvalidRequest as error:
        if wait_s := site.request_failures.wait_s(request.scope):
            return PlainTextResponse(f"too many requests failed: {error.message}\n", 429, {"retry-after": str(wait_s)})
        return PlainTextResponse(f"{error.message}\n", 413 if isinstance(error, BodyTooLarge) else 400)
    except ClientLeft as error:
        return PlainTextResponse(f"{error.message}\n", 400)
    except (Overloaded, StoreError):
        return PlainTextResponse("come again\n", 503, {"retry-after": "30"})
    return PlainTextResponse("ok\n")


HANDLERS: list[Handler] = [topup, voucher, card, done, stripe_webhook]
