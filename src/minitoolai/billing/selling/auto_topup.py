"""Top up accounts automatically with a saved payment method, as their owners consented to.

The payment's row is written with a compare-and-set before the provider is asked, and its number is the idempotency key
of the charge. So several processes, or one that was killed in between, charge once. A charge that fails stops the
automatic top-up: it is never retried without the customer.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from minitoolai.billing.cashier import Addresses, Cashier, report_failure
from minitoolai.billing.providers.protocol import NANO_PER_CENT, Declined, SavesMethods
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.errors import Overloaded, ServiceError, StoreError
from minitoolai.core.models import Payment
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.selling import auto_topups
from minitoolai.storage.selling.auto_topups import AutoTopup
from minitoolai.storage.tables import payments
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)
LOOK_EVERY_S = 5.0
BATCH = 100
#: Ask the provider again about a charge that it has not confirmed for this long.
UNCONFIRMED_MS = 60_000
#: Providers remember an idempotency key for a day. An older charge is not asked for again: it might be made twice.
FORGOTTEN_MS = 23 * 3_600_000


class AutoTopups:
    """Starts automatic top-ups in the background, and saves payment methods for them."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, catalog: Catalog, cashier: Cashier) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._catalog = catalog
        self._cashier = cashier

    @property
    def provider(self) -> tuple[str, SavesMethods] | None:
        """Return the first provider that can save payment methods, with its name."""
        found = ((name, one) for name, one in self._cashier.providers.items() if isinstance(one, SavesMethods))
        return next(found, None)

    # ── consent ───────────────────────────────────────────────────────────────────────────────────────────────

    async def begin_setup(self, number: int, email: str, addresses: Addresses, lang: str) -> str:
        """Return the address at which the customer saves a payment method. `number` identifies the attempt."""
        assert self.provider is not None
        name, provider = self.provider
        return await provider.begin_setup(self._cashier.order(number, email, 0, name, addresses, lang))

    async def finish_setup(
        self, account_id: int, number: int, session_id: str, *, threshold: int, amount: int, daily_cap: int, lang: str
    ) -> AutoTopup | None:
        """Store the saved method with the consent, None if the session is not complete or not of this attempt."""
        if self.provider is None:
            return None
        name, provider = self.provider
        saved = await provider.read_setup(session_id, number)
        if saved is None:
            return None
        now_ms = self._clock.now_ms()
        topup = AutoTopup(
            account_id,
            name,
            saved.customer,
            saved.method,
            saved.name,
            lang,
            threshold,
            amount,
            daily_cap,
            now_ms,
            now_ms,
        )
        await self._writer.run(lambda c: auto_topups.replace(c, topup))
        return topup

    async def change(self, topup: AutoTopup) -> None:
        """Store new limits, and start it again if it had stopped."""
        await self._writer.run(lambda c: auto_topups.replace(c, topup))

    async def stop(self, account_id: int) -> None:
        """Withdraw the consent. A charge that is in progress is not stopped."""
        await self._writer.run(lambda c: auto_topups.stop(c, account_id, "cancelled", self._clock.now_ms()))

    # ── charges ───────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Top up until cancelled. Errors are logged and retried."""
        while True:
            try:
                await self.top_up_due()
            except (StoreError, ServiceError) as error:
                log.error("automatic top-ups failed, will retry: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def top_up_due(self) -> None:
        """Charge the accounts below their threshold, and ask again about charges that were not confirmed."""
        if self.provider is None:
            return
        before_ms = self._clock.now_ms() - UNCONFIRMED_MS
        for payment in await self._database.read_async(auto_topups.unsent_payments, before_ms, BATCH):
            topup = await self._database.read_async(auto_topups.find, payment.account_id)
            if self._clock.now_ms() > payment.created_ms + FORGOTTEN_MS:
                await self._writer.run(partial(self._give_up, payment=payment))
            elif topup is not None:
                await self._charge(topup, payment)
        for topup in await self._database.read_async(auto_topups.due, BATCH):
            begun = await self._writer.run(partial(self._begin, topup=topup))
            if isinstance(begun, Payment):
                await self._charge(topup, begun)

    def _begin(self, connection: Connection, topup: AutoTopup) -> Payment | None:
        """Write the payment, unless the daily cap is reached or another process was first."""
        connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [topup.account_id], lock=True)
        now_ms = self._clock.now_ms()
        today_ms = now_ms // MS_PER_DAY * MS_PER_DAY
        charged = auto_topups.charged_since(connection, topup.account_id, today_ms)
        if charged + topup.amount > topup.daily_cap:
            return None
        payment_id = self._clock.new_id()
        if not auto_topups.begin_payment(connection, topup, payment_id):
            return None
        payments.insert_payment(
            connection, payment_id, topup.account_id, topup.amount, now_ms, topup.provider, is_auto=True
        )
        return payments.find_payment(connection, payment_id)

    async def _charge(self, topup: AutoTopup, payment: Payment) -> None:
        provider = self._cashier.providers.get(topup.provider)
        if not isinstance(provider, SavesMethods):
            return
        cents = payment.asked // NANO_PER_CENT
        try:
            ref = await provider.charge(payment.id, cents, topup.customer, topup.method, self._catalog.shop.name)
        except Declined as error:
            log.warning("automatic top-up of account %d was declined: %s", topup.account_id, error)
            await self._writer.run(partial(self._give_up, payment=payment))
            return
        except Overloaded as error:
            # The row stays: the same charge is asked for again in a minute.
            log.error("automatic top-up of account %d will be retried: %s", topup.account_id, error)
            return
        await self._writer.run(lambda c: payments.set_provider_ref(c, payment.id, ref, self._clock.now_ms()))
        await self._cashier.refresh(payment)

    def _give_up(self, connection: Connection, payment: Payment) -> None:
        if payments.close_unsent(connection, payment.id, self._clock.now_ms()):
            auto_topups.end_payment(connection, payment.account_id, payment.id)
            report_failure(connection, self._clock, payment)
