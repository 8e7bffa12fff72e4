"""Notify customers by mail and webhook: low balance, budgets, failed payments. Each crossing is notified once.

`announce` writes the notice in the transaction of its cause; the webhook goes through the same outbox as that of an
image. `NoticeWatcher` finds crossings of balances and budgets in the background, so no request pays for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from minitoolai.core.clock import Clock
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.core.models import KeyRules, Period, period_ids
from minitoolai.core.money import short_dollars
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.selling import notices
from minitoolai.storage.selling.notices import KeyBudgets, Notice, NoticeSettings
from minitoolai.storage.tables import outbox
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)
BALANCES_EVERY_S = 5.0
#: Check budgets at every sixth check of balances.
BUDGETS_EVERY = 6
#: A budget counts as reached from this share on: requests are refused before it is spent to the last nano-dollar.
REACHED_PERCENT = 90
BATCH = 500


def announce(
    connection: Connection, clock: Clock, account_id: int, kind: str, subject: str, data: dict[str, Any]
) -> bool:
    """Write a notice and its webhook, and return True, unless the account has got it already.

    `kind` is the type of the event, like `plan.ending`; `subject` names the crossing, so that it is notified once.
    Without settings of the account, it goes by mail.
    """
    settings = notices.find_settings(connection, account_id) or NoticeSettings(account_id)
    now_ms = clock.now_ms()
    notice = Notice(clock.new_id(), account_id, kind, subject, msgspec.json.encode(data).decode(), now_ms)
    if not notices.insert_notice(connection, notice, by_mail=settings.by_mail):
        return False
    if settings.webhook_url:
        outbox.enqueue_notice(connection, notice.id, account_id, settings.webhook_url, now_ms)
    return True


class NoticeWatcher:
    """Background task that finds balances and budgets that have crossed their thresholds."""

    def __init__(self, database: Database, writer: Writer, clock: Clock) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock

    async def run(self) -> None:
        """Look until cancelled. Database errors are logged and retried."""
        turn = 0
        while True:
            try:
                await self.look_at_balances()
                if turn % BUDGETS_EVERY == 0:
                    await self.look_at_budgets()
            except (StoreError, ServiceError) as error:
                log.warning("looking for notices failed, will retry: %s", error)
            turn += 1
            await asyncio.sleep(BALANCES_EVERY_S)

    async def look_at_balances(self) -> None:
        """Notify accounts with a balance below their threshold, and record those that have recovered."""
        for settings, balance in await self._database.read_async(notices.crossings, BATCH):
            await self._writer.run(partial(self._cross, settings=settings, balance=balance))

    def _cross(self, connection: Connection, settings: NoticeSettings, balance: int) -> None:
        is_low = not settings.is_low
        if not notices.record_crossing(connection, settings.account_id, is_low=is_low) or not is_low:
            return
        threshold = short_dollars(settings.low_balance or 0)
        data = {"balance": short_dollars(balance), "threshold": threshold}
        subject = str(settings.crossings + 1)
        announce(connection, self._clock, settings.account_id, "balance.low", subject, data)

    async def look_at_budgets(self) -> None:
        """Notify the owners of keys that have spent most of a budget."""
        after = (0, "")
        while keys := await self._database.read_async(notices.keys_with_budgets, after, BATCH):
            found = [(key, *limit) for key in keys for limit in self._limits(key)]
            used = await self._database.read_async(notices.spending, [period for _, _, period, _ in found])
            reached = [one for one in found if used.get(one[2], 0) * 100 >= one[3] * REACHED_PERCENT]
            if reached:
                await self._writer.run(partial(self._announce_budgets, reached=reached, used=used))
            after = keys[-1].account_id, keys[-1].key_id

    def _limits(self, key: KeyBudgets) -> Iterator[tuple[Period, str, int]]:
        """Yield period, its row and the limit of each budget of a key."""
        rules = msgspec.json.decode(key.rules, type=KeyRules)
        limits = {"day": rules.budget_daily, "month": rules.budget_monthly, "total": rules.budget_total}
        for period, row in period_ids(key.family, self._clock.now_ms()).items():
            limit = limits[period]
            if limit:
                yield period, row, limit

    def _announce_budgets(
        self, connection: Connection, reached: list[tuple[KeyBudgets, Period, str, int]], used: dict[str, int]
    ) -> None:
        for key, period, row, limit in reached:
            data = {
                "key": key.key_id, "name": key.name, "period": period,
                "budget": short_dollars(limit), "used": short_dollars(used[row]),
            }  # fmt: skip
            announce(connection, self._clock, key.account_id, "budget.reached", f"{row}:{limit}", data)
