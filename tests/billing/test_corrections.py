"""Stop and undo on both databases: suspension, credit taken back, refunds of charges, cancelled vouchers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest

from minitoolai.accounts.keys import make_key
from minitoolai.billing.corrections import (
    cancel_batch,
    cancel_code,
    refund_charge,
    reverse_credit,
    suspend,
    unsuspend,
)
from minitoolai.billing.payments import make_voucher, redeem
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import Balance, NewGeneration
from minitoolai.ledger.types import Refunded, Reversed
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts, jobs, payments, reports
from tests.billing.test_races import at_once
from tests.support.books import TemporaryBooks, hold, settle

T = TypeVar("T")
PEPPER = b"pepper"
JOB = NewGeneration("image", "m", "e", 0, 100, "queued")


def write(books: TemporaryBooks, change: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Run a change in a transaction of its own."""
    with books.connection.transaction():
        return change(books.connection, books.clock, *arguments, **named)


def log_of(books: TemporaryBooks) -> list[tuple[str, int | None, int | None, str | None, str | None]]:
    """Return what the audit log says, oldest first."""
    rows = reversed(reports.admin_actions(books.connection, 100))
    return [(row.action, row.account_id, row.amount, row.note, row.subject) for row in rows]


# ── suspension ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_suspension_fails_queued_jobs_unpaid_and_is_undone(books: TemporaryBooks) -> None:
    account, other = books.account(1000), books.account(1000)
    for number, owner in enumerate((account, account, other), 1):
        books.apply(hold(number, owner, 100, lease_ms=None, generation=JOB, queue_limit=10))
    with books.connection.transaction():
        jobs.claim(books.connection, [1], worker="w", now_ms=0, lease_ms=10)
    books.apply(hold(4, account, 100))
    done = write(books, suspend, None, account, "unpaid")
    # The chat in progress is ended by its process, which charges what was delivered.
    assert (done.is_new, done.jobs, done.released) == (True, 2, 200)
    assert books.money(account) == Balance(1000, 100)
    assert books.money(other) == Balance(1000, 100)
    states = books.rows("SELECT id, state, error_code, cost FROM generations ORDER BY id")
    assert states == [(1, "failed", "account_suspended", 0), (2, "failed", "account_suspended", 0),
                      (3, "queued", None, 0), (4, "running", None, 0)]  # fmt: skip
    assert not write(books, suspend, None, account, "again").is_new
    user = reports.find_customer(books.connection, account)
    assert user is not None
    assert user.suspended_reason == "unpaid"
    assert write(books, unsuspend, None, account, "paid")
    assert not write(books, unsuspend, None, account, "paid")
    assert log_of(books) == [("suspend", account, None, "unpaid", None), ("unsuspend", account, None, "paid", None)]


def test_holds_of_revoked_keys_and_suspended_accounts_are_barred(books: TemporaryBooks) -> None:
    good, bad = books.account(1000), books.account(1000)
    key = make_key(good, "k", PEPPER, books.clock).row
    with books.connection.transaction():
        accounts.insert_key(books.connection, key)
    books.apply(hold(1, good, 10), hold(2, good, 10, key=key.id), hold(3, bad, 10))
    assert accounts.barred_holds(books.connection, [1, 2, 3]) == {}
    with books.connection.transaction():
        accounts.revoke_key(books.connection, key.id, 1)
    write(books, suspend, None, bad, "")
    assert accounts.barred_holds(books.connection, [1, 2, 3]) == {2: False, 3: True}
    assert accounts.find_key_and_owner(books.connection, key.id)[1].suspended_reason is None  # type: ignore[index]


def test_accounts_are_listed_by_text_and_state_in_pages(books: TemporaryBooks) -> None:
    numbers = [books.account(100) for _ in range(4)]
    write(books, suspend, None, numbers[2], "why")
    found = reports.list_accounts(books.connection, "", None, 3)
    assert [user.account_id for user in found] == numbers[:3]
    assert [u.account_id for u in reports.list_accounts(books.connection, "", None, 3, numbers[2])] == numbers[3:]
    assert [u.account_id for u in reports.list_accounts(books.connection, "", "suspended", 9)] == [numbers[2]]
    assert len(reports.list_accounts(books.connection, "", "active", 9)) == 3
    assert reports.list_accounts(books.connection, "", "admin", 9) == []
    assert [u.account_id for u in reports.list_accounts(books.connection, str(numbers[1]), None, 9)] == [numbers[1]]
    assert len(reports.list_accounts(books.connection, "@EXAMPLE", None, 9)) == 4


# ── credit and charges ────────────────────────────────────────────────────────────────────────────────────


def test_credit_is_taken_back_once_and_never_what_is_held(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 400))
    take = partial(write, books, reverse_credit, None, account, reason="twice")
    assert take(250, once="a") == Reversed(750, 250)
    assert take(250, once="a") == Reversed(750, 0, repeated=True)
    assert take(900, once="b") == Reversed(400, 350)
    with pytest.raises(InvalidRequest, match="Nothing is available"):
        take(1, once="c")
    assert books.money(account) == Balance(400, 400)
    assert [(row[0], row[2]) for row in log_of(books)] == [("reverse", 250), ("reverse", 350)]


def test_a_charge_is_given_back_in_parts_and_never_twice(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 400), hold(2, account, 50), hold(3, account, 50))
    books.apply(settle(1, account, 300), settle(2, account, 0))
    give = partial(write, books, refund_charge, None, reason="wrong answer")
    assert give(1, 100, once="a") == Refunded(800, 100, 100)
    assert give(1, 100, once="a") == Refunded(800, 0, 100, repeated=True)
    with pytest.raises(InvalidRequest, match=r"cost \$0\.0000003, of which \$0\.0000002 can still"):
        give(1, 201, once="b")
    assert give(1, None, once="c") == Refunded(1000, 200, 300)
    for number, why in (
        (1, "all of it was given back"),
        (2, "cost nothing"),
        (3, "still running"),
        (9, "no generation"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            give(number, None, once="d")
    rows = reports.statement_page(books.connection, account, below=None, before_ms=2**62, rows=10)
    assert [(r.kind, r.amount, r.generation_id, r.reason) for r in rows[:2]] == [
        ("usage_refund", 200, 1, "wrong answer"), ("usage_refund", 100, 1, "wrong answer")
    ]  # fmt: skip
    generation = reports.find_generation(books.connection, 1, account)
    assert generation is not None
    assert (generation.cost, generation.refunded) == (300, 300)
    assert [row.refunded for row in reports.recent_requests(books.connection, account, 10)] == [0, 0, 300]
    assert [row[2] for row in log_of(books)] == [100, 200]


def test_concurrent_refunds_never_exceed_the_charge(postgres_books: TemporaryBooks) -> None:
    books = postgres_books
    account = books.account(1000)
    books.apply(hold(1, account, 400), settle(1, account, 350))

    def give(connection: Connection, once: str) -> int:
        try:
            given = refund_charge(connection, books.clock, None, 1, 100, reason="r", once=once)
        except InvalidRequest:
            return -1
        return given.amount

    told = at_once(books, *(partial(give, once=f"form {number % 6}") for number in range(12)))
    # Six forms, each sent twice: three of them fit into the charge, and their repetitions change nothing.
    assert sorted(told) == [-1] * 6 + [0] * 3 + [100] * 3
    assert books.money(account).posted == 950


def test_concurrent_reversals_never_take_more_than_there_is(postgres_books: TemporaryBooks) -> None:
    books = postgres_books
    account = books.account(1000)

    def take(connection: Connection, once: str) -> int:
        try:
            return reverse_credit(connection, books.clock, None, account, 300, reason="r", once=once).taken
        except InvalidRequest:
            return -1

    told = at_once(books, *(partial(take, once=str(number)) for number in range(8)))
    assert sorted(told) == [-1] * 4 + [100] + [300] * 3
    assert books.money(account).posted == 0


# ── vouchers ──────────────────────────────────────────────────────────────────────────────────────────────


def make(books: TemporaryBooks, count: int, batch: str, *, days: int | None = None) -> list[str]:
    """Create vouchers of 500 and return their codes."""
    made = [make_voucher(PEPPER, books.clock, 500, note=None, days=days, batch=batch) for _ in range(count)]
    with books.connection.transaction():
        for voucher in made:
            payments.insert_voucher(books.connection, voucher.code_hmac, voucher.row)
    return [voucher.code for voucher in made]


def test_a_batch_is_cancelled_except_what_was_redeemed(books: TemporaryBooks) -> None:
    account = books.account()
    codes, (other,) = make(books, 4, "fair", days=1), make(books, 1, "else")
    assert write(books, redeem, PEPPER, account, codes[0]) == 500
    one = write(books, cancel_code, PEPPER, None, codes[1].lower(), "lost")
    assert (one.count, one.amount, one.redeemed) == (1, 500, 0)
    rest = write(books, cancel_batch, None, "fair", "stolen")
    assert (rest.count, rest.amount, rest.redeemed, rest.cancelled_before) == (2, 1000, 1, 1)
    again = write(books, cancel_batch, None, "fair", "stolen")
    assert (again.count, again.redeemed, again.cancelled_before) == (0, 1, 3)
    assert [write(books, redeem, PEPPER, account, code) for code in codes] == ["used", *["cancelled"] * 3]
    assert write(books, redeem, PEPPER, account, other) == 500
    with pytest.raises(InvalidRequest, match="no such voucher"):
        write(books, cancel_code, PEPPER, None, "AAAA-AAAA", "r")
    with pytest.raises(InvalidRequest, match="no batch"):
        write(books, cancel_batch, None, "nothing", "r")
    entries = [
        ("cancel_vouchers", None, 500, "lost", f"…-{codes[1][-4:]}"),
        ("cancel_vouchers", None, 1000, "stolen", "fair"),
    ]
    assert log_of(books) == entries
    assert books.money(account).posted == 1000


def test_a_voucher_is_redeemed_or_cancelled_never_both(postgres_books: TemporaryBooks) -> None:
    books = postgres_books
    account = books.account()
    for code in make(books, 8, "race"):
        before = books.money(account).posted
        redeemed, cancelled = at_once(
            books,
            lambda c, code=code: redeem(c, books.clock, PEPPER, account, code),
            lambda c, code=code: cancel_code(c, books.clock, PEPPER, None, code, "r").count,
        )
        assert (redeemed, cancelled) in ((500, 0), ("cancelled", 1))
        assert books.money(account).posted == before + (500 if redeemed == 500 else 0)
