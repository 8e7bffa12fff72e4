"""Take payments through any provider: begin them, receive notifications, and credit paid amounts.

A payment's row is inserted before the customer is redirected. Notifications, the return page and the hourly poll only
trigger a refresh: the state is always read from the provider, and `payments.transfer_difference` then applies the
difference once. The same commit issues the invoice. See docs/payments.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from minitoolai.billing.payments import transfer_difference
from minitoolai.billing.providers.protocol import NANO_PER_CENT, Incoming, Order, PaymentStatus, Provider, Report
from minitoolai.billing.selling import invoices
from minitoolai.billing.selling.notices import announce
from minitoolai.billing.selling.plans import pay_period
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.errors import InvalidRequest, NotFound, Overloaded, ServiceError, StoreError
from minitoolai.core.models import Payment
from minitoolai.core.money import short_dollars
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.selling import auto_topups
from minitoolai.storage.tables import payments
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)
MIN_CENTS, MAX_CENTS = 100, 1_000_000
POLL_EVERY_S = 3600.0
#: Poll unfinished payments for this long. Sessions expire after a day, but some payment methods take two weeks more.
POLL_WINDOW_MS = 30 * MS_PER_DAY
#: Look this far back for refunds and disputes that no webhook brought. Stripe itself retries for three days.
MISSED_MS = 7 * MS_PER_DAY
#: Give up an unpaid payment after this time, at providers with orders that never expire.
ABANDONED_MS = 7 * MS_PER_DAY
MAX_REFRESHES = 10
MAX_REREAD = 1000


class Addresses(msgspec.Struct, frozen=True):
    """Our addresses that a provider gets. `notify` ends where the provider's name is appended."""

    done: str
    back: str
    notify: str


class Cashier:
    """All payments of one process, through all providers."""

    def __init__(
        self, database: Database, writer: Writer, clock: Clock, catalog: Catalog, providers: dict[str, Provider]
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._catalog = catalog
        self.providers = providers
        self._locks: dict[int, asyncio.Lock] = {}
        #: Handles notifications about subscriptions.
        self.on_subscription: Callable[[str, Report], Awaitable[None]] | None = None

    # ── begin and return ──────────────────────────────────────────────────────────────────────────────────────

    async def begin(
        self, provider_name: str, account_id: int, email: str, cents: int, *, addresses: Addresses, lang: str
    ) -> str:
        """Store a payment, begin it at the provider, and return the URL to redirect the customer to.

        Raises Overloaded if the provider is unavailable.
        """
        provider = self.providers[provider_name]
        payment_id, now_ms = self._clock.new_id(), self._clock.now_ms()
        asked = cents * NANO_PER_CENT
        await self._writer.run(
            lambda c: payments.insert_payment(c, payment_id, account_id, asked, now_ms, provider.name)
        )
        begun = await provider.begin(self.order(payment_id, email, cents, provider_name, addresses, lang))
        await self._writer.run(
            lambda c: payments.set_provider_ref(
                c, payment_id, begun.ref, self._clock.now_ms(), begun.currency, begun.charged
            )
        )
        return begun.url

    def order(self, payment_id: int, email: str, cents: int, provider: str, addresses: Addresses, lang: str) -> Order:
        """Return what a provider gets to know of a payment."""
        notify = f"{addresses.notify}/{provider}"
        return Order(payment_id, email, cents, lang, self._catalog.shop.name, addresses.done, addresses.back, notify)

    async def payment_for_return(self, account_id: int, ref: str) -> Payment | None:
        """Refresh and return the payment that a customer returns from, None if it is not of this account."""
        payment = await self._database.read_async(payments.payment_by_ref, ref)
        if payment is None or payment.account_id != account_id:
            return None
        return await self.refresh(payment)

    # ── notifications ─────────────────────────────────────────────────────────────────────────────────────────

    async def receive(self, provider_name: str, incoming: Incoming) -> str:
        """Handle a notification and return the body that confirms it.

        Raises NotFound without such a provider, InvalidRequest if the signature is wrong, Overloaded if the provider
        should send it again.
        """
        provider = self.providers.get(provider_name)
        if provider is None:
            raise NotFound("There is no such payment provider.")
        await self._handle(provider, provider.read_report(incoming))
        return provider.confirmation

    async def _handle(self, provider: Provider, report: Report) -> None:
        if report.event_id is not None and await self._database.read_async(payments.event_was_handled, report.event_id):
            return
        if report.subscription is not None and self.on_subscription is not None:
            await self.on_subscription(provider.name, report)
        payment = await self._find(provider, report)
        if payment is not None:
            _check_amount(payment, report)
            if report.event_id is not None or payment.state != "paid":
                await self.refresh(payment)
        if (event_id := report.event_id) is not None:
            await self._writer.run(
                lambda c: payments.mark_event_handled(c, event_id, self._clock.now_ms(), provider.name)
            )

    async def _find(self, provider: Provider, report: Report) -> Payment | None:
        """Return the payment that a notification is about, or None."""
        payment: Payment | None = None
        if report.ref is not None:
            payment = await self._database.read_async(payments.payment_by_ref, report.ref)
            payment = payment or await self._by_number(report.payment_id, report.ref)
        elif report.intent is not None:
            payment = await self._database.read_async(payments.payment_by_intent, report.intent)
            payment = payment or await self._database.read_async(payments.payment_by_ref, report.intent)
            if payment is None:
                number = await provider.find_payment_id(report.intent)
                payment = await self._by_number(number, None, intent=report.intent)
        return payment if payment is None or payment.provider == provider.name else None

    async def _by_number(self, number: object, ref: str | None, *, intent: str | None = None) -> Payment | None:
        if not isinstance(number, str) or not number.isascii() or not number.isdigit() or len(number) > 19:
            return None
        payment_id = int(number)
        payment = await self._database.read_async(payments.find_payment, payment_id)
        if payment is not None and payment.is_auto:
            # An automatic top-up has no session: its payment intent is its reference.
            ref = ref or intent
        if payment is None or ref is None or payment.provider_ref is not None:
            return payment if payment and ref in (None, payment.provider_ref) else None
        # The process ended after the provider began the payment and before its reference was stored.
        await self._writer.run(lambda c: payments.set_provider_ref(c, payment_id, ref, self._clock.now_ms()))
        return await self._database.read_async(payments.find_payment, payment_id)

    # ── the poll ──────────────────────────────────────────────────────────────────────────────────────────────

    async def poll(self) -> None:
        """Refresh unfinished payments, and those with a later event, every hour, in case a notification was lost."""
        while True:
            try:
                await self.refresh_unfinished()
            except (ServiceError, StoreError) as error:
                log.error("payment refresh failed, will retry: %s", error)
            for provider in self.providers.values():
                try:
                    await self.handle_missed(provider)
                except (ServiceError, StoreError) as error:
                    log.error("refunds at %s could not be read, will retry: %s", provider.name, error)
            await asyncio.sleep(POLL_EVERY_S)

    async def refresh_unfinished(self) -> None:
        """Refresh every payment that is not in a final state. A provider that is down does not hold up the others."""
        down: set[str] = set()
        since_ms = self._clock.now_ms() - POLL_WINDOW_MS
        for payment in await self._database.read_async(payments.unfinished_payments, since_ms):
            if payment.provider_ref is None or payment.provider in down:
                continue
            try:
                await self.refresh(payment)
            except Overloaded as error:
                down.add(payment.provider)
                log.error("%s does not respond, its payments are read again in an hour: %s", payment.provider, error)

    async def handle_missed(self, provider: Provider) -> None:
        """Handle the refunds and disputes of the last days that no notification has reported."""
        since_ms = self._clock.now_ms() - MISSED_MS
        for report in await provider.missed_reports(since_ms // 1000):
            await self._handle(provider, report)
        if provider.rereads_paid:
            rows = await self._database.read_async(payments.recently_paid, provider.name, since_ms, MAX_REREAD)
            for payment in rows:
                await self.refresh(payment)

    # ── state of a payment ────────────────────────────────────────────────────────────────────────────────────

    async def refresh(self, payment: Payment) -> Payment:
        """Read the state of a payment from its provider and transfer the difference."""
        provider = self.providers.get(payment.provider)
        lock = self._locks.setdefault(payment.id, asyncio.Lock())
        async with lock:
            for _ in range(MAX_REFRESHES):
                known = await self._database.read_async(payments.find_payment, payment.id) or payment
                if known.provider_ref is None or provider is None:
                    return known
                status = await provider.read_status(known)
                is_abandoned = provider.rereads_paid and self._clock.now_ms() > known.created_ms + ABANDONED_MS
                status = msgspec.structs.replace(status, is_over=status.is_over or is_abandoned)
                written = await self._writer.run(partial(self._write, known=known, status=status))
                if isinstance(written, Payment):
                    return written
        raise Overloaded("This payment is being updated by another request. Try again.", retry_after_s=5)

    def _write(self, connection: Connection, known: Payment, status: PaymentStatus) -> Payment | None:
        """Store the state read. Return None if another process stored one meanwhile: ours may be older."""
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
            currency=status.currency or now.currency,
            charged=now.charged if status.charged is None else status.charged,
            problem=None if paid else status.problem,
        )
        payments.update_payment(connection, seen)
        moved = transfer_difference(connection, self._clock, seen)
        invoices.issue(connection, self._clock, self._catalog, moved)
        if moved.subscription_id is not None and moved.state == "paid" and now.state != "paid":
            pay_period(connection, self._clock, self._catalog, moved)
        self._conclude(connection, now, moved)
        return moved

    def _conclude(self, connection: Connection, before: Payment, after: Payment) -> None:
        """Report a payment that failed, and end that of an automatic top-up, which a failure stops."""
        if after.state == "open":
            return
        has_failed = before.state == "open" and after.problem == "failed"
        if after.is_auto:
            auto_topups.end_payment(connection, after.account_id, after.id)
        if has_failed:
            report_failure(connection, self._clock, after)

    def close(self) -> None:
        """Stop the threads of the providers."""
        for provider in self.providers.values():
            provider.close()


def report_failure(connection: Connection, clock: Clock, payment: Payment) -> None:
    """Notify the customer of a payment that failed. A failed automatic top-up stops until the customer restarts it."""
    if payment.is_auto:
        auto_topups.stop(connection, payment.account_id, "failed", clock.now_ms())
    data = {
        "payment": str(payment.id), "amount": short_dollars(payment.asked), "automatic": bool(payment.is_auto)
    }  # fmt: skip
    announce(connection, clock, payment.account_id, "payment.failed", str(payment.id), data)


def _check_amount(payment: Payment, report: Report) -> None:
    """Refuse a notification with another amount than the payment was asked for."""
    if report.charged is None:
        return
    expected = payment.charged if payment.charged is not None else payment.asked // NANO_PER_CENT
    if report.charged != expected:
        log.error("payment %d: a notification reports another amount than was asked for; not credited", payment.id)
        raise InvalidRequest("The amount is not the one that was asked for.", param="money")
