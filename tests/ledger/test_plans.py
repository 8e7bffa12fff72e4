"""Which of plan and balance pays, at the edges; and what a change of plan gives back."""

from __future__ import annotations

import pytest

from minitoolai.core.plans import Windows
from minitoolai.ledger.rules import decide, unused_part
from minitoolai.ledger.types import (
    AccountState,
    Bought,
    BuyPlan,
    ExpireCredit,
    Expired,
    Held,
    InsufficientFunds,
    LedgerState,
    PlanRunning,
    PurseState,
    UnknownAccountOrHold,
)
from tests.support.books import NOON_MS, hold

OWNER, PURSE = 1001, 2001
END_MS = NOON_MS + 1000


def state(balance: int, credit: int, *, begins_ms: int = NOON_MS, ends_ms: int = END_MS) -> LedgerState:
    """An account and its purse, without windows."""
    made = LedgerState({OWNER: AccountState(balance, 0, 1), PURSE: AccountState(credit, 0, 1)}, {})
    made.purses[PURSE] = PurseState(OWNER, begins_ms, ends_ms, 300, 600, Windows())
    return made


@pytest.mark.parametrize(
    ("balance", "credit", "payer"),
    [
        (100, 100, PURSE), (1000, 100, PURSE), (1000, 99, OWNER), (99, 99, None), (100, 99, OWNER), (0, 100, PURSE),
    ],
)  # fmt: skip
def test_the_plan_pays_what_it_covers_and_else_the_balance(balance: int, credit: int, payer: int | None) -> None:
    books = state(balance, credit)
    found = decide(books, hold(1, OWNER, 100))
    assert found == (Held(100, 1) if payer is not None else InsufficientFunds(100, 99))
    assert {number for number, account in books.accounts.items() if account.held} == ({payer} if payer else set())


@pytest.mark.parametrize(("balance", "credit", "payer"), [(70, 70, PURSE), (71, 70, OWNER), (70, 71, PURSE)])
def test_if_neither_covers_all_the_plan_pays_in_a_tie(balance: int, credit: int, payer: int) -> None:
    books = state(balance, credit)
    decide(books, hold(1, OWNER, 10, unit=10, units=9))
    assert books.accounts[payer].held == 70


@pytest.mark.parametrize(("at_ms", "payer"), [(-1, OWNER), (0, PURSE), (999, PURSE), (1000, OWNER)])
def test_a_plan_pays_from_its_beginning_until_before_its_end(at_ms: int, payer: int) -> None:
    books = state(500, 500)
    decide(books, hold(1, OWNER, 100, now_ms=NOON_MS + at_ms))
    assert books.accounts[payer].held == 100


def test_a_plan_pays_for_its_owner_only() -> None:
    books = state(500, 500)
    books.accounts[1002] = AccountState(0, 0, 0)
    assert decide(books, hold(1, 1002, 100)) == InsufficientFunds(100, 0)


@pytest.mark.parametrize(
    ("left", "at_ms", "given"),
    [
        (600, 0, 300),
        (600, 500, 150),
        (300, 0, 150),
        (1, 0, 0),
        (2, 0, 1),
        (600, 1000, 0),
        (600, 2000, 0),
        (600, -9, 300),
    ],
)
def test_a_change_gives_back_the_smaller_part_rounded_down(left: int, at_ms: int, given: int) -> None:
    purse = PurseState(OWNER, NOON_MS, END_MS, 300, 600)
    assert unused_part(purse, left, NOON_MS + at_ms) == given


def test_a_plan_that_ended_before_it_began_gives_nothing_back() -> None:
    assert unused_part(PurseState(OWNER, NOON_MS, NOON_MS, 300, 600), 600, NOON_MS) == 0


def test_credit_expires_at_the_end_and_not_a_millisecond_before() -> None:
    books = state(0, 500)
    books.accounts[PURSE].held = 200
    assert decide(books, ExpireCredit(OWNER, PURSE, END_MS - 1)) == PlanRunning()
    assert decide(books, ExpireCredit(1002, PURSE, END_MS)) == UnknownAccountOrHold()
    assert decide(books, ExpireCredit(OWNER, PURSE, END_MS)) == Expired(300, 200)
    assert decide(books, ExpireCredit(OWNER, PURSE, END_MS)) == Expired(0, 200)
    assert (books.purses[PURSE].expired, [t.external_ref for t in books.transfers]) == (300, [f"expiry:{PURSE}:2"])


def test_a_plan_is_bought_once_in_a_batch() -> None:
    books = state(1000, 0)
    books.accounts[PURSE] = AccountState(0, 0, 0)
    ask = BuyPlan(OWNER, PURSE, 1000, 600, "plan:1", NOON_MS)
    assert [decide(books, ask), decide(books, ask)] == [Bought(0), Bought(0, repeated=True)]
    assert books.accounts[PURSE].available == 600
