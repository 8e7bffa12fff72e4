"""Paying by card through Stripe Checkout. Whatever brings news (webhook, landing page, poll), we ask Stripe itself.

A payment's row is made before the customer is sent away. News only says where to look: what was paid, refunded or
disputed is read from Stripe, and `services/payments.balance` moves the difference, once. See docs/payments.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from minitoolai.billing.payments import balance
from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.errors import InvalidRequest, Overloaded, ServiceError, StoreError
from minitoolai.core.models import Payment
from minitoolai.storage import payments
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.writer import Writer

if TYPE_CHECKING:
    import stripe

log = logging.getLogger(__name__)
T = TypeVar("T")
NANO_PER_CENT = 10_000_000
LEAST_CENTS, MOST_CENTS = 100, 1_000_000
POLL_EVERY_S = 3600.0
#: Sessions end after a day; some ways of paying take two weeks more to arrive.
POLLED_MS = 30 * MS_PER_DAY
#: How old a signature may be.
TOLERANCE_S = 300
MOST_LOOKS = 10
#: While a dispute is in one of these states, the money is not ours.
WITHDRAWN = ("needs_response", "under_review", "lost")


class Facts(msgspec.Struct, frozen=True):
    """What Stripe says of a payment, in nano-dollars."""

    paid: int
    reversed: int
    intent: str | None
    is_over: bool


class Checkout:
    """One Stripe account. Its library is synchronous and slow to import: it lives in a few threads."""

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
        self._made: stripe.StripeClient | None = None
        #: Where browsers must be allowed to be sent, if not to Stripe itself.
        self.form_action = api_url
        self._locks: dict[int, asyncio.Lock] = {}

    # ── what the portal asks ──────────────────────────────────────────────────────────────────────────────

    async def begin(self, account_id: int, email: str, cents: int, *, done_url: str, back_url: str, lang: str) -> str:
        """Where to send the customer. `done_url` may contain `{CHECKOUT_SESSION_ID}`. Overloaded if Stripe is away."""
        payment_id, now_ms = self._clock.new_id(), self._clock.now_ms()
        asked = cents * NANO_PER_CENT
        await self._writer.run(lambda c: payments.insert_payment(c, payment_id, account_id, asked, now_ms))
        mark = {"payment": str(payment_id)}
        price = {"currency": "usd", "unit_amount": cents, "product_data": {"name": "MiniToolAI"}}
        params: dict[str, Any] = {
            "mode": "payment",
            "line_items": [{"price_data": price, "quantity": 1}],
            "client_reference_id": str(payment_id),
            "customer_email": email,
            "metadata": mark,
            "payment_intent_data": {"metadata": mark},
            "success_url": done_url,
            "cancel_url": back_url,
            "locale": "pt-BR" if lang == "pt" else lang,
        }
        options: Any = {"idempotency_key": f"payment-{payment_id}"}
        session = await self._ask(lambda client: client.v1.checkout.sessions.create(params, options))  # type: ignore[arg-type]
        await self._writer.run(lambda c: payments.set_provider_ref(c, payment_id, session.id, self._clock.now_ms()))
        return str(session.url)

    async def landed(self, account_id: int, session_id: str) -> Payment | None:
        """The payment of somebody who comes back, as Stripe says it stands; None if it is not theirs."""
        payment = await self._database.read_async(payments.payment_by_ref, session_id)
        if payment is None or payment.account_id != account_id:
            return None
        return await self.look(payment)

    # ── news ──────────────────────────────────────────────────────────────────────────────────────────────

    async def hear(self, body: bytes, signature: str) -> None:
        """A webhook. InvalidRequest for one that Stripe did not sign, or long ago; Overloaded: come again."""
        import stripe

        if not self._webhook_secret:
            raise InvalidRequest("MINITOOLAI_STRIPE_WEBHOOK_SECRET is not set")
        try:
            event = stripe.Webhook.construct_event(body, signature, self._webhook_secret, TOLERANCE_S)
        except (ValueError, stripe.SignatureVerificationError) as error:
            raise InvalidRequest("this is not signed as Stripe signs", param="Stripe-Signature") from error
        if await self._database.read_async(payments.event_was_handled, event.id):
            return
        payment = await self._concerned(event.type, event.data.object)
        if payment is not None:
            await self.look(payment)
        await self._writer.run(lambda c: payments.mark_event_handled(c, event.id, self._clock.now_ms()))

    async def _concerned(self, kind: str, thing: Any) -> Payment | None:
        """The payment that an event is about, if it is one of ours."""
        if kind.startswith("checkout.session."):
            payment = await self._database.read_async(payments.payment_by_ref, thing.id)
            return payment or await self._by_mark(getattr(thing, "client_reference_id", None), thing.id)
        if not kind.startswith(("charge.", "refund.", "payment_intent.")):
            return None
        intent = thing.id if kind.startswith("payment_intent.") else getattr(thing, "payment_intent", None)
        if not isinstance(intent, str):
            return None
        payment = await self._database.read_async(payments.payment_by_intent, intent)
        if payment is None:
            # News may overtake each other: the session that would have told us the intent is still on its way.
            found = await self._ask(lambda client: client.v1.payment_intents.retrieve(intent))
            payment = await self._by_mark(_field(found.metadata, "payment"), None)
        return payment

    async def _by_mark(self, mark: object, session_id: str | None) -> Payment | None:
        if not isinstance(mark, str) or not mark.isascii() or not mark.isdigit() or len(mark) > 19:
            return None
        number = int(mark)
        payment = await self._database.read_async(payments.find_payment, number)
        if payment is None or session_id is None or payment.provider_ref is not None:
            return payment if payment and session_id in (None, payment.provider_ref) else None
        # We died between Stripe's answer and our writing it down.
        await self._writer.run(lambda c: payments.set_provider_ref(c, number, session_id, self._clock.now_ms()))
        return await self._database.read_async(payments.find_payment, number)

    async def poll(self) -> None:
        """Every hour: payments that never came to an end, because their news got lost; and what is still owed."""
        while True:
            try:
                await self.look_at_all()
            except (ServiceError, StoreError) as error:
                log.error("payments could not be looked at and will be again: %s", error)
            await asyncio.sleep(POLL_EVERY_S)

    async def look_at_all(self) -> None:
        """Look at every payment that is not at its end."""
        since_ms = self._clock.now_ms() - POLLED_MS
        for payment in await self._database.read_async(payments.unfinished_payments, since_ms):
            if payment.provider_ref is not None:
                await self.look(payment)

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────

    async def look(self, payment: Payment) -> Payment:
        """Ask Stripe how a payment stands and move what is to be moved."""
        lock = self._locks.setdefault(payment.id, asyncio.Lock())
        async with lock:
            for _ in range(MOST_LOOKS):
                known = await self._database.read_async(payments.find_payment, payment.id) or payment
                if known.provider_ref is None:
                    return known
                facts = await self._facts(known.provider_ref, known)
                written = await self._writer.run(partial(self._write, known=known, facts=facts))
                if isinstance(written, Payment):
                    return written
        raise Overloaded("this payment changes faster than we can look", retry_after_s=5)

    def _write(self, connection: Connection, known: Payment, facts: Facts) -> Payment | None:
        """None where another process wrote what it saw while we looked: ours may be older."""
        connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [known.account_id], lock=True)
        now = payments.find_payment(connection, known.id)
        if now is None or now.looks != known.looks:
            return None
        paid = max(now.paid, facts.paid)
        seen = msgspec.structs.replace(
            now,
            paid=paid,
            reversed=min(facts.reversed, paid),
            intent=facts.intent or now.intent,
            looks=now.looks + 1,
            state="paid" if paid else "closed" if facts.is_over else "open",
            changed_ms=self._clock.now_ms(),
        )
        payments.update_payment(connection, seen)
        return balance(connection, self._clock, seen)

    async def _facts(self, session_id: str, payment: Payment) -> Facts:
        expand: Any = {"expand": ["payment_intent.latest_charge"]}
        session = await self._ask(lambda client: client.v1.checkout.sessions.retrieve(session_id, expand))
        intent: Any = session.payment_intent
        is_paid = session.payment_status == "paid"
        if is_paid and session.currency != "usd":
            log.error("payment %d came in %s, which we do not take: credit it by hand", payment.id, session.currency)
            is_paid = False
        paid = (session.amount_total or 0) * NANO_PER_CENT if is_paid else 0
        if intent is None or isinstance(intent, str):
            return Facts(paid, 0, intent, session.status == "expired")
        charge: Any = intent.latest_charge
        back = 0 if charge is None or isinstance(charge, str) else charge.amount_refunded
        if charge is not None and not isinstance(charge, str) and charge.disputed:
            found = await self._ask(lambda client: client.v1.disputes.list({"payment_intent": intent.id}))
            back += sum(dispute.amount for dispute in found.data if dispute.status in WITHDRAWN)
        return Facts(paid, back * NANO_PER_CENT, intent.id, session.status == "expired")

    async def _ask(self, question: Callable[[stripe.StripeClient], T]) -> T:
        """One question to Stripe in a thread. Its errors become Overloaded: nothing is lost, the news comes again."""
        import stripe

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: question(self._client()))
        except stripe.StripeError as error:
            log.error("Stripe did not answer as it should: %s", error)
            raise Overloaded("the payment provider does not answer; try again", retry_after_s=30) from error

    def _client(self) -> stripe.StripeClient:
        import stripe

        if self._made is None:
            addresses: Any = {"api": self._api_url} if self._api_url else None
            self._made = stripe.StripeClient(self._key, base_addresses=addresses, max_network_retries=1)
        return self._made

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _field(thing: Any, name: str) -> object:
    return thing.get(name) if hasattr(thing, "get") else getattr(thing, name, None)
