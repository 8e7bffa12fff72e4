"""Idempotency keys: a request that was charged runs once, and its repetition gets the stored response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from minitoolai.billing.charging import Bound, Charging
from minitoolai.billing.idempotency import MAX_RESPONSE_BYTES, IdempotencyStore, RecordedResponse
from minitoolai.core.errors import (
    IdempotencyInFlight,
    IdempotencyMismatch,
    IdempotencySpent,
    InsufficientBalance,
    InvalidRequest,
    Overloaded,
)
from minitoolai.core.models import Caller, IdempotencyClaim, Outcome
from tests.support.books import CHAT, DONE, TemporaryBooks

BOUND = Bound(base=100, unit=10, units=50, least_units=16)
RESPONSE = RecordedResponse(200, [("content-type", "application/json")], b'{"ok":true}')
Work = Callable[[IdempotencyStore, Charging], Awaitable[None]]


def within(books: TemporaryBooks, work: Work, *, store_responses: bool = True) -> None:
    with books.writer() as writer:
        store = IdempotencyStore(books.database, writer, books.clock, store_responses=store_responses)
        asyncio.run(work(store, Charging(writer, books.clock)))  # type: ignore[arg-type]


async def claimed(store: IdempotencyStore, account: int, name: str = "a", request: bytes = b"r") -> IdempotencyClaim:
    claim = await store.claim(Caller(account, "key000000001"), name, request)
    assert isinstance(claim, IdempotencyClaim)
    return claim


async def pay(charging: Charging, account: int, claim: IdempotencyClaim, cost: int = 30) -> None:
    reservation = await charging.reserve(Caller(account, "key000000001", claim=claim), BOUND, CHAT)
    future = charging.settle(reservation, cost, DONE)
    assert future is not None
    await future


def test_a_repeated_request_gets_the_stored_response(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        claim = await claimed(store, account)
        await pay(charging, account, claim)
        await store.store(claim, RESPONSE)
        store.release(claim)
        assert await store.claim(Caller(account, "key000000002"), "a", b"r") == RESPONSE
        with pytest.raises(IdempotencyMismatch, match="Send a new key"):
            await claimed(store, account, request=b"other")

    within(books, work)
    assert books.money(account).posted == 970


def test_a_key_in_use_by_an_unfinished_request_is_in_flight(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        claim = await claimed(store, account)
        with pytest.raises(IdempotencyInFlight) as refusal:
            await claimed(store, account)
        assert refusal.value.retry_after_s == 1
        with pytest.raises(IdempotencyMismatch):
            await claimed(store, account, request=b"other")
        # Another process knows the key from the hold alone.
        await charging.reserve(Caller(account, "key000000001", claim=claim), BOUND, CHAT)
        store.release(claim)
        with pytest.raises(IdempotencyInFlight):
            await claimed(store, account)

    within(books, work)


@pytest.mark.parametrize("size", [100, 100_000])
def test_the_commit_of_a_charge_stores_the_response(books: TemporaryBooks, size: int) -> None:
    account, response = books.account(1000), RecordedResponse(200, [("a", "b")], b"x" * size)

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        claim = await claimed(store, account)
        reservation = await charging.reserve(Caller(account, "key000000001", claim=claim), BOUND, CHAT)
        claim.answer = await store.encode(response)
        future = charging.settle(reservation, 30, DONE)
        assert future is not None
        await future
        store.release(claim)
        assert await store.claim(Caller(account, "key000000002"), "a", b"r") == response

    within(books, work)


def test_what_failed_without_a_charge_stores_no_response(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        claim = await claimed(store, account)
        reservation = await charging.reserve(Caller(account, "key000000001", claim=claim), BOUND, CHAT)
        claim.answer = await store.encode(RESPONSE)
        future = charging.settle(reservation, 0, Outcome("failed"))
        assert future is not None
        await future
        store.release(claim)
        assert (await claimed(store, account)).answer is None

    within(books, work)


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_repeated_request_waits_for_the_jobs_of_the_first(books: TemporaryBooks, has_failed: bool) -> None:
    account = books.account(1000)

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        claim = await claimed(store, account)
        # The second was not queued before the process was lost.
        claim.answer = store.encode_jobs([7, 8])
        caller = Caller(account, "key000000001", claim=claim)
        reservation = await charging.reserve(caller, BOUND, CHAT, hold_id=7)
        store.release(claim)
        with pytest.raises(IdempotencyInFlight):
            await claimed(store, account)
        future = charging.settle(msgspec.structs.replace(reservation, claim=None), *ENDINGS[has_failed])
        assert future is not None
        await future
        again = await claimed(store, account)
        assert (again.hold_id, again.job_ids) == ((None, ()) if has_failed else (7, (7,)))
        if not has_failed:
            await store.store(again, RESPONSE)
            store.release(again)
            assert await store.claim(Caller(account, "key000000001"), "a", b"r") == RESPONSE

    within(books, work)


ENDINGS = {False: (30, DONE), True: (0, Outcome("failed"))}


def test_keys_of_two_accounts_are_independent(books: TemporaryBooks) -> None:
    one, other = books.account(1000), books.account(1000)

    async def work(store: IdempotencyStore, _: Charging) -> None:
        assert (await claimed(store, one)).id != (await claimed(store, other, request=b"other")).id

    within(books, work)


def test_a_refused_request_leaves_its_key_free(books: TemporaryBooks) -> None:
    poor = books.account(0)

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        claim = await claimed(store, poor)
        with pytest.raises(InsufficientBalance):
            await pay(charging, poor, claim)
        assert claim.hold_id is None
        await store.store(claim, RESPONSE)
        store.release(claim)
        assert (await claimed(store, poor, request=b"other")).hold_id is None

    within(books, work)


def test_a_request_that_cost_nothing_leaves_its_key_free(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        claim = await claimed(store, account)
        await pay(charging, account, claim, cost=0)
        store.release(claim)
        await claimed(store, account)

    within(books, work)


def test_a_charged_request_without_a_stored_response_is_never_run_again(books: TemporaryBooks) -> None:
    account = books.account(1000)
    too_large = RecordedResponse(200, [], bytes(MAX_RESPONSE_BYTES + 1))

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        for name, response in (("too large", too_large), ("crashed", None)):
            claim = await claimed(store, account, name)
            await pay(charging, account, claim)
            if response is not None:
                await store.store(claim, response)
            store.release(claim)
            with pytest.raises(IdempotencySpent, match="/v1/generations/gen-"):
                await claimed(store, account, name)

    within(books, work)


def test_without_stored_responses_a_key_still_prevents_a_second_charge(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        claim = await claimed(store, account)
        await pay(charging, account, claim)
        await store.store(claim, RESPONSE)
        store.release(claim)
        with pytest.raises(IdempotencySpent):
            await claimed(store, account)

    within(books, work, store_responses=False)


@pytest.mark.parametrize("name", ["", "x" * 256, "naïve", "a\nb"])
def test_a_malformed_key_is_refused(sqlite_books: TemporaryBooks, name: str) -> None:
    async def work(store: IdempotencyStore, _: Charging) -> None:
        with pytest.raises(InvalidRequest, match="1 to 255 printable ASCII characters") as refusal:
            await claimed(store, 1, name)
        assert refusal.value.param == "Idempotency-Key"

    within(sqlite_books, work)


def test_a_large_request_has_a_fingerprint_of_all_its_bytes(sqlite_books: TemporaryBooks) -> None:
    account, body = sqlite_books.account(1000), b"x" * 70_000

    async def work(store: IdempotencyStore, _: Charging) -> None:
        await claimed(store, account, request=body + b"1")
        with pytest.raises(IdempotencyInFlight):
            await claimed(store, account, request=body + b"1")
        with pytest.raises(IdempotencyMismatch):
            await claimed(store, account, request=body + b"2")

    within(sqlite_books, work)


def test_a_key_is_not_claimed_while_the_ledger_cannot_be_read(sqlite_books: TemporaryBooks) -> None:
    account = sqlite_books.account(1000)

    async def work(store: IdempotencyStore, _: Charging) -> None:
        sqlite_books.connection.execute("ALTER TABLE idempotency_keys RENAME TO elsewhere")
        with pytest.raises(Overloaded, match="Nothing was charged") as refusal:
            await claimed(store, account)
        assert refusal.value.retry_after_s == 5
        sqlite_books.connection.execute("ALTER TABLE elsewhere RENAME TO idempotency_keys")
        await claimed(store, account, request=b"other")

    within(sqlite_books, work)


def test_a_flush_waits_for_every_queued_write(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        reservation = await charging.reserve(Caller(account, "key000000001"), BOUND, CHAT)
        charging.settle(reservation, 30, DONE)
        await store.flush()
        assert books.money(account).posted == 970

    within(books, work)


def test_a_response_of_32_mebibytes_is_stored(sqlite_books: TemporaryBooks) -> None:
    account = sqlite_books.account(1000)
    largest = RecordedResponse(200, [], bytes(32 * 1024 * 1024))
    assert len(largest.body) == MAX_RESPONSE_BYTES

    async def work(store: IdempotencyStore, charging: Charging) -> None:
        claim = await claimed(store, account)
        await pay(charging, account, claim)
        await store.store(claim, largest)
        store.release(claim)
        assert await store.claim(Caller(account, "key000000001"), "a", b"r") == largest

    within(sqlite_books, work)
