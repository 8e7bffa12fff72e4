"""Top up: voucher codes always, cards where Stripe is set up. And Stripe's own way in, its webhook."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, cast

from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler

from minitoolai.accounts.rate_limits import Limit
from minitoolai.billing.payments import NoVoucher, redeem
from minitoolai.billing.stripe import LEAST_CENTS, MOST_CENTS, NANO_PER_CENT
from minitoolai.core.errors import InvalidRequest, Overloaded, StoreError
from minitoolai.portal.request import Answer, PageRequest, refill
from minitoolai.portal.routing import form, nothing_here, page, too_often
from minitoolai.portal.site import Site
from minitoolai.storage.database import Connection
from minitoolai.storage.payments import payments_of

CODES = Limit(10, 900.0)
CHECKOUTS = Limit(20, 3600.0)
AMOUNTS = (5, 10, 20, 50, 100)
LARGEST_EVENT = 1024 * 1024
#: Where Stripe's form lies; the browser must be allowed to be sent there.
STRIPE_HOST = "https://checkout.stripe.com"


@page("/topup", needs="user")
async def topup(visit: PageRequest) -> Answer:
    """The ways to top up."""
    refill(visit, "/topup/card")
    return await _show(visit)


async def _show(visit: PageRequest, status: int = 200) -> Answer:
    payments = await visit.site.database.read_async(payments_of, visit.member.account_id)
    return visit.render(
        "topup/topup.html", status, form_action=_form_action(visit), payments=payments, amounts=AMOUNTS,
        least=LEAST_CENTS * NANO_PER_CENT, most=MOST_CENTS * NANO_PER_CENT,
    )  # fmt: skip


def _form_action(visit: PageRequest) -> str:
    checkout = visit.site.checkout
    return "" if checkout is None else checkout.form_action or STRIPE_HOST


@form("/topup/voucher", needs="user")
async def voucher(visit: PageRequest) -> Answer:
    """Redeem a code."""
    code, account_id, site = visit.form["code"], visit.member.account_id, visit.site
    if wait_s := site.attempts.wait_s(f"voucher {account_id}", CODES):
        return too_often(visit, wait_s)

    def change(connection: Connection) -> int | NoVoucher:
        return redeem(connection, site.clock, site.secret_key, account_id, code)

    amount = await site.writer.run(change)
    if not isinstance(amount, int):
        visit.form.refuse("code", _why_no_voucher(visit, amount))
        return await _show(visit, 422)
    site.attempts.forgive(f"voucher {account_id}")
    said = visit.gettext("Done: %(amount)s were added to your balance.")
    return visit.redirect("/balance", said=said % {"amount": visit.writing.money(amount)})


def _why_no_voucher(visit: PageRequest, why: NoVoucher) -> str:
    _ = visit.gettext
    if why == "used":
        return _("This voucher was redeemed already.")
    if why == "expired":
        return _("This voucher is too old.")
    return _("There is no such voucher. Check the code for slips.")


@form("/topup/card", needs="user", keeps=("amount",))
async def card(visit: PageRequest) -> Answer:
    """To Stripe's form; the payment's row is there before."""
    checkout = visit.site.checkout
    if checkout is None:
        return nothing_here(visit)
    cents = _cents(visit.form["amount"])
    if cents is None or not LEAST_CENTS <= cents <= MOST_CENTS:
        words = visit.gettext("Write an amount from %(least)s to %(most)s, with two places at most.")
        least, most = (visit.writing.money(n * NANO_PER_CENT) for n in (LEAST_CENTS, MOST_CENTS))
        visit.form.refuse("amount", words % {"least": least, "most": most})
        return await _show(visit, 422)
    if wait_s := visit.site.attempts.wait_s(f"checkout {visit.member.account_id}", CHECKOUTS):
        return too_often(visit, wait_s)
    try:
        address = await checkout.begin(
            visit.member.account_id,
            visit.member.email,
            cents,
            done_url=visit.origin + visit.url("/topup/done?session={CHECKOUT_SESSION_ID}"),
            back_url=visit.origin + visit.url("/topup"),
            lang=visit.lang,
        )
    except Overloaded:
        visit.form.refuse(
            "amount", visit.gettext("The payment provider does not answer. Nothing was charged; try again.")
        )
        return await _show(visit, 503)
    return visit.send_to(address)


def _cents(text: str) -> int | None:
    plain = text.replace(",", ".").removeprefix("$").strip()
    return int(Decimal(plain) * 100) if re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,2})?", plain) else None


@page("/topup/done", needs="user")
async def done(visit: PageRequest) -> Answer:
    """Back from Stripe: say how it went. The account is credited here as well, should the webhook be slow."""
    checkout = visit.site.checkout
    if checkout is None:
        return nothing_here(visit)
    try:
        payment = await checkout.landed(visit.member.account_id, visit.query.get("session", ""))
    except Overloaded:
        return visit.render("topup/waiting.html")
    if payment is None:
        return nothing_here(visit)
    if payment.state != "paid":
        return visit.render("topup/waiting.html")
    said = visit.gettext("Thank you! %(amount)s were paid and added to your balance.")
    return visit.redirect("/balance", said=said % {"amount": visit.writing.money(payment.paid)})


@post("/webhooks/stripe", status_code=200)
async def stripe_webhook(request: Request[Any, Any, State]) -> Response[bytes]:
    """News from Stripe. 400 for what Stripe did not sign; 503 makes Stripe come again."""
    checkout = cast(Site, request.app.state.site).checkout
    if checkout is None:
        return Response(b"no payments are set up here\n", status_code=404, media_type="text/plain")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_EVENT:
            return Response(b"too large\n", status_code=413, media_type="text/plain")
    try:
        await checkout.hear(body, request.headers.get("stripe-signature", ""))
    except InvalidRequest as error:
        return Response(error.message.encode() + b"\n", status_code=400, media_type="text/plain")
    except (Overloaded, StoreError):
        return Response(b"come again\n", status_code=503, media_type="text/plain", headers={"retry-after": "30"})
    return Response(b"ok\n", media_type="text/plain")


HANDLERS: list[HTTPRouteHandler] = [topup, voucher, card, done, stripe_webhook]
