"""Keyset pages: leafing through any list shows each entry once, in order, whatever is added meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from minitoolai.core.models import NewGeneration, Voucher
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import outbox, payments, reports
from tests.support.books import NOON_MS, TemporaryBooks, hold

JOB = NewGeneration("image", "m", "fake", 1, 1, request="{}", seed=1, size="256x256")


def add_payments(books: TemporaryBooks, account: int, count: int, first: int = 1) -> None:
    with books.connection.transaction():
        for number in range(first, first + count):
            payments.insert_payment(books.connection, number, account, 5, NOON_MS)
            payments.set_provider_ref(books.connection, number, f"cs_{number}", NOON_MS)


@pytest.mark.parametrize("page", [1, 4, 20])
def test_payments(books: TemporaryBooks, page: int) -> None:
    account, other = books.account(), books.account()
    add_payments(books, account, 17)
    add_payments(books, other, 3, first=100)
    below, seen = None, []
    while rows := payments.payments_of(books.connection, account, page, below):
        seen += [row.id for row in rows]
        below = rows[-1].id
        if len(seen) == page:
            add_payments(books, account, 1, first=50)
    assert seen == list(range(17, 0, -1))


@pytest.mark.parametrize("page", [1, 4, 20])
def test_vouchers_made_at_the_same_time(books: TemporaryBooks, page: int) -> None:
    with books.connection.transaction():
        for number in range(17):
            row = Voucher(f"{number:04}", 5, None, NOON_MS + number // 6, None)
            payments.insert_voucher(books.connection, bytes([number]), row)
    seen: list[str] = []
    place: payments.VoucherPlace | None = None
    while True:
        rows, place = payments.list_vouchers(books.connection, page, place)
        seen += [row.hint for row in rows]
        if place is None:
            break
    assert seen == [f"{number:04}" for number in range(16, -1, -1)]


@pytest.mark.parametrize("page", [1, 3, 50])
def test_jobs_running_waiting_and_failed(books: TemporaryBooks, page: int) -> None:
    account = books.account(10**6)
    for number in range(1, 18):
        books.apply(hold(number, account, 1, lease_ms=None, generation=JOB, queue_limit=99))
    update = "UPDATE generations SET state = ?, lease_until_ms = ?, turn = ? WHERE id = ?"
    for number in range(1, 18):
        state = ("running", "queued", "failed")[number % 3]
        books.connection.execute(update, (state, NOON_MS if state == "running" else None, number // 4, number))
    seen: list[int] = []
    place: reports.JobPlace | None = None
    while True:
        rows, place = reports.list_jobs(books.connection, 0, page, place)
        assert len(rows) <= page
        seen += [row.id for row in rows]
        if place is None:
            break
    assert seen == [*range(3, 18, 3), *range(1, 18, 3), *range(17, 0, -3)]
    books.connection.execute("UPDATE generations SET state = 'queued'")


def test_accounts_that_are_searched(books: TemporaryBooks) -> None:
    made = [books.account() for _ in range(11)]
    below, seen = None, []
    while rows := reports.search_users(books.connection, "CUSTOMER", 3, below):
        seen += [row.account_id for row in rows]
        below = rows[-1].account_id
    assert seen == made[::-1]


def test_deliveries_of_webhooks(books: TemporaryBooks) -> None:
    account, other = books.account(10**6), books.account(10**6)
    for number in range(1, 12):
        owner = other if number == 5 else account
        books.apply(hold(number, owner, 1, lease_ms=None, generation=JOB, queue_limit=99))
        books.connection.execute("UPDATE generations SET webhook_url = 'https://example.com' WHERE id = ?", (number,))
    with books.connection.transaction():
        outbox.enqueue_webhooks(books.connection, range(1, 12), NOON_MS)  # type: ignore[arg-type]
    read: Callable[[Connection, int | None], Any] = lambda c, before: outbox.delivery_log(c, account, 3, before)  # noqa: E731
    before, seen = None, []
    while rows := read(books.connection, before):
        seen += [row.generation_id for row in rows]
        before = rows[-1].generation_id
    assert sorted(seen) == [1, 2, 3, 4, *range(6, 12)]
    assert read(books.connection, 5) == read(books.connection, 999) == []
