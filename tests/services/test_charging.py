"""Reserve, keep alive, settle: what a request does with money, on a real writer."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from minitoolai.core.books import Recover
from minitoolai.core.errors import AccessDenied, AlreadySettled, InsufficientBalance, ServiceError, StoreError
from minitoolai.core.records import Balance, Caller, Outcome
from minitoolai.services.charging import LEASE_MS, Charging, charged, durable
from minitoolai.services.pricing import Bound
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


#: What came first → whether a charge of 250 for the work that DONE describes is the one in the books.
FIRST = {
    "the same charge": ((250, DONE), True),
    "another cost": ((240, DONE), False),
    "another state": ((250, msgspec.structs.replace(DONE, state="failed")), False),
    "another usage": ((250, msgspec.structs.replace(DONE, output_units=DONE.output_units + 1)), False),
    "a recovery": ((), False),
}


@pytest.mark.parametrize(("first", "is_the_same"), FIRST.values(), ids=FIRST)
def test_a_charge_is_durable_only_if_the_books_carry_it(
    books: TemporaryBooks, first: tuple[int, Outcome] | tuple[()], is_the_same: bool
) -> None:
    account = books.account(1000)

    async def work(charging: Charging, writer: Writer) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        # The last checkpoint says what the charge will: a recovery then takes the same amount.
        charging.keep_alive(reservation, 250)
        if first:
            charging.settle(reservation, *first)
        else:
            await writer.submit(Recover(reservation.hold_id, account, NOON_MS, forced=True))  # type: ignore[misc]
        charge = charging.settle(reservation, 250, DONE)
        assert charge is not None
        if is_the_same:
            await durable(charge, within_s=5)
        else:
            with pytest.raises(AlreadySettled):
                await durable(charge, within_s=5)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock), writer))
    assert books.money(account) == Balance(1000 - (first[0] if first else 250), 0)


def test_a_charge_in_the_same_commit_as_a_recovery_is_not_durable(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(charging: Charging, writer: Writer) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        charging.keep_alive(reservation, 250)
        # Neither waits for the other: one batch for both.
        writer.submit(Recover(reservation.hold_id, account, NOON_MS, forced=True), wait=False)
        charge = charging.settle(reservation, 250, DONE)
        assert charge is not None
        with pytest.raises(AlreadySettled):
            await durable(charge, within_s=5)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock), writer))
        assert writer.counts.largest_batch == 3
    assert books.money(account) == Balance(750, 0)


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


@pytest.mark.parametrize("is_known", [True, False])
def test_a_checkpoint_on_a_hold_that_is_not_pending_is_reported_at_once(books: TemporaryBooks, is_known: bool) -> None:
    account, lost = books.account(1000), asyncio.Queue[ServiceError]()

    async def work(charging: Charging, writer: Writer) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        charging.keep_alive(reservation, 100, lost.put_nowait)
        await writer.run(lambda _: None)
        await asyncio.sleep(0)
        assert lost.empty()
        await writer.submit(Recover(reservation.hold_id, account, NOON_MS, forced=True))  # type: ignore[misc]
        if not is_known:
            reservation = msgspec.structs.replace(reservation, hold_id=reservation.hold_id + 1)
        charging.keep_alive(reservation, 120, lost.put_nowait)
        error = await asyncio.wait_for(lost.get(), 5)
        assert error.code == "interrupted"

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock), writer))
    assert lost.empty()
    assert books.money(account) == Balance(900, 0)


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
