"""What a key may spend is judged with the balance: never passed, given back where it was not used."""

from __future__ import annotations

import asyncio
import zlib

import pytest

from minitoolai.billing.charging import Bound, Charging
from minitoolai.billing.idempotency import IdempotencyStore, RecordedResponse
from minitoolai.core.errors import (
    BudgetExceeded,
    IdempotencyInFlight,
    IdempotencyMismatch,
    IdempotencySpent,
    KeyForbids,
)
from minitoolai.core.models import Budget, Caller, IdempotencyClaim, KeyRules, Outcome
from minitoolai.ledger.types import DuplicateRequest, Held, InsufficientFunds, OverBudget
from minitoolai.storage.tables import idempotency, ledger
from tests.support.books import CHAT, NOON_MS, TemporaryBooks, hold, recover, settle

DAY_MS = 86_400_000
FAILED = Outcome("failed", error_code="upstream_error")


def spent(books: TemporaryBooks, name: str = "k", now_ms: int = NOON_MS) -> dict[str, int]:
    return books.database.read(ledger.budget_spent, name, now_ms)


def test_promised_and_taken_money_counts_and_what_was_not_used_comes_back(books: TemporaryBooks) -> None:
    account, budget = books.account(10_000), Budget("k", day=500)
    assert books.apply(hold(1, account, 300, budget=budget)) == [Held(300, 1)]
    assert spent(books) == {"day": 300, "month": 300, "total": 300}
    assert books.apply(hold(2, account, 201, budget=budget)) == [OverBudget("day", 201, 200)]
    books.apply(settle(1, account, 100))
    assert spent(books)["day"] == 100
    assert books.apply(hold(2, account, 400, budget=budget)) == [Held(400, 1)]
    books.apply(settle(2, account, 0, FAILED))
    assert spent(books) == {"day": 100, "month": 100, "total": 100}


def test_one_batch_grants_no_more_than_the_budget(books: TemporaryBooks) -> None:
    account, budget = books.account(10**9), Budget("k", total=1000)
    verdicts = books.apply(*(hold(number, account, 7, budget=budget) for number in range(1, 301)))
    assert sum(isinstance(verdict, Held) for verdict in verdicts) == 142
    assert verdicts[-1] == OverBudget("total", 7, 6)
    assert spent(books)["total"] == 994


def test_the_tighter_of_balance_and_budget_decides_and_cuts_the_answer(books: TemporaryBooks) -> None:
    account = books.account(1000)
    roomy, tight = Budget("a", month=5000), Budget("b", month=150)
    assert books.apply(hold(1, account, 100, unit=10, units=200, least=200, budget=roomy)) == [
        InsufficientFunds(2100, 1000)
    ]
    assert books.apply(hold(2, account, 100, unit=10, units=90, least=1, budget=tight)) == [Held(150, 5)]


def test_a_day_and_a_month_begin_anew_and_the_total_does_not(books: TemporaryBooks) -> None:
    account, budget = books.account(10_000), Budget("k", day=100, month=150, total=1000)
    assert books.apply(hold(1, account, 100, budget=budget)) == [Held(100, 1)]
    tomorrow, next_month = NOON_MS + DAY_MS, NOON_MS + 31 * DAY_MS
    assert books.apply(hold(2, account, 51, budget=budget, now_ms=tomorrow)) == [OverBudget("month", 51, 50)]
    assert books.apply(hold(2, account, 50, budget=budget, now_ms=tomorrow)) == [Held(50, 1)]
    assert books.apply(hold(3, account, 100, budget=budget, now_ms=next_month)) == [Held(100, 1)]
    # What is settled later counts where it was promised.
    books.apply(settle(1, account, 40))
    assert spent(books) == {"day": 40, "month": 90, "total": 190}
    assert spent(books, now_ms=next_month) == {"day": 100, "month": 100, "total": 190}


def test_recovery_gives_back_what_the_last_checkpoint_did_not_cost(books: TemporaryBooks) -> None:
    account = books.account(10_000)
    books.apply(hold(1, account, 300, budget=Budget("k", total=300)))
    books.apply(recover(1, account, forced=True))
    assert spent(books)["total"] == 0


def test_old_days_and_months_are_swept_and_the_total_stays(books: TemporaryBooks) -> None:
    account = books.account(10_000)
    books.apply(hold(1, account, 300, budget=Budget("k", day=300)))
    with books.connection.transaction():
        assert ledger.delete_old_periods(books.connection, NOON_MS + 99 * DAY_MS) == 0
        assert ledger.delete_old_periods(books.connection, NOON_MS + 101 * DAY_MS) == 2
    books.apply(settle(1, account, 10))
    assert spent(books) == {"day": 0, "month": 0, "total": 10}


def test_a_claim_is_taken_with_its_hold_and_free_again_without_a_charge(books: TemporaryBooks) -> None:
    account = books.account(10_000)
    assert books.apply(hold(1, account, claim="a"), hold(2, account, claim="a")) == [Held(100, 1), DuplicateRequest()]
    books.apply(settle(1, account, 0, FAILED))
    assert books.apply(hold(3, account, claim="a")) == [Held(100, 1)]
    books.apply(settle(3, account, 60))
    assert books.apply(hold(4, account, claim="a")) == [DuplicateRequest()]
    assert books.apply(hold(5, account, claim="a", now_ms=NOON_MS + DAY_MS)) == [Held(100, 1)]


def test_charging_says_in_words_what_a_key_may_not(books: TemporaryBooks) -> None:
    account = books.account(10**9)
    rules = KeyRules(budget_daily=1000, models=("gpt-4o-mini",))
    caller = Caller(account, "key000000001", rules=rules, rotation_group="key000000001")

    async def work(charging: Charging) -> None:
        assert (await charging.reserve(caller, Bound(100, 10, 500, 16), CHAT)).units == 90
        with pytest.raises(BudgetExceeded, match=r"may spend only \$0\.00 more today") as no:
            await charging.reserve(caller, Bound(100, 10, 50, 16), CHAT)
        assert (no.value.needed, no.value.left) == (260, 0)
        other = Caller(account, "k", rules=KeyRules(models=("gpt-4o",)), rotation_group="k")
        with pytest.raises(KeyForbids):
            await charging.reserve(other, Bound(100, 10, 50, 16), CHAT)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))


def test_an_answer_is_kept_found_and_swept(books: TemporaryBooks) -> None:
    account = books.account(10**9)
    caller = Caller(account, "key000000001")

    async def work(charging: Charging, replays: IdempotencyStore) -> None:
        claim = await replays.claim(caller, "name", b"request")
        assert isinstance(claim, IdempotencyClaim)
        with pytest.raises(IdempotencyInFlight):
            await replays.claim(caller, "name", b"request")
        bound = Bound(100, 0, 1, 1)
        reservation = await charging.reserve(Caller(account, "k", claim), bound, CHAT)
        # A second hold of the same request is no second request.
        await charging.reserve(Caller(account, "k", claim), bound, CHAT)
        charging.settle(reservation, 60, Outcome("succeeded"))
        await replays.flush()
        replays.release(claim)
        with pytest.raises(IdempotencySpent, match="gen-"):
            await replays.claim(caller, "name", b"request")
        await replays.store(claim, RecordedResponse(200, [("a", "b")], b"body" * 1000))
        assert await replays.claim(caller, "name", b"request") == RecordedResponse(200, [("a", "b")], b"body" * 1000)
        with pytest.raises(IdempotencyMismatch):
            await replays.claim(caller, "name", b"another request")

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock), IdempotencyStore(books.database, writer, books.clock)))
    found = books.database.read(idempotency.find, f"{account}/name")
    assert found is not None
    assert found.response is not None
    assert zlib.decompress(found.response.body) == b"body" * 1000
    with books.connection.transaction():
        assert idempotency.delete_expired(books.connection, NOON_MS) == 0
        assert idempotency.delete_expired(books.connection, NOON_MS + DAY_MS) == 1
