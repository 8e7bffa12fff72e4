"""200 requests at the end of a window, plan, budget, balance and coupon: never too much, and none refused wrongly.

On PostgreSQL they come through two writers, as in two processes.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from minitoolai.billing.charging import Bound, Charging, Reservation
from minitoolai.billing.selling import plans
from minitoolai.billing.selling.coupons import create_coupon, redeem_coupon
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.errors import BudgetExceeded, InsufficientBalance
from minitoolai.core.models import Caller, KeyRules, Outcome
from minitoolai.core.plans import Windows
from minitoolai.storage.selling import purses
from minitoolai.storage.selling.coupons import Coupon
from minitoolai.storage.tables import ledger
from minitoolai.storage.writer import Writer
from tests.support.books import CHAT, NOON_MS, TemporaryBooks

BURST = 200
#: Name → balance, plan and budget in the beginning. A plan costs nothing here.
ENDS: dict[str, tuple[int, Plan | None, int | None]] = {
    "balance": (10_050, None, None),
    "plan": (0, Plan("p", "P", 0, 7_777, "month", Windows()), None),
    "plan, then balance": (3_456, Plan("p", "P", 0, 7_777, "month", Windows()), None),
    "window": (1_001, Plan("p", "P", 0, 10**6, "month", Windows(five_hours=4_321)), None),
    "window of a week": (0, Plan("p", "P", 0, 10**6, "year", Windows(five_hours=9_000, week=8_765, month=10**6)), None),
    "budget": (3_000, Plan("p", "P", 0, 3_000, "month", Windows(five_hours=2_000)), 3_333),
}


def writers(books: TemporaryBooks, stack: ExitStack) -> list[Writer]:
    return [stack.enter_context(books.writer()) for _ in range(2 if books.database.is_shared else 1)]


def opened(books: TemporaryBooks, balance: int, plan: Plan | None) -> int:
    account = books.account(balance)
    if plan is not None:
        with books.connection.transaction():
            bought = plans.buy(books.connection, books.clock, account, plan, expected_price=0, reference="plan:1")
        assert isinstance(bought, purses.Purse)
    return account


def left(books: TemporaryBooks, account: int, budget: int | None) -> int:
    """The most that one more request could have been held for."""
    most = max(books.database.read(purses.wallets, account, NOON_MS))
    if budget is not None:
        most = min(most, budget - books.database.read(ledger.budget_spent, "group", NOON_MS)["total"])
    return most


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("unit", [0, 7])
def test_a_burst_takes_all_that_is_there_and_nothing_more(books: TemporaryBooks, end: str, unit: int) -> None:
    balance, plan, budget = ENDS[end]
    account, draw = opened(books, balance, plan), random.Random(7)
    rules = KeyRules(budget_total=budget) if budget is not None else None
    # Without units a request costs 100 or is refused; with units it costs from 51 to 100.
    bound = Bound(100, 0, 0, 0) if not unit else Bound(44, unit, 8, 1)
    least = bound.base + bound.unit * bound.least_units

    async def burst() -> tuple[list[Reservation], list[BaseException]]:
        with ExitStack() as stack:
            chargings = [Charging(writer, books.clock) for writer in writers(books, stack)]
            callers = [Caller(account, "key000000001", rules=rules, rotation_group="group") for _ in range(BURST)]
            results: list[Any] = await asyncio.gather(
                *(chargings[n % len(chargings)].reserve(caller, bound, CHAT) for n, caller in enumerate(callers)),
                return_exceptions=True,
            )
            held = [one for one in results if isinstance(one, Reservation)]
            assert 0 <= left(books, account, budget) < least
            settled = [
                chargings[n % len(chargings)].settle(one, draw.randint(0, one.amount), Outcome("succeeded"))
                for n, one in enumerate(held)
            ]
            await asyncio.gather(*(one for one in settled if one is not None))
            return held, [one for one in results if isinstance(one, BaseException)]

    held, refused = asyncio.run(burst())
    assert {type(error) for error in refused} <= {InsufficientBalance, BudgetExceeded}
    assert len(held) + len(refused) == BURST
    assert refused
    assert books.money(account).held == 0
    assert books.broken() == {}


def test_a_burst_at_the_end_of_a_coupon_uses_it_up_and_no_more(books: TemporaryBooks) -> None:
    accounts = [books.account() for _ in range(BURST)]
    coupon = Coupon(1, "LAST", None, 500, 57, 0, None, NOON_MS)
    with books.connection.transaction():
        create_coupon(books.connection, books.clock, coupon)

    async def burst() -> list[Any]:
        with ExitStack() as stack:
            ours = writers(books, stack)
            return await asyncio.gather(
                *(
                    ours[n % len(ours)].run(partial(redeem_coupon, clock=books.clock, account_id=account, code="last"))
                    for n, account in enumerate(accounts)
                )
            )

    results = asyncio.run(burst())
    assert results.count(500) == 57
    assert results.count("coupon_spent") == BURST - 57
    assert sum(books.money(account).posted for account in accounts) == 57 * 500
