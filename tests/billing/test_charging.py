"""Reserve, keep alive, settle: what a request does with money, on a real writer."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from minitoolai.billing.charging import LEASE_MS, Bound, Charging, charged, durable
from minitoolai.core.errors import AccessDenied, InsufficientBalance, StoreError
from minitoolai.core.models import Balance, Caller
from minitoolai.storage.writer import Writer
from tests.support.books import CHAT, DONE, NOON_MS, TemporaryBooks

BOUND = Bound(base=100, unit=10, units=50, least_units=16)


def caller(account: int) -> Caller:
    return Caller(account, "key000000001")


def test_a_reservation_holds_the_bound_and_writes_the_generation(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(charging: Charging) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        assert (reservation.amount, reservation.units) == (600, 50)
        assert (reservation.price_input, reservation.price_output) == (CHAT.price_input, CHAT.price_output)
        assert books.money(account) == Balance(1000, 600)
        assert books.rows("SELECT id, state, created_ms FROM generations") == [
            (reservation.hold_id, "running", NOON_MS)
        ]
        assert books.rows("SELECT lease_until_ms FROM holds") == [(NOON_MS + LEASE_MS,)]
        future = charging.settle(reservation, 250, DONE)
        assert future is not None
        assert charged(await future) == 250

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))
    assert books.money(account) == Balance(750, 0)


def test_a_charge_on_a_hold_that_the_books_do_not_know_is_an_error(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(charging: Charging) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        lost = msgspec.structs.replace(reservation, hold_id=reservation.hold_id + 1)
        future = charging.settle(lost, 250, DONE)
        assert future is not None
        with pytest.raises(StoreError, match="do not know the hold"):
            await durable(future, within_s=5)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))
    assert books.money(account) == Balance(1000, 600)


def test_a_low_balance_is_granted_fewer_units(books: TemporaryBooks) -> None:
    account = books.account(299)

    async def work(charging: Charging) -> int:
        return (await charging.reserve(caller(account), BOUND, CHAT)).units

    with books.writer() as writer:
        assert asyncio.run(work(Charging(writer, books.clock))) == 19


@pytest.mark.parametrize("nano", [0, 3, 259])
def test_a_balance_under_the_least_is_refused_in_dollars(books: TemporaryBooks, nano: int) -> None:
    account = books.account(nano)

    async def work(charging: Charging) -> None:
        with pytest.raises(
            InsufficientBalance, match=rf"\$0\.000000260 at least .* has \$0\.000000{nano:03d} avail"
        ) as no:
            await charging.reserve(caller(account), BOUND, CHAT)
        assert (no.value.needed, no.value.available) == (260, nano)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))
    assert books.money(account) == Balance(nano, 0)
    assert books.rows("SELECT count(*) FROM generations") == [(0,)]


def test_an_account_that_is_gone_is_a_401(books: TemporaryBooks) -> None:
    async def work(charging: Charging) -> None:
        with pytest.raises(AccessDenied):
            await charging.reserve(caller(999_999), BOUND, CHAT)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))


def test_a_caller_who_leaves_while_the_hold_is_written_pays_nothing(books: TemporaryBooks) -> None:
    account = books.account(100_000)

    async def work(charging: Charging, writer: Writer) -> None:
        for wait_s in (0, 0, 0.001, 0.002, 0.005, 0.01):
            asked = asyncio.create_task(charging.reserve(caller(account), BOUND, CHAT))
            await asyncio.sleep(wait_s)
            if asked.done():
                charging.settle(asked.result(), 0, DONE)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        await writer.run(lambda _: None)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock), writer))
    assert books.money(account) == Balance(100_000, 0)


def test_keeping_alive_moves_the_lease_and_the_progress(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(charging: Charging) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        books.clock.forward(3)
        charging.keep_alive(reservation, 120)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))
    assert books.rows("SELECT progress, lease_until_ms FROM holds") == [(120, NOON_MS + 3000 + LEASE_MS)]


def test_five_hundred_at_once_get_exactly_what_the_balance_buys(books: TemporaryBooks) -> None:
    account = books.account(100 * 600)
    exact = Bound(base=600, unit=0, units=1, least_units=1)

    async def one(charging: Charging) -> bool:
        try:
            reservation = await charging.reserve(caller(account), exact, CHAT)
        except InsufficientBalance:
            return False
        future = charging.settle(reservation, 600, DONE)
        assert future is not None
        return charged(await future) == 600

    async def work(charging: Charging) -> list[bool]:
        return await asyncio.gather(*(one(charging) for _ in range(500)))

    with books.writer() as writer:
        answered = asyncio.run(work(Charging(writer, books.clock)))
    assert sum(answered) == 100
    assert books.money(account) == Balance(0, 0)
