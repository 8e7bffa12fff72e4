"""Each rule of the ledger, as a claim. `books` also checks that everything adds up after each test."""

from __future__ import annotations

import pytest

from minitoolai.core.models import Balance, Budget, Outcome
from minitoolai.ledger.types import (
    Credited,
    Held,
    InsufficientFunds,
    OverBudget,
    Renewed,
    Reversed,
    Settled,
    StillLeased,
    UnknownAccountOrHold,
)
from tests.support.books import LEASE_MS, NOON_MS, TemporaryBooks, checkpoint, credit, hold, recover, reverse, settle

# ── holds ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hold_promises_money_without_taking_it(books: TemporaryBooks) -> None:
    account = books.account(1000)
    assert books.apply(hold(1, account, 600)) == [Held(600, 1)]
    assert books.money(account) == Balance(posted=1000, held=600)
    assert books.rows("SELECT count(*) FROM transfers WHERE kind = 'usage'") == [(0,)]


def test_a_hold_of_all_that_is_available_is_granted(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 400))
    assert books.apply(hold(2, account, 600)) == [Held(600, 1)]
    assert books.money(account).available == 0


def test_a_hold_beyond_the_balance_is_refused_and_changes_nothing(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 400))
    before = books.everything()
    assert books.apply(hold(2, account, 601)) == [InsufficientFunds(needed=601, available=600)]
    assert books.everything() == before


def test_a_hold_of_nothing_needs_no_balance_and_moves_no_money(books: TemporaryBooks) -> None:
    account = books.account()
    assert books.apply(hold(1, account, 0), settle(1, account, 0)) == [Held(0, 1), Settled(0, 0)]
    assert books.apply(hold(2, account, 0), hold(3, account, 1)) == [Held(0, 1), InsufficientFunds(1, 0)]
    assert books.apply(recover(2, account, forced=True)) == [Settled(0, 0)]
    assert books.money(account) == Balance(posted=0, held=0)
    assert books.rows("SELECT id, amount, state, settled FROM holds ORDER BY id") == [
        (1, 0, "voided", 0), (2, 0, "voided", 0),
    ]  # fmt: skip
    assert books.rows("SELECT count(*) FROM transfers") == [(0,)]


def test_a_hold_of_nothing_passes_a_budget_that_is_overspent(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600, budget=Budget("b", None, None, 1000)))
    lowered = Budget("b", None, None, 100)
    assert books.apply(hold(2, account, 0, budget=lowered)) == [Held(0, 1)]
    assert books.apply(hold(3, account, 1, budget=lowered)) == [OverBudget("total", 1, -500)]


def test_a_refused_hold_does_not_spoil_its_batch(books: TemporaryBooks) -> None:
    poor, rich = books.account(10), books.account(1000)
    verdicts = books.apply(hold(1, rich, 500), hold(2, poor, 11), hold(3, rich, 500), hold(4, rich, 1))
    assert verdicts == [Held(500, 1), InsufficientFunds(11, 10), Held(500, 1), InsufficientFunds(1, 0)]


def test_units_are_cut_to_what_the_balance_buys(books: TemporaryBooks) -> None:
    account = books.account(1000)
    assert books.apply(hold(1, account, 90, unit=100, units=50, least=2)) == [Held(990, 9)]
    assert books.money(account).held == 990


def test_units_are_never_cut_below_the_least(books: TemporaryBooks) -> None:
    account = books.account(1000)
    ask = hold(1, account, 90, unit=100, units=50, least=10)
    assert books.apply(ask) == [InsufficientFunds(needed=1090, available=1000)]


def test_the_least_units_are_granted_when_the_balance_just_buys_them(books: TemporaryBooks) -> None:
    account = books.account(1090)
    assert books.apply(hold(1, account, 90, unit=100, units=50, least=10)) == [Held(1090, 10)]


def test_a_price_without_units_is_not_cut_but_refused(books: TemporaryBooks) -> None:
    account = books.account(99)
    assert books.apply(hold(1, account, 100, unit=0, units=5, least=0)) == [InsufficientFunds(100, 99)]


def test_a_prompt_that_the_balance_cannot_buy_is_refused(books: TemporaryBooks) -> None:
    account = books.account(50)
    assert books.apply(hold(1, account, 100, unit=1, units=20, least=0)) == [InsufficientFunds(100, 50)]


def test_the_same_hold_again_is_answered_from_the_row(books: TemporaryBooks) -> None:
    account = books.account(1000)
    ask = hold(1, account, 90, unit=100, units=50, least=2)
    first = books.apply(ask)
    before = books.everything()
    assert books.apply(ask) == books.apply(ask) == first
    assert books.everything() == before


def test_the_same_hold_twice_in_a_batch_is_one_hold(books: TemporaryBooks) -> None:
    account = books.account(1000)
    assert books.apply(hold(1, account, 600), hold(1, account, 600)) == [Held(600, 1), Held(600, 1)]
    assert books.money(account).held == 600


def test_the_number_of_somebody_elses_hold_answers_unknown(books: TemporaryBooks) -> None:
    owner, stranger = books.account(1000), books.account(1000)
    books.apply(hold(1, owner, 600))
    before = books.everything()
    asked = (hold(1, stranger, 5), settle(1, stranger, 5), checkpoint(1, stranger, 5), recover(1, stranger))
    assert books.apply(*asked) == [UnknownAccountOrHold()] * 4
    assert books.everything() == before


@pytest.mark.parametrize("account", [1, 2, 999_999])
def test_system_accounts_and_strangers_can_neither_hold_nor_be_credited(books: TemporaryBooks, account: int) -> None:
    before = books.everything()
    asked = (hold(1, account), settle(1, account, 5), checkpoint(1, account, 5), recover(1, account))
    assert books.apply(*asked, credit(account, 5)) == [UnknownAccountOrHold()] * 5
    assert books.everything() == before


# ── settling ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_settle_takes_the_cost_and_releases_the_rest(books: TemporaryBooks) -> None:
    account = books.account(1000)
    assert books.apply(hold(1, account, 600), settle(1, account, 250)) == [Held(600, 1), Settled(250)]
    assert books.money(account) == Balance(posted=750, held=0)
    assert books.rows("SELECT debit, credit, amount, hold_id FROM transfers WHERE kind = 'usage'") == [
        (account, 1, 250, 1)
    ]


def test_a_settle_of_the_whole_hold_leaves_no_shortfall(books: TemporaryBooks) -> None:
    account = books.account(600)
    assert books.apply(hold(1, account, 600), settle(1, account, 600))[1] == Settled(600, 0)
    assert books.money(account) == Balance(0, 0)


def test_a_cost_above_the_hold_is_a_shortfall_that_the_house_bears(books: TemporaryBooks) -> None:
    account = books.account(1000)
    assert books.apply(hold(1, account, 600), settle(1, account, 601))[1] == Settled(600, shortfall=1)
    assert books.money(account).posted == 400
    assert books.rows("SELECT settled, shortfall, cost FROM holds JOIN generations USING (id)") == [(600, 1, 601)]


def test_a_settle_of_nothing_voids_the_hold_and_moves_no_money(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600), settle(1, account, 0, Outcome("cancelled", error_code="client_left")))
    assert books.money(account) == Balance(1000, 0)
    assert books.rows("SELECT state, settled FROM holds") == [("voided", 0)]
    assert books.rows("SELECT count(*) FROM transfers WHERE kind = 'usage'") == [(0,)]


def test_a_second_settle_changes_nothing_and_says_so(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600), settle(1, account, 700))
    before = books.everything()
    assert books.apply(settle(1, account, 1), settle(1, account, 0)) == [Settled(600, 100, repeated=True)] * 2
    assert books.everything() == before


def test_two_settles_in_one_batch_charge_once(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600))
    assert books.apply(settle(1, account, 5), settle(1, account, 9)) == [Settled(5), Settled(5, repeated=True)]
    assert books.money(account).posted == 995


def test_a_settle_without_a_hold_is_unknown(books: TemporaryBooks) -> None:
    account = books.account(1000)
    assert books.apply(settle(5, account, 10)) == [UnknownAccountOrHold()]


def test_a_settle_writes_how_the_work_ended(books: TemporaryBooks) -> None:
    account = books.account(1000)
    outcome = Outcome("succeeded", 3, 5, 2, True, "smollm2", None, 12)
    books.apply(hold(1, account, 600), settle(1, account, 250, outcome))
    assert books.rows(
        "SELECT state, input_units, output_units, cached_units, estimated, served_model, first_token_ms, cost,"
        " finished_ms, price_input, price_output FROM generations"
    ) == [("succeeded", 3, 5, 2, 1, "smollm2", 12, 250, NOON_MS + 500, 150, 600)]


# ── checkpoints and recovery ──────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_moves_progress_and_lease_forward_but_never_back(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600), checkpoint(1, account, 200, LEASE_MS + 7))
    assert books.apply(checkpoint(1, account, 150, LEASE_MS)) == [Renewed()]
    assert books.rows("SELECT progress, lease_until_ms FROM holds") == [(200, LEASE_MS + 7)]
    assert books.money(account) == Balance(1000, 600)


def test_progress_never_passes_the_hold(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600), checkpoint(1, account, 5000))
    assert books.rows("SELECT progress FROM holds") == [(600,)]


def test_a_checkpoint_after_the_end_changes_nothing(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600), settle(1, account, 250))
    before = books.everything()
    assert books.apply(checkpoint(1, account, 600)) == [Settled(250, repeated=True)]
    assert books.everything() == before


def test_recovery_charges_the_last_checkpoint(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600), checkpoint(1, account, 200))
    assert books.apply(recover(1, account)) == [Settled(200)]
    assert books.money(account) == Balance(800, 0)
    assert books.rows("SELECT state, error_code, estimated, cost FROM generations") == [
        ("failed", "interrupted", 1, 200)
    ]


def test_recovery_without_a_checkpoint_releases_everything(books: TemporaryBooks) -> None:
    account = books.account(1000)
    assert books.apply(hold(1, account, 600), recover(1, account))[1] == Settled(0)
    assert books.money(account) == Balance(1000, 0)


def test_a_hold_is_not_recovered_while_its_lease_runs_unless_forced(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600))
    assert books.apply(recover(1, account, LEASE_MS - 1)) == [StillLeased()]
    assert books.money(account).held == 600
    assert books.apply(recover(1, account, LEASE_MS - 1, forced=True)) == [Settled(0)]


def test_a_hold_without_a_lease_is_never_recovered(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600, lease_ms=None))
    assert books.apply(recover(1, account, 2**62, forced=True)) == [StillLeased()]
    books.apply(settle(1, account, 0))


def test_a_settle_after_recovery_does_not_charge_again(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600), checkpoint(1, account, 200), recover(1, account))
    assert books.apply(settle(1, account, 600)) == [Settled(200, repeated=True)]
    assert books.money(account).posted == 800


# ── credit ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_credit_counts_once_for_its_reference(books: TemporaryBooks) -> None:
    account = books.account()
    assert books.apply(credit(account, 70, "grant:invoice 17")) == [Credited(70)]
    assert books.apply(credit(account, 70, "grant:invoice 17")) == [Credited(70, repeated=True)]
    assert books.money(account).posted == 70


def test_a_reference_twice_in_a_batch_counts_once_even_for_another_account(books: TemporaryBooks) -> None:
    one, other = books.account(), books.account()
    verdicts = books.apply(credit(one, 70, "grant:a"), credit(other, 70, "grant:a"), credit(one, 5, "grant:b"))
    assert verdicts == [Credited(70), Credited(0, repeated=True), Credited(75)]


def test_every_transfer_says_the_balance_and_version_after_it(books: TemporaryBooks) -> None:
    account = books.account()
    books.apply(credit(account, 1000), hold(1, account, 600), settle(1, account, 250), credit(account, 50))
    assert books.rows("SELECT account_version, balance_after, kind, created_ms, reason FROM transfers ORDER BY id") == [
        (1, 1000, "grant", NOON_MS, "a test"),
        (2, 750, "usage", NOON_MS + 500, None),
        (3, 800, "grant", NOON_MS, "a test"),
    ]


# ── our own mistakes ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wrong", ["negative hold", "negative cost", "credit of nothing", "negative credit"])
def test_an_operation_that_we_should_never_send_stops_before_anything_changes(
    books: TemporaryBooks, wrong: str
) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600))
    before = books.everything()
    operation = {
        "negative hold": hold(2, account, -1),
        "negative cost": settle(1, account, -1),
        "credit of nothing": credit(account, 0),
        "negative credit": credit(account, -5),
    }[wrong]
    with pytest.raises(AssertionError):
        books.apply(credit(account, 5), operation)
    assert books.everything() == before


# ── money that goes back ──────────────────────────────────────────────────────────────────────────────────


def test_a_reversal_takes_what_is_there_and_never_what_is_held(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 300))
    assert books.apply(reverse(account, 900, "refund:1")) == [Reversed(300, 700)]
    assert books.money(account) == Balance(300, 300)
    assert books.apply(settle(1, account, 300)) == [Settled(300)]


def test_a_reversal_of_an_empty_account_takes_nothing_and_may_be_tried_again(books: TemporaryBooks) -> None:
    account = books.account()
    before = books.everything()
    assert books.apply(reverse(account, 900, "refund:1")) == [Reversed(0, 0)]
    assert books.everything() == before
    books.apply(credit(account, 500))
    assert books.apply(reverse(account, 900, "refund:1")) == [Reversed(0, 500)]


def test_a_reversal_of_a_reference_happens_once(books: TemporaryBooks) -> None:
    account = books.account(1000)
    assert books.apply(reverse(account, 100, "refund:1"), reverse(account, 100, "refund:1")) == [
        Reversed(900, 100),
        Reversed(900, 0, repeated=True),
    ]
    before = books.everything()
    assert books.apply(reverse(account, 100, "refund:1")) == [Reversed(900, 0, repeated=True)]
    assert books.everything() == before


def test_a_reversal_for_nobody_is_unknown(books: TemporaryBooks) -> None:
    assert books.apply(reverse(777, 100)) == [UnknownAccountOrHold()]
