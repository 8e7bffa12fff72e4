"""Take card payments through Stripe Checkout.

A payment's row is inserted before the customer is redirected to Stripe. Webhooks, the return page and the hourly poll
only trigger a refresh: payments, refunds and disputes are always read from Stripe's API, and
`payments.transfer_difference` then applies the difference once. See docs/payments.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from minitoolai.billing.payments import transfer_difference
from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.errors import InvalidRequest, Overloaded, ServiceError, StoreError
from minitoolai.core.models import Payment
from minitoolai.settings import Settings
from minitoolai.storage import payments
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.writer import Writer

if TYPE_CHECKING:
    import stripe

log = logging.getLogger(__name__)
T = TypeVar("T")
NANO_PER_CENT = 10_000_000
MIN_CENTS, MAX_CENTS = 100, 1_000_000
POLL_EVERY_S = 3600.0
#: Poll unfinished payments for this long. Sessions expire after a day, but some payment methods take two weeks more.
POLL_WINDOW_MS = 30 * MS_PER_DAY
#: Reject webhooks with an older signature.
SIGNATURE_TOLERANCE_S = 300
MAX_REFRESHES = 10
#: Dispute states in which Stripe withdraws the money.
WITHDRAWN = ("needs_response", "under_review", "lost")


class StripeStatus(msgspec.Struct, frozen=True):
    """State of a payment as read from Stripe, in nano-dollars."""

    paid: int
    reversed: int
    intent: str | None
    is_over: bool


class Checkout:
    """Client of one Stripe account. Its library is synchronous, so calls run in a small thread pool."""

    def __init__(
        self, database: Database, writer: Writer, clock: Clock, *, key: str, webhook_secret: str, api_url: str = ""
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._key = key
        self._webhook_secret = webhook_secret
        self._api_url = api_url
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="stripe")
        self._stripe_client: stripe.StripeClient | None = None
        #: Extra origin for the form-action of the Content-Security-Policy, if checkout is not at Stripe itself.
        self.form_action = api_url
        self._locks: dict[int, asyncio.Lock] = {}

    # ── checkout ──────────────────────────────────────────────────────────────────────────────

    async def create_session(
        self, account_id: int, email: str, cents: int, *, done_url: str, back_url: str, lang: str
    ) -> str:
        """Create a checkout session and return the URL to redirect the customer to.

        `done_url` may contain `{CHECKOUT_SESSION_ID}`. Raises Overloaded if Stripe is unavailable.
        """
        payment_id, now_ms = self._clock.new_id(), self._clock.now_ms()
        asked = cents * NANO_PER_CENT
        await self._writer.run(lambda c: payments.insert_payment(c, payment_id, account_id, asked, now_ms))
        payment_reference = {"payment": str(payment_id)}
        price = {"currency": "usd", "unit_amount": cents, "product_data": {"name": "MiniToolAI"}}
        params: dict[str, Any] = {
            "mode": "payment",
            "line_items": [{"price_data": price, "quantity": 1}],
            "client_reference_id": str(payment_id),
            "customer_email": email,
            "metadata": payment_reference,
            "payment_intent_data": {"metadata": payment_reference},
            "success_url": done_url,
            "cancel_url": back_url,
            "locale": "pt-BR" if lang == "pt" else lang,
        }
        options: Any = {"idempotency_key": f"payment-{payment_id}"}
        session = await self._call(lambda client: client.v1.checkout.sessions.create(params, options))  # type: ignore[arg-type]
        await self._writer.run(lambda c: payments.set_provider_ref(c, payment_id, session.id, self._clock.now_ms()))
        return str(session.url)

    async def payment_for_return(self, account_id: int, session_id: str) -> Payment | None:
        """Refresh and return the payment that a customer returns from, None if it is not of this account."""
        payment = await self._database.read_async(payments.payment_by_ref, session_id)
        if payment is None or payment.account_id != account_id:
            return None
        return await self.refresh(payment)

    # ── webhooks ──────────────────────────────────────────────────────────────────────────────────────────────

    async def handle_webhook(self, body: bytes, signature: str) -> None:
        """Handle a webhook from Stripe.

        Raises InvalidRequest if the signature is wrong or too old, Overloaded if Stripe should send it again.
        """
        import stripe

        if not self._webhook_secret.strip():
            raise InvalidRequest("Webhooks are not configured: set MINITOOLAI_STRIPE_WEBHOOK_SECRET.")
        try:
            event = stripe.Webhook.construct_event(body, signature, self._webhook_secret, SIGNATURE_TOLERANCE_S)
        except (ValueError, stripe.SignatureVerificationError) as error:
            raise InvalidRequest(
                "The Stripe-Signature header is missing, wrong or too old. Check MINITOOLAI_STRIPE_WEBHOOK_SECRET.",
                param="Stripe-Signature",
            ) from error
        if await self._database.read_async(payments.event_was_handled, event.id):
            return
        payment = await self._payment_of_event(event.type, event.data.object)
        if payment is not None:
            await self.refresh(payment)
        await self._writer.run(lambda c: payments.mark_event_handled(c, event.id, self._clock.now_ms()))

    async def _payment_of_event(self, kind: str, resource: Any) -> Payment | None:
        """Return our payment that an event refers to, or None."""
        if kind.startswith("checkout.session."):
            payment = await self._database.read_async(payments.payment_by_ref, resource.id)
            return payment or await self._payment_by_id(getattr(resource, "client_reference_id", None), resource.id)
        if not kind.startswith(("charge.", "refund.", "payment_intent.")):
            return None
        intent = resource.id if kind.startswith("payment_intent.") else getattr(resource, "payment_intent", None)
        if not isinstance(intent, str):
            return None
        payment = await self._database.read_async(payments.payment_by_intent, intent)
        if payment is None:
            # Events can arrive out of order: the session event that carries the payment intent may still follow.
            found = await self._call(lambda client: client.v1.payment_intents.retrieve(intent))
            payment = await self._payment_by_id(_field(found.metadata, "payment"), None)
        return payment

    async def _payment_by_id(self, payment_reference: object, session_id: str | None) -> Payment | None:
        if (
            not isinstance(payment_reference, str)
            or not payment_reference.isascii()
            or not payment_reference.isdigit()
            or len(payment_reference) > 19
        ):
            return None
        number = int(payment_reference)
        payment = await self._database.read_async(payments.find_payment, number)
        if payment is None or session_id is None or payment.provider_ref is not None:
            return payment if payment and session_id in (None, payment.provider_ref) else None
        # The process ended after Stripe created the session and before its ID was stored.
        await self._writer.run(lambda c: payments.set_provider_ref(c, number, session_id, self._clock.now_ms()))
        return await self._database.read_async(payments.find_payment, number)

    async def poll(self) -> None:
        """Refresh unfinished payments every hour, in case a webhook was lost."""
        while True:
            try:
                await self.refresh_unfinished()
            except (ServiceError, StoreError) as error:
                log.error("payment refresh failed, will retry: %s", error)
            await asyncio.sleep(POLL_EVERY_S)

    async def refresh_unfinished(self) -> None:
        """Refresh every payment that is not in a final state."""
        since_ms = self._clock.now_ms() - POLL_WINDOW_MS
        for payment in await self._database.read_async(payments.unfinished_payments, since_ms):
            if payment.provider_ref is not None:
                await self.refresh(payment)

    # ── state of a payment ───────────────────────────────────────────────────────────────────────────────────────────

    async def refresh(self, payment: Payment) -> Payment:
        """Read the state of a payment from Stripe and transfer the difference."""
        lock = self._locks.setdefault(payment.id, asyncio.Lock())
        async with lock:
            for _ in range(MAX_REFRESHES):
                known = await self._database.read_async(payments.find_payment, payment.id) or payment
                if known.provider_ref is None:
                    return known
                status = await self._fetch_status(known.provider_ref, known)
                written = await self._writer.run(partial(self._write, known=known, status=status))
                if isinstance(written, Payment):
                    return written
        raise Overloaded("This payment is being updated by another request. Try again.", retry_after_s=5)

    def _write(self, connection: Connection, known: Payment, status: StripeStatus) -> Payment | None:
        """Store the state read from Stripe. Return None if another process stored one meanwhile: ours may be older."""
        connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [known.account_id], lock=True)
        now = payments.find_payment(connection, known.id)
        if now is None or now.looks != known.looks:
            return None
        paid = max(now.paid, status.paid)
        seen = msgspec.structs.replace(
            now,
            paid=paid,
            reversed=min(status.reversed, paid),
            intent=status.intent or now.intent,
            looks=now.looks + 1,
            state="paid" if paid else "closed" if status.is_over else "open",
            changed_ms=self._clock.now_ms(),
        )
        payments.update_payment(connection, seen)
        return transfer_difference(connection, self._clock, seen)

    async def _fetch_status(self, session_id: str, payment: Payment) -> StripeStatus:
        expand: Any = {"expand": ["payment_intent.latest_charge"]}
        session = await self._call(lambda client: client.v1.checkout.sessions.retrieve(session_id, expand))
        intent: Any = session.payment_intent
        is_paid = session.payment_status == "paid"
        if is_paid and session.currency != "usd":
            log.error(
                "payment %d was made in %s instead of usd; not credited, credit it manually",
                payment.id,
                session.currency,
            )
            is_paid = False
        paid = (session.amount_total or 0) * NANO_PER_CENT if is_paid else 0
        if intent is None or isinstance(intent, str):
            return StripeStatus(paid, 0, intent, session.status == "expired")
        charge: Any = intent.latest_charge
        back = 0 if charge is None or isinstance(charge, str) else charge.amount_refunded
        if charge is not None and not isinstance(charge, str) and charge.disputed:
            found = await self._call(lambda client: client.v1.disputes.list({"payment_intent": intent.id}))
            back += sum(dispute.amount for dispute in found.data if dispute.status in WITHDRAWN)
        return StripeStatus(paid, back * NANO_PER_CENT, intent.id, session.status == "expired")

    async def _call(self, request: Callable[[stripe.StripeClient], T]) -> T:
        """Call Stripe in a thread.

        Its errors become Overloaded: noresource is lost, because Stripe sends webhooks again.
        """
        import stripe

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: request(self._client()))
        except stripe.StripeError as error:
            log.error("Stripe request failed: %s", error)
            raise Overloaded("The payment provider is unavailable. Try again.", retry_after_s=30) from error

    def _client(self) -> stripe.StripeClient:
        import stripe

        if self._stripe_client is None:
            addresses: Any = {"api": self._api_url} if self._api_url else None
            self._stripe_client = stripe.StripeClient(self._key, base_addresses=addresses, max_network_retries=1)
        return self._stripe_client

    def close(self) -> None:
        """Shut down the thread pool."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _field(resource: Any, name: str) -> object:
    return resource.get(name) if hasattr(resource, "get") else getattr(resource, name, None)


def build_checkout(settings: Settings, database: Database, writer: Writer, clock: Clock) -> Checkout | None:
    """Return card payments through Stripe, or None if no Stripe key is set."""
    if not settings.stripe_secret_key:
        return None
    return Checkout(
        database,
        writer,
        clock,
        key=settings.stripe_secret_key,
        webhook_secret=settings.stripe_webhook_secret,
        api_url=settings.stripe_api_url,
    )
