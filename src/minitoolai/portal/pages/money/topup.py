"""Top up by voucher and through payment providers; and the notifications that these send."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from minitoolai.accounts.rate_limits import Limit
from minitoolai.billing.cashier import MAX_CENTS, MIN_CENTS, Addresses
from minitoolai.billing.payments import NoVoucher, redeem
from minitoolai.billing.providers.protocol import NANO_PER_CENT, Incoming
from minitoolai.core.errors import BodyTooLarge, ClientLeft, InvalidRequest, NotFound, Overloaded, StoreError
from minitoolai.core.money import NANO_PER_DOLLAR
from minitoolai.http.routing import read_body, route
from minitoolai.portal.amounts import read_amount
from minitoolai.portal.request import PageRequest, restore_draft
from minitoolai.portal.routing import Handler, form, not_found, page, too_many_requests
from minitoolai.portal.site import Site
from minitoolai.storage.database import Connection
from minitoolai.storage.tables.payments import payments_of

VOUCHER_LIMIT = Limit(10, 900.0)
CHECKOUT_LIMIT = Limit(20, 3600.0)
AMOUNTS = (5, 10, 20, 50, 100)
MAX_EVENT_BYTES = 1024 * 1024
#: Payments on a page.
MAX_PAYMENTS = 50


@page("/topup", access="user", action="pay")
async def topup(page: PageRequest) -> Response:
    """Show the ways to top up, and past payments."""
    restore_draft(page, "/topup/card")
    return await _render_topup(page)


async def _render_topup(page: PageRequest, status: int = 200) -> Response:
    below = page.query_number("below", longest=18)
    rows = await page.site.database.read_async(payments_of, page.member.account_id, MAX_PAYMENTS + 1, below)
    return page.render(
        "topup/topup.html", status, form_action=form_action(page), payments=rows[:MAX_PAYMENTS], amounts=AMOUNTS,
        older=rows[MAX_PAYMENTS - 1] if len(rows) > MAX_PAYMENTS else None, newer=below is not None,
        least=MIN_CENTS * NANO_PER_CENT, most=MAX_CENTS * NANO_PER_CENT,
    )  # fmt: skip


def form_action(page: PageRequest) -> str:
    """Return the origins to which our forms may lead: the content security policy must allow them."""
    return " ".join(provider.form_action for provider in page.site.cashier.providers.values())


def addresses(page: PageRequest, done: str = "/topup/done", back: str = "/topup") -> Addresses:
    """Return the addresses that a provider gets.

    Never from the Host header, as in e-mails: the provider would lead the browser wherever a request named.
    """
    site = page.site.address()
    return Addresses(site + page.url(done), site + page.url(back), f"{site}/webhooks/payments")


@form("/topup/voucher", access="user", action="pay")
async def voucher(page: PageRequest) -> Response:
    """Redeem a voucher code."""
    code, account_id, site = page.form["code"], page.member.account_id, page.site
    if wait_s := await site.throttle.wait(f"voucher {account_id}", VOUCHER_LIMIT):
        return too_many_requests(page, wait_s)

    def change(connection: Connection) -> int | NoVoucher:
        amount = redeem(connection, site.clock, site.secret_keys, account_id, code)
        if isinstance(amount, int):
            page.log_action(connection, "voucher", note=page.formatter.money(amount))
        return amount

    amount = await site.writer.run(change)
    if not isinstance(amount, int):
        page.form.add_error("code", _voucher_error(page, amount))
        return await _render_topup(page, 422)
    await site.throttle.forgive(f"voucher {account_id}")
    message = page.gettext("%(amount)s added to your balance.")
    return page.redirect("/balance", flash=message % {"amount": page.formatter.money(amount)})


def _voucher_error(page: PageRequest, reason: NoVoucher) -> str:
    _ = page.gettext
    if reason == "used":
        return _("This voucher has already been redeemed.")
    if reason == "cancelled":
        return _("This voucher was cancelled by the operator.")
    if reason == "expired":
        return _("This voucher has expired.")
    if reason == "too_large":
        return _("This voucher does not fit into the ledger. It stays valid; ask the operator for a smaller one.")
    return _("There is no such voucher. Check the code for typos.")


@form("/topup/card", access="user", action="pay", draft_fields=("amount",))
async def card(page: PageRequest) -> Response:
    """Redirect to the provider's payment form. The payment is stored before, so that no paid one is unknown."""
    providers = page.site.cashier.providers
    provider = page.form["provider"] or next(iter(providers), "")
    if provider not in providers:
        return not_found(page)
    message = page.gettext("Write an amount from %(least)s to %(most)s, with two places at most.")
    least, most = (page.formatter.money(n * NANO_PER_CENT) for n in (MIN_CENTS, MAX_CENTS))
    wrong = message % {"least": least, "most": most}
    # A typed amount takes precedence over a button.
    preset = "" if page.form["amount"] else page.form["preset"]
    nano = int(preset) * NANO_PER_DOLLAR if preset in map(str, AMOUNTS) else read_amount(page, "amount", wrong) or 0
    cents, fraction = divmod(nano, NANO_PER_CENT)
    if fraction or not MIN_CENTS <= cents <= MAX_CENTS:
        page.form.add_error("amount", wrong)
    if not page.form.is_valid:
        return await _render_topup(page, 422)
    if wait_s := await page.site.throttle.wait(f"checkout {page.member.account_id}", CHECKOUT_LIMIT):
        return too_many_requests(page, wait_s)
    person = page.member
    try:
        address = await page.site.cashier.begin(
            provider, person.account_id, person.email, cents, addresses=addresses(page), lang=page.lang
        )
    except Overloaded:
        page.form.add_error(
            "amount", page.gettext("The payment provider is not responding. Nothing was charged. Try again.")
        )
        return await _render_topup(page, 503)
    await page.record_action("checkout", note=page.formatter.money(nano))
    return page.redirect_to_url(address)


@page("/topup/done", access="user", action="pay")
async def done(page: PageRequest) -> Response:
    """Show the result after the provider's form. Credit the account here too, in case the notification is late.

    Providers add what they like to this address. Only the reference is read; the state comes from the provider's API.
    """
    reference = page.query.get("session") or page.query.get("out_trade_no", "")
    try:
        payment = await page.site.cashier.payment_for_return(page.member.account_id, reference)
    except Overloaded:
        return page.render("topup/waiting.html")
    if payment is None:
        return not_found(page)
    if payment.state != "paid":
        return page.render("topup/waiting.html")
    message = page.gettext("Thank you! %(amount)s was added to your balance.")
    return page.redirect("/balance", flash=message % {"amount": page.formatter.money(payment.paid)})


@route("/webhooks/stripe", "POST")
async def stripe_webhook(request: Request) -> Response:
    """Receive an event of Stripe. 400 for a wrong signature; 503 makes Stripe send it again."""
    return await _receive(request, "stripe")


@route("/webhooks/payments/{provider}", "GET", "POST")
async def notification(request: Request) -> Response:
    """Receive a notification of any provider. Its body says `success`, or what the provider expects, once handled."""
    return await _receive(request, request.path_params["provider"])


async def _receive(request: Request, provider: str) -> Response:
    site: Site = request.app.state.site
    if provider not in site.cashier.providers:
        return PlainTextResponse("no payments are set up here\n", 404)
    try:
        body = await read_body(request, MAX_EVENT_BYTES)
        incoming = Incoming(dict(request.query_params), request.headers, body)
        return PlainTextResponse(await site.cashier.receive(provider, incoming))
    except InvalidRequest as error:
        if wait_s := site.request_failures.wait_s(request.scope):
            return PlainTextResponse(f"too many requests failed: {error.message}\n", 429, {"retry-after": str(wait_s)})
        return PlainTextResponse(f"{error.message}\n", 413 if isinstance(error, BodyTooLarge) else 400)
    except (ClientLeft, NotFound) as error:
        return PlainTextResponse(f"{error.message}\n", 400)
    except (Overloaded, StoreError):
        return PlainTextResponse("come again\n", 503, {"retry-after": "30"})


HANDLERS: list[Handler] = [topup, voucher, card, done, stripe_webhook, notification]
