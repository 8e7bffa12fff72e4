"""Stored bodies: encrypted for their account and generation, cut, written in batches, gone with the key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from minitoolai.accounts.request_bodies import MAX_BODY_BYTES, BodyKeeper, BodyVault, Exchange, cut, wrap_anew
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import StoreError
from minitoolai.core.signing import SecretKeys
from minitoolai.storage.tables import accounts, users
from minitoolai.storage.tables import request_bodies as stored
from tests.support.books import TemporaryBooks

OLD, NEW = SecretKeys(b"old"), SecretKeys(b"new", [b"old"])
SECRET_TEXT = "the plans of the harbour"
Work = Callable[[BodyKeeper, int, int], Awaitable[None]]


def run(books: TemporaryBooks, work: Work, **options: Any) -> tuple[int, int]:
    """Run this with two accounts that have bodies stored, and return their numbers."""
    found: list[int] = []

    async def go() -> None:
        keeper = BodyKeeper(books.database, writer, books.clock, OLD, **options)
        with books.connection.transaction():
            for email in ("ann@example.com", "bob@example.com"):
                found.append(accounts.create_account(books.connection, email, None, 5))
                keeper.turn_on(books.connection, found[-1], 7)
        await work(keeper, *found)

    with books.writer() as writer:
        asyncio.run(go())
    return found[0], found[1]


def exchange(account: int, number: int, request: str = SECRET_TEXT, response: str = "yes", days: int = 7) -> Exchange:
    return Exchange(account, number, days, 100, lambda: (cut(request), cut(response)))


def test_bodies_are_encrypted_and_read_by_their_account_until_they_expire(books: TemporaryBooks) -> None:
    async def work(keeper: BodyKeeper, ann: int, bob: int) -> None:
        keeper.keep(exchange(ann, 7))
        await keeper.flush()
        found = await keeper.find(ann, 7)
        assert found is not None
        assert found.request is not None
        assert (found.request.text, found.request.is_cut) == (SECRET_TEXT, False)
        assert found.expires_ms == books.clock.now_ms() + 7 * MS_PER_DAY
        assert await keeper.find(bob, 7) is None
        assert SECRET_TEXT.encode() not in b"".join(
            bytes(cell) for row in books.rows("SELECT request, response FROM request_bodies") for cell in row
        )
        books.clock.forward(7 * 86_400)
        assert await keeper.find(ann, 7) is None
        with books.connection.transaction():
            assert stored.delete_expired(books.connection, books.clock.now_ms() + 1, 9) == 1

    run(books, work)


def test_a_row_copied_to_another_generation_or_account_is_unreadable(books: TemporaryBooks) -> None:
    async def work(keeper: BodyKeeper, ann: int, bob: int) -> None:
        keeper.keep(exchange(ann, 7))
        await keeper.flush()
        columns = "request, response, request_bytes, response_bytes, expires_ms"
        with books.connection.transaction():
            for number, account in ((8, ann), (9, bob)):
                books.connection.execute(
                    f"INSERT INTO request_bodies (id, account_id, {columns}) SELECT {number}, {account}, {columns}"
                    " FROM request_bodies WHERE id = 7"
                )
        assert await keeper.find(ann, 8) is None
        assert await keeper.find(bob, 9) is None

    run(books, work)


def test_turning_off_deletes_the_key_at_once_and_the_rows_later(books: TemporaryBooks) -> None:
    async def work(keeper: BodyKeeper, ann: int, bob: int) -> None:
        for number in range(5):
            keeper.keep(exchange(ann, number))
        keeper.keep(exchange(bob, 99))
        await keeper.flush()
        # One that ended while it was turned off leaves nothing.
        keeper.keep(exchange(ann, 50))
        with books.connection.transaction():
            keeper.turn_off(books.connection, ann)
        await keeper.flush()
        assert await keeper.find(ann, 1) is None
        # A new key does not open what the old one encrypted.
        copy = books.rows("SELECT request FROM request_bodies WHERE id = 1")[0][0]
        counts = []
        while True:
            with books.connection.transaction():
                counts.append(stored.delete_unreadable(books.connection, 2))
            if not counts[-1]:
                break
        assert counts == [2, 2, 1, 1, 0]
        assert books.rows("SELECT id FROM request_bodies") == [(99,)]
        with books.connection.transaction():
            keeper.turn_on(books.connection, ann, 3)
        settings = await keeper.settings(ann)
        assert settings is not None
        assert settings.wrapped_key is not None
        key = BodyVault(OLD).unwrap(ann, settings.wrapped_key)
        assert key is not None
        assert BodyVault(OLD).open(key, 1, "request", bytes(copy)) is None

    run(books, work)


def test_erasing_an_account_deletes_key_and_rows(books: TemporaryBooks) -> None:
    async def work(keeper: BodyKeeper, ann: int, bob: int) -> None:
        keeper.keep(exchange(ann, 7))
        keeper.keep(exchange(bob, 8))
        await keeper.flush()
        with books.connection.transaction():
            users.erase_personal_data(books.connection, ann, [], books.clock.now_ms())
        assert await keeper.find(bob, 8) is not None

    _, bob = run(books, work)
    assert books.rows("SELECT account_id FROM request_bodies") == [(bob,)]
    assert books.rows("SELECT account_id FROM body_settings") == [(bob,)]


def test_changing_the_days_keeps_the_key_and_what_is_stored(books: TemporaryBooks) -> None:
    async def work(keeper: BodyKeeper, ann: int, bob: int) -> None:
        keeper.keep(exchange(ann, 7))
        await keeper.flush()
        with books.connection.transaction():
            keeper.turn_on(books.connection, ann, 30)
        found = await keeper.find(ann, 7)
        assert found is not None
        assert found.expires_ms == books.clock.now_ms() + 7 * MS_PER_DAY

    run(books, work)


def test_a_new_secret_still_opens_the_keys_and_forgetting_the_old_one_too(books: TemporaryBooks) -> None:
    async def work(keeper: BodyKeeper, ann: int, bob: int) -> None:
        keeper.keep(exchange(ann, 7))
        await keeper.flush()
        with books.connection.transaction():
            assert wrap_anew(books.connection, NEW) == 2
        with books.writer() as writer:
            newest = BodyKeeper(books.database, writer, books.clock, SecretKeys(b"new"))
            assert await newest.find(ann, 7) is not None
            lost = BodyKeeper(books.database, writer, books.clock, SecretKeys(b"another"))
            assert await lost.find(ann, 7) is None

    run(books, work)


@pytest.mark.parametrize("character", ["x", "é", "😀"])
def test_a_long_body_is_cut_between_characters_and_says_so(character: str) -> None:
    text = character * (MAX_BODY_BYTES + 1)
    body = cut(text)
    assert body.is_cut
    assert body.size == len(text.encode())
    assert set(body.text) == {character}
    assert MAX_BODY_BYTES - 4 < len(body.text.encode()) <= MAX_BODY_BYTES
    assert not cut("x" * MAX_BODY_BYTES).is_cut


def test_too_many_waiting_bodies_are_dropped_and_counted(books: TemporaryBooks) -> None:
    async def work(keeper: BodyKeeper, ann: int, bob: int) -> None:
        for number in range(5):
            keeper.keep(exchange(ann, number))
        assert keeper.dropped == 3
        await keeper.flush()
        assert keeper.stored == 2
        keeper.keep(exchange(ann, 9))
        await keeper.flush()
        assert keeper.stored == 3

    run(books, work, max_waiting_bytes=250)


def test_a_database_that_is_away_delays_bodies(books: TemporaryBooks) -> None:
    async def work(keeper: BodyKeeper, ann: int, bob: int) -> None:
        writer, failures = keeper._writer, iter([True, True, False])

        class Failing:
            async def run(self, change: object) -> object:
                if next(failures):
                    raise StoreError("the database is away")
                return await writer.run(change)  # type: ignore[arg-type]

        keeper._writer = Failing()  # type: ignore[assignment]
        keeper.keep(exchange(ann, 7))
        await keeper.flush()
        assert (keeper.stored, keeper.dropped) == (1, 0)

    run(books, work, retry_s=0.001)
