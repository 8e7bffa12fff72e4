"""A coupon is used once by an account and as often as it says by all; sign-up credit comes once per mailbox."""

from __future__ import annotations

import threading

import pytest

from minitoolai.accounts.addresses import check_email
from minitoolai.billing.selling import plans
from minitoolai.billing.selling.coupons import (
    cancel_coupon,
    create_coupon,
    credit_sign_up,
    mailbox_identity,
    plain_code,
    redeem_coupon,
    sign_up_credit,
)
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.errors import SettingsError
from minitoolai.core.plans import Windows
from minitoolai.settings import Settings
from minitoolai.storage.selling import coupons
from minitoolai.storage.selling.coupons import Coupon
from tests.support.books import NOON_MS, TemporaryBooks

SECRET = b"s" * 32
PRO = Plan("pro", "Pro", 1000, 1500, "month", Windows())


def add(books: TemporaryBooks, code: str = "WELCOME", *, uses: int = 2, **more: int | None) -> None:
    given = {"percent": None, "amount": 500 if "percent" not in more else None, "expires_ms": None, **more}
    coupon = Coupon(
        books.clock.new_id(), code, given["percent"], given["amount"], uses, 0, None, NOON_MS, given["expires_ms"]
    )
    with books.connection.transaction():
        assert create_coupon(books.connection, books.clock, coupon)


def redeem(books: TemporaryBooks, account: int, code: str = "welcome") -> int | str:
    with books.connection.transaction():
        return redeem_coupon(books.connection, books.clock, account, code)


def test_a_coupon_credits_its_amount_however_it_is_typed(books: TemporaryBooks) -> None:
    add(books)
    account = books.account()
    assert redeem(books, account, " wel-come ") == 500
    assert books.money(account).available == 500
    assert [row[0] for row in books.rows("SELECT kind FROM transfers WHERE credit = ?", account)] == ["coupon"]


def test_an_account_uses_a_coupon_once_and_all_together_as_often_as_it_says(books: TemporaryBooks) -> None:
    add(books)
    first, second, third = (books.account() for _ in range(3))
    assert [redeem(books, account) for account in (first, first, second, third)] == [
        500, "coupon_used", 500, "coupon_spent",
    ]  # fmt: skip


def test_a_coupon_that_ended_or_was_cancelled_or_is_for_something_else_gives_nothing(books: TemporaryBooks) -> None:
    account = books.account()
    add(books, "OLD", expires_ms=NOON_MS)
    add(books, "GONE")
    add(books, "PERCENT", percent=10)
    with books.connection.transaction():
        assert cancel_coupon(books.connection, books.clock, "gone", note="a test")
        assert not cancel_coupon(books.connection, books.clock, "gone", note="again")
    found = [redeem(books, account, code) for code in ("old", "gone", "percent", "never", "x", "' OR 1=1")]
    assert found == ["coupon_expired", "no_coupon", "only_for_plans", "no_coupon", "no_coupon", "no_coupon"]
    assert books.money(account).available == 0


def test_a_code_is_taken_once(books: TemporaryBooks) -> None:
    add(books)
    with books.connection.transaction():
        again = Coupon(5, "WELCOME", 10, None, 1, 0, None, NOON_MS)
        assert not create_coupon(books.connection, books.clock, again)


def test_the_last_use_raced_by_many_goes_to_one(books: TemporaryBooks) -> None:
    """Each on a connection of its own, as in as many processes."""
    add(books, uses=3)
    accounts = [books.account() for _ in range(12)]
    found: list[int | str] = []
    start = threading.Barrier(len(accounts))

    def take(account: int) -> None:
        connection = books.database.connect()
        try:
            start.wait()
            with connection.transaction():
                found.append(redeem_coupon(connection, books.clock, account, "welcome"))
        finally:
            connection.close()

    threads = [threading.Thread(target=take, args=(account,)) for account in accounts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == ["500"] * 3 + ["coupon_spent"] * 9
    assert books.rows("SELECT used, (SELECT count(*) FROM coupon_uses) FROM coupons") == [(3, 3)]
    assert sum(books.money(account).available for account in accounts) == 1500


def test_one_account_in_two_browsers_uses_a_coupon_once(books: TemporaryBooks) -> None:
    add(books, uses=50)
    account, found = books.account(), list[int | str]()
    start = threading.Barrier(8)

    def take() -> None:
        connection = books.database.connect()
        try:
            start.wait()
            with connection.transaction():
                found.append(redeem_coupon(connection, books.clock, account, "welcome"))
        finally:
            connection.close()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == ["500"] + ["coupon_used"] * 7
    assert books.money(account).available == 500


@pytest.mark.parametrize(("percent", "price"), [(1, 990), (33, 670), (100, 0)])
def test_a_percentage_lowers_the_price_of_a_plan_by_whole_nano_dollars(
    books: TemporaryBooks, percent: int, price: int
) -> None:
    add(books, percent=percent)
    account = books.account(1000)
    with books.connection.transaction():
        done = plans.buy(
            books.connection, books.clock, account, PRO, expected_price=1000, reference="plan:1", coupon="welcome"
        )
    assert isinstance(done, plans.Purse)
    assert (done.price, books.money(account).available) == (price, 1000 - price)


def test_a_discount_is_for_the_first_period_only(books: TemporaryBooks) -> None:
    add(books, percent=50)
    account = books.account(5000)
    with books.connection.transaction():
        done = plans.buy(
            books.connection, books.clock, account, PRO, expected_price=1000, reference="plan:1", coupon="welcome"
        )
        assert isinstance(done, plans.Purse)
        books.clock.ms = done.ends_ms
        plans.end_or_renew(books.connection, books.clock, done.id, {"pro": PRO})
    assert books.money(account).available == 3500


def test_codes_are_letters_and_digits() -> None:
    assert plain_code("spring 20-26") == "SPRING2026"
    assert [plain_code(text) for text in ("ab", "", "ÄÖÜ", "a" * 41, "a;b")] == [""] * 5


def test_coupons_are_listed_in_pages(books: TemporaryBooks) -> None:
    for number in range(5):
        add(books, f"CODE{number}")
    first = books.database.read(coupons.list_coupons, 3)
    rest = books.database.read(coupons.list_coupons, 3, (first[-1].created_ms, first[-1].id))
    assert [one.code for one in (*first, *rest)] == ["CODE4", "CODE3", "CODE2", "CODE1", "CODE0"]


# ── credit for signing up ─────────────────────────────────────────────────────────────────────────────────


def sign_up(books: TemporaryBooks, email: str, secret: bytes = SECRET) -> int:
    account = books.account()
    with books.connection.transaction():
        return credit_sign_up(books.connection, books.clock, secret, account, check_email(email), 700)


def test_sign_up_credit_comes_once_per_mailbox_however_it_is_written(books: TemporaryBooks) -> None:
    assert sign_up(books, "Ann@example.com") == 700
    assert [sign_up(books, form) for form in ("ann+2@example.com", "ANN@EXAMPLE.com.", "ann+@example.com")] == [0] * 3
    assert sign_up(books, "an.n@example.com") == 700
    assert sign_up(books, "b.o.b@gmail.com") == 700
    assert [sign_up(books, form) for form in ("bob@googlemail.com", "b.ob+x@gmail.com")] == [0, 0]


def test_an_address_that_is_all_tag_is_a_mailbox_of_its_own() -> None:
    assert mailbox_identity("+x@example.com") == "+x@example.com"


def test_the_address_cannot_be_read_from_the_books(books: TemporaryBooks) -> None:
    sign_up(books, "ann@example.com")
    (reference,) = [row[0] for row in books.rows("SELECT external_ref FROM transfers WHERE kind = 'signup'")]
    assert "ann" not in reference
    assert sign_up(books, "ann@example.com", b"t" * 32) == 700


def test_the_setting_is_checked(books: TemporaryBooks) -> None:
    assert sign_up_credit(Settings(), books.clock, SECRET) is None
    for text in ("free", "-1", "1000.01"):
        with pytest.raises(SettingsError, match="MINITOOLAI_SIGNUP_CREDIT"):
            sign_up_credit(Settings(signup_credit=text), books.clock, SECRET)
    give = sign_up_credit(Settings(signup_credit="1.50"), books.clock, SECRET)
    assert give is not None
    account = books.account()
    with books.connection.transaction():
        give(books.connection, account, "cy@example.com")
    assert books.money(account).available == 1_500_000_000
