"""Plans that a payment provider renews: begin a subscription, follow its state, and buy the periods that it has paid.

As with payments, notifications, the return page and the hourly poll only trigger a read of the provider. Each paid
charge is a payment with the provider's reference, which is unique, so it is credited, invoiced and spent on the plan
once. The plan is bought in the commit that credits the payment (`plans.pay_period`).
"""

from __future__ import annotations

import asyncio
import logging

from minitoolai.billing.cashier import POLL_EVERY_S, Addresses, Cashier
from minitoolai.billing.providers.protocol import NANO_PER_CENT, Report, Subscribes, SubscriptionStatus
from minitoolai.billing.selling import plans
from minitoolai.billing.selling.notices import announce
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.clock import Clock
from minitoolai.core.errors import Overloaded, ServiceError, StoreError
from minitoolai.core.money import short_dollars
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.selling import subscriptions
from minitoolai.storage.selling.subscriptions import Subscription
from minitoolai.storage.tables import payments, users
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)
BATCH = 200


class Subscriptions:
    """All subscriptions of one process."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, catalog: Catalog, cashier: Cashier) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._catalog = catalog
        self._cashier = cashier
        cashier.on_subscription = self.handle

    @property
    def provider(self) -> tuple[str, Subscribes] | None:
        """Return the first provider that can charge for each period, with its name."""
        found = ((name, one) for name, one in self._cashier.providers.items() if isinstance(one, Subscribes))
        return next(found, None)

    def can_renew(self, plan: Plan) -> bool:
        """Return True if a provider can charge for this plan: its price is a number of cents."""
        return self.provider is not None and plan.price > 0 and plan.price % NANO_PER_CENT == 0

    async def begin(self, account_id: int, email: str, plan: Plan, addresses: Addresses, lang: str) -> str:
        """Store a subscription, begin it at the provider, and return where to redirect the customer to.

        Raises Overloaded if the provider is unavailable.
        """
        assert self.provider is not None
        name, provider = self.provider
        number, now_ms = self._clock.new_id(), self._clock.now_ms()
        row = Subscription(number, account_id, name, None, plan.name, plan.price, "new", now_ms, now_ms)
        await self._writer.run(lambda c: subscriptions.insert(c, row))
        order = self._cashier.order(number, email, plan.price // NANO_PER_CENT, name, addresses, lang)
        begun = await provider.begin_subscription(order, plan.period)
        await self._writer.run(lambda c: subscriptions.set_ref(c, number, begun.ref, self._clock.now_ms()))
        return begun.url

    async def after_return(self, account_id: int, ref: str) -> Subscription | None:
        """Refresh and return the subscription that a customer returns from, None if it is not of this account."""
        found = await self._database.read_async(subscriptions.by_ref, ref)
        if found is None:
            # A webhook was faster, and the subscription has its own reference by now.
            newest = await self._database.read_async(subscriptions.newest, account_id)
            return newest if newest is not None and newest.state == "active" else None
        return await self.refresh(found) if found.account_id == account_id else None

    async def handle(self, provider: str, report: Report) -> None:
        """Handle a notification about a subscription."""
        number, ref = report.subscription_id or "", report.subscription or ""
        found = await self._database.read_async(subscriptions.by_ref, ref)
        if found is None and number.isascii() and number.isdigit() and len(number) <= 19:
            found = await self._database.read_async(subscriptions.find, int(number))
            if found is not None and found.provider_ref is None:
                # The process ended after the provider began it and before its reference was stored.
                known = found
                await self._writer.run(lambda c: subscriptions.set_ref(c, known.id, ref, self._clock.now_ms()))
                found = await self._database.read_async(subscriptions.find, known.id)
        if found is not None and found.provider == provider:
            await self.refresh(found)

    async def refresh(self, known: Subscription) -> Subscription:
        """Read a subscription from its provider: credit its paid charges, and follow its state."""
        provider = self._cashier.providers.get(known.provider)
        if known.provider_ref is None or not isinstance(provider, Subscribes):
            return known
        status = await provider.read_subscription(known.provider_ref)
        for ref in status.paid:
            payment = await self._database.read_async(payments.payment_by_ref, ref)
            if payment is None:
                await self._writer.run(lambda c, ref=ref: self._insert_payment(c, known, ref))
                payment = await self._database.read_async(payments.payment_by_ref, ref)
            if payment is not None and payment.state != "paid":
                await self._cashier.refresh(payment)
        written: Subscription = await self._writer.run(lambda c: self._follow(c, known, status))
        if written.state == "active" and await self._database.read_async(self._is_unwanted, written):
            log.warning("subscription %d is cancelled: its plan or its customer is gone", written.id)
            await provider.cancel_subscription(status.ref)
        return written

    def _insert_payment(self, connection: Connection, known: Subscription, ref: str) -> None:
        connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [known.account_id], lock=True)
        if payments.payment_by_ref(connection, ref) is None:
            payments.insert_payment(
                connection, self._clock.new_id(), known.account_id, known.price, self._clock.now_ms(), known.provider,
                ref=ref, subscription_id=known.id,
            )  # fmt: skip

    def _follow(self, connection: Connection, known: Subscription, status: SubscriptionStatus) -> Subscription:
        now_ms = self._clock.now_ms()
        if status.ref != known.provider_ref:
            subscriptions.set_ref(connection, known.id, status.ref, now_ms)
        subscriptions.set_state(connection, known.id, status.state, now_ms)
        if status.state != "new":
            plans.follow_subscription(connection, known.account_id, known.plan, now_ms, renews=status.state == "active")
        for ref in status.failed:
            plan = self._catalog.plans.get(known.plan)
            title = plan.title if plan is not None else known.plan
            data = {"payment": ref, "amount": short_dollars(known.price), "automatic": True, "plan": title}
            announce(connection, self._clock, known.account_id, "payment.failed", ref, data)
        return subscriptions.find(connection, known.id) or known

    def _is_unwanted(self, connection: Connection, known: Subscription) -> bool:
        """Return True if the plan is not sold any more, or the customer has left."""
        plan = self._catalog.plans.get(known.plan)
        return plan is None or plan.is_closed or users.find_user_of(connection, known.account_id) is None

    async def cancel(self, account_id: int, *, resume: bool = False) -> bool:
        """Cancel the subscription of an account at the end of its period, or take that back.

        Return False if it has none that can be changed. Raises Overloaded if the provider is unavailable.
        """
        found = await self._database.read_async(subscriptions.newest, account_id)
        if found is None or found.state != ("ending" if resume else "active") or found.provider_ref is None:
            return False
        provider = self._cashier.providers.get(found.provider)
        if not isinstance(provider, Subscribes):
            return False
        await provider.cancel_subscription(found.provider_ref, resume=resume)
        written = await self.refresh(found)
        return written.state == ("active" if resume else "ending")

    async def poll(self) -> None:
        """Refresh all running subscriptions every hour, in case a notification was lost."""
        while True:
            try:
                await self.refresh_running()
            except (ServiceError, StoreError) as error:
                log.error("subscriptions could not be refreshed, will retry: %s", error)
            await asyncio.sleep(POLL_EVERY_S)

    async def refresh_running(self) -> None:
        """Refresh every subscription that has not ended. A provider that is down does not hold up the others."""
        after, down = 0, set[str]()
        while page := await self._database.read_async(subscriptions.running, after, BATCH):
            for one in page:
                if one.provider in down:
                    continue
                try:
                    await self.refresh(one)
                except Overloaded as error:
                    down.add(one.provider)
                    log.error(
                        "%s does not respond, its subscriptions are read again in an hour: %s", one.provider, error
                    )
            after = page[-1].id
