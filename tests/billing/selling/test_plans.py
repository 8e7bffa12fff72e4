"""Plans are bought, renewed, changed and ended by entries of the one ledger, and the books add up after each."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from minitoolai.billing.selling import plans
from minitoolai.billing.selling.coupons import create_coupon
from minitoolai.billing.selling.plans import ENDING_MS, GRACE_MS, RENEW_AHEAD_MS, Refused
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.plans import Windows, period_end
from minitoolai.ledger.types import Held, InsufficientFunds, Settled
from minitoolai.storage.selling import notices, purses
from minitoolai.storage.selling.coupons import Coupon
from minitoolai.storage.selling.purses import Purse
from minitoolai.storage.tables import reports
from tests.support.books import NOON_MS, TemporaryBooks, credit, hold, refund, settle

PRO = Plan("pro", "Pro", 1000, 1500, "month", Windows())
MAX = Plan("max", "Max", 3000, 6000, "month", Windows(five_hours=900, week=2000))
HOUR_MS = 3_600_000


def buy(books: TemporaryBooks, account: int, plan: Plan = PRO, once: str = "1", **more: object) -> Purse | Refused:
    with books.connection.transaction():
        return plans.buy(
            books.connection, books.clock, account, plan,
            **{"expected_price": plan.price, "reference": f"plan:{account}:{once}", **more},  # type: ignore[arg-type]
        )  # fmt: skip


def bought(books: TemporaryBooks, account: int, plan: Plan = PRO, once: str = "1", **more: object) -> Purse:
    purse = buy(books, account, plan, once, **more)
    assert isinstance(purse, Purse), purse
    return purse


def sweep(books: TemporaryBooks, *offered: Plan) -> bool:
    """What the background task does with every plan that ends."""
    changed = False
    for purse in books.database.read(purses.ending, books.clock.now_ms() + RENEW_AHEAD_MS, 100):
        with books.connection.transaction():
            known = {plan.name: plan for plan in offered}
            changed = plans.end_or_renew(books.connection, books.clock, purse.id, known) or changed
    return changed


def kinds(books: TemporaryBooks, account: int) -> list[tuple[str, int]]:
    """The entries of an account, oldest first."""
    rows = books.rows(
        "SELECT kind, CASE WHEN credit = ? THEN amount ELSE -amount END FROM transfers WHERE ? IN (debit, credit)"
        " ORDER BY account_version",
        account, account,
    )  # fmt: skip
    return [(row[0], row[1]) for row in rows]


# ── buying ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plan_is_paid_from_the_balance_and_its_purse_holds_the_credit(books: TemporaryBooks) -> None:
    account = books.account(2500)
    purse = bought(books, account)
    assert (purse.available, purse.begins_ms, purse.ends_ms) == (1500, NOON_MS, period_end(NOON_MS, "month"))
    assert books.money(account).available == 1500
    assert kinds(books, account) == [("grant", 2500), ("plan", -1000)]
    assert kinds(books, purse.id) == [("plan_credit", 1500)]


def test_the_same_form_twice_buys_once(books: TemporaryBooks) -> None:
    account = books.account(5000)
    assert bought(books, account).id == bought(books, account).id
    assert books.money(account).available == 4000


@pytest.mark.parametrize(
    ("plan", "more", "reason"),
    [
        (PRO, {"expected_price": 900}, "price_changed"),
        (msgspec.structs.replace(PRO, is_closed=True), {}, "closed"),
        (MAX, {}, "poor"),
        (PRO, {"coupon": "nothing"}, "no_coupon"),
    ],
)
def test_a_plan_that_cannot_be_bought_changes_nothing(
    books: TemporaryBooks, plan: Plan, more: dict[str, object], reason: str
) -> None:
    account = books.account(1000)
    before = books.everything()
    refused = buy(books, account, plan, **more)
    assert isinstance(refused, Refused)
    assert refused.reason == reason
    assert books.everything() == before


def test_an_account_has_one_plan_and_changes_it_only_if_asked_to(books: TemporaryBooks) -> None:
    account = books.account(9000)
    bought(books, account)
    assert buy(books, account, MAX, "2") == Refused("owned")


def test_a_plan_that_costs_nothing_is_given(books: TemporaryBooks) -> None:
    account = books.account()
    purse = bought(books, account, msgspec.structs.replace(PRO, price=0))
    assert (purse.available, kinds(books, account)) == (1500, [])


# ── paying ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_is_held_on_the_plan_and_charged_there(books: TemporaryBooks) -> None:
    account = books.account(1000)
    purse = bought(books, account)
    assert books.apply(hold(1, account, 400)) == [Held(400, 1)]
    assert books.apply(settle(1, account, 250)) == [Settled(250)]
    assert kinds(books, purse.id) == [("plan_credit", 1500), ("usage", -250)]
    assert books.money(account).available == 0


def test_a_request_that_the_plan_does_not_cover_is_held_on_the_balance(books: TemporaryBooks) -> None:
    account = books.account(4000)
    purse = bought(books, account)
    assert books.apply(hold(1, account, 1501)) == [Held(1501, 1)]
    assert (books.money(account).held, books.money(purse.id).held) == (1501, 0)


def test_a_request_that_the_plan_covers_exactly_is_held_on_the_plan(books: TemporaryBooks) -> None:
    account = books.account(9000)
    purse = bought(books, account)
    assert books.apply(hold(1, account, 1500)) == [Held(1500, 1)]
    assert books.money(purse.id).available == 0


@pytest.mark.parametrize(("balance", "units", "on_plan"), [(1000, 15, True), (1500, 15, True), (1510, 15, False)])
def test_if_neither_covers_all_the_one_that_buys_more_pays_and_the_plan_in_a_tie(
    books: TemporaryBooks, balance: int, units: int, on_plan: bool
) -> None:
    account = books.account(1000 + balance)
    purse = bought(books, account)
    assert books.apply(hold(1, account, 1, unit=99, units=40)) == [Held(1 + 99 * units, units)]
    assert bool(books.money(purse.id).held) is on_plan


def test_nothing_is_refused_that_the_plan_alone_can_pay_in_part(books: TemporaryBooks) -> None:
    account = books.account(1000)
    bought(books, account)
    assert books.apply(hold(1, account, 100, unit=100, units=50)) == [Held(1500, 14)]


def test_what_is_refused_is_more_than_plan_or_balance_has(books: TemporaryBooks) -> None:
    account = books.account(1700)
    bought(books, account)
    assert books.apply(hold(1, account, 1501)) == [InsufficientFunds(1501, 1500)]


def test_a_window_limits_the_plan_and_the_next_window_is_full_again(books: TemporaryBooks) -> None:
    account = books.account(3000)
    bought(books, account, MAX)
    assert books.apply(hold(1, account, 900)) == [Held(900, 1)]
    (refused,) = books.apply(hold(2, account, 1))
    assert isinstance(refused, InsufficientFunds)
    assert refused.available == 0
    assert refused.window is not None
    assert (refused.window.kind, refused.window.ends_ms) == ("5h", NOON_MS + 5 * HOUR_MS)
    later = NOON_MS + 5 * HOUR_MS
    assert books.apply(hold(3, account, 900, now_ms=later - 1))[0] == refused.__class__(900, 0, refused.window)
    assert books.apply(hold(4, account, 900, now_ms=later)) == [Held(900, 1)]
    # 1,800 of the 2,000 of this week are held.
    (refused,) = books.apply(hold(5, account, 201, now_ms=later + 5 * HOUR_MS))
    assert isinstance(refused, InsufficientFunds)
    assert refused.window is not None
    assert (refused.window.kind, refused.available) == ("week", 200)
    # What is not used returns to the window in which it was held.
    books.apply(settle(1, account, 0))
    assert books.apply(hold(6, account, 900)) == [Held(900, 1)]


def test_a_refund_of_a_charge_of_a_plan_goes_to_the_balance(books: TemporaryBooks) -> None:
    account = books.account(1000)
    bought(books, account)
    books.apply(hold(1, account, 400))
    books.apply(settle(1, account, 400), refund(1, account, 150))
    assert books.money(account).available == 150


# ── changing, cancelling ──────────────────────────────────────────────────────────────────────────────────


def test_a_change_gives_the_unused_part_back_and_the_rest_expires(books: TemporaryBooks) -> None:
    account = books.account(5000)
    old = bought(books, account)
    books.apply(hold(1, account, 300))
    books.apply(settle(1, account, 300))
    # A third of the month has passed, and a fifth of the credit is used.
    books.clock.ms = old.begins_ms + (old.ends_ms - old.begins_ms) // 3 + 1
    new = bought(books, account, MAX, "2", replace=True)
    assert kinds(books, account) == [("grant", 5000), ("plan", -1000), ("plan_refund", 666), ("plan", -3000)]
    assert kinds(books, old.id) == [("plan_credit", 1500), ("usage", -300), ("plan_expiry", -1200)]
    assert new.begins_ms == books.clock.ms
    assert [purse.id for purse in books.database.read(purses.open_purses, account)] == [new.id]


def test_what_is_held_on_the_old_plan_is_settled_there(books: TemporaryBooks) -> None:
    account = books.account(5000)
    old = bought(books, account)
    books.apply(hold(1, account, 500))
    bought(books, account, MAX, "2", replace=True)
    books.apply(settle(1, account, 200))
    assert books.money(old.id).available == 300
    books.clock.ms += 1
    assert sweep(books, PRO, MAX)
    assert kinds(books, old.id)[-1] == ("plan_expiry", -300)
    assert len(books.database.read(purses.open_purses, account)) == 1


def test_a_cancelled_plan_stays_until_its_end_and_is_not_renewed(books: TemporaryBooks) -> None:
    account = books.account(5000)
    purse = bought(books, account)
    with books.connection.transaction():
        kept = plans.cancel(books.connection, account, NOON_MS)
    assert kept is not None
    assert (kept.id, kept.renewal) == (purse.id, "none")
    books.clock.ms = purse.ends_ms - 1
    assert not sweep(books, PRO)
    books.clock.ms = purse.ends_ms
    assert books.apply(hold(1, account, 100, now_ms=purse.ends_ms)) == [Held(100, 1)]
    assert books.money(account).held == 100
    assert sweep(books, PRO)
    assert kinds(books, purse.id)[-1] == ("plan_expiry", -1500)
    assert books.database.read(purses.open_purses, account) == []
    assert books.money(account).available == 3900


def test_a_cancelled_plan_can_be_resumed(books: TemporaryBooks) -> None:
    account = books.account(5000)
    purse = bought(books, account, renewal="none")
    with books.connection.transaction():
        resumed = plans.resume(books.connection, account, NOON_MS)
    assert resumed is not None
    books.clock.ms = purse.ends_ms - 1
    assert sweep(books, PRO)


# ── renewal ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_next_period_is_paid_before_the_end_and_begins_there_without_a_gap(books: TemporaryBooks) -> None:
    account = books.account(2000)
    first = bought(books, account)
    books.clock.ms = first.ends_ms - RENEW_AHEAD_MS + 1
    assert sweep(books, PRO)
    assert not sweep(books, PRO)
    old, new = books.database.read(purses.open_purses, account)
    assert (old.id, new.begins_ms, new.ends_ms) == (first.id, first.ends_ms, period_end(first.ends_ms, "month"))
    books.apply(hold(1, account, 10, now_ms=first.ends_ms - 1), hold(2, account, 10, now_ms=first.ends_ms))
    assert (books.money(old.id).held, books.money(new.id).held) == (10, 10)


def test_a_plan_whose_next_period_is_paid_is_changed_when_that_has_begun(books: TemporaryBooks) -> None:
    account = books.account(9000)
    first = bought(books, account)
    books.clock.ms = first.ends_ms - 1
    sweep(books, PRO)
    assert buy(books, account, MAX, "2", replace=True) == Refused("renewed")
    books.clock.ms += 1
    sweep(books, PRO)
    assert bought(books, account, MAX, "2", replace=True).begins_ms == books.clock.ms
    assert len(books.database.read(purses.open_purses, account)) == 1


def test_a_renewal_that_the_balance_does_not_cover_is_tried_for_three_days(books: TemporaryBooks) -> None:
    account = books.account(1000)
    purse = bought(books, account)
    books.clock.ms = purse.ends_ms
    assert sweep(books, PRO)
    kept = books.database.read(purses.find, purse.id)
    assert kept is not None
    assert (kept.state, kept.unpaid_ms) == ("open", purse.ends_ms)
    books.clock.ms = purse.ends_ms + GRACE_MS - 1
    books.apply(credit(account, 1000))
    assert sweep(books, PRO)
    assert [one.begins_ms for one in books.database.read(purses.open_purses, account)] == [books.clock.ms]


def test_after_three_days_without_money_the_plan_is_over(books: TemporaryBooks) -> None:
    account = books.account(1000)
    purse = bought(books, account)
    books.clock.ms = purse.ends_ms + GRACE_MS
    assert sweep(books, PRO)
    books.apply(credit(account, 1000))
    assert not sweep(books, PRO)
    assert books.database.read(purses.open_purses, account) == []


@pytest.mark.parametrize("offered", [[], [msgspec.structs.replace(PRO, is_closed=True)]])
def test_a_plan_that_is_not_offered_any_more_is_not_renewed(books: TemporaryBooks, offered: list[Plan]) -> None:
    account = books.account(5000)
    purse = bought(books, account)
    books.clock.ms = purse.ends_ms - 1
    sweep(books, *offered)
    books.clock.ms = purse.ends_ms + 1
    sweep(books, *offered)
    assert books.database.read(purses.open_purses, account) == []
    assert books.money(account).available == 4000


def test_a_renewal_costs_the_price_of_that_day(books: TemporaryBooks) -> None:
    account = books.account(5000)
    purse = bought(books, account)
    books.clock.ms = purse.ends_ms - 1
    sweep(books, msgspec.structs.replace(PRO, price=1100))
    assert books.money(account).available == 2900


# ── notices ───────────────────────────────────────────────────────────────────────────────────────────────


def announced(books: TemporaryBooks, account: int, *offered: Plan) -> list[tuple[str, dict[str, str]]]:
    """What several processes notify of, each looking twice."""
    now_ms = books.clock.now_ms()
    for purse in books.database.read(purses.unannounced, now_ms, now_ms + ENDING_MS, 100):
        for _ in range(2):
            with books.connection.transaction():
                known = {plan.name: plan for plan in offered}
                plans.announce_ending(books.connection, books.clock, purse.id, known)
    found = books.database.read(notices.notices_of, account, 9)
    return [(notice.type, msgspec.json.decode(notice.data)) for notice in found]


def test_a_plan_that_is_not_renewed_is_announced_once_three_days_before_its_end(books: TemporaryBooks) -> None:
    account = books.account(5000)
    purse = bought(books, account, renewal="none")
    books.clock.ms = purse.ends_ms - ENDING_MS - 1
    assert announced(books, account, PRO) == []
    books.clock.ms += 1
    ends = datetime.fromtimestamp(purse.ends_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert announced(books, account, PRO) == [("plan.ending", {"plan": "Pro", "ends": ends})]
    books.clock.ms = purse.ends_ms - 5
    assert len(announced(books, account, PRO)) == 1


def test_a_plan_that_goes_on_is_not_announced(books: TemporaryBooks) -> None:
    covered, by_card = books.account(2000), books.account(1000)
    purse = bought(books, covered)
    bought(books, by_card, renewal="provider")
    books.clock.ms = purse.ends_ms - 5
    assert announced(books, covered, PRO) == []
    assert announced(books, by_card, PRO) == []
    sweep(books, PRO)
    assert announced(books, covered, PRO) == []


@pytest.mark.parametrize("offered", [(PRO,), (), (msgspec.structs.replace(PRO, is_closed=True),)])
def test_a_plan_that_cannot_be_renewed_is_announced(books: TemporaryBooks, offered: tuple[Plan, ...]) -> None:
    account = books.account(1999 if offered == (PRO,) else 2000)
    purse = bought(books, account)
    books.clock.ms = purse.ends_ms - ENDING_MS
    assert [kind for kind, _ in announced(books, account, *offered)] == ["plan.ending"]


# ── payments ──────────────────────────────────────────────────────────────────────────────────────────────


def pay(books: TemporaryBooks, account: int, number: int, plan: Plan | None = PRO, price: int = 1000) -> object:
    """What the code of a payment does after it has credited the balance."""
    with books.connection.transaction():
        return plans.buy_with_payment(
            books.connection, books.clock, account, plan, expected_price=price, payment_id=number, renewal="provider"
        )


def test_a_payment_buys_a_plan_once_and_the_next_one_its_next_period(books: TemporaryBooks) -> None:
    account = books.account(2000)
    first, again, following = pay(books, account, 1), pay(books, account, 1), pay(books, account, 2)
    assert isinstance(first, Purse)
    assert isinstance(again, Purse)
    assert isinstance(following, Purse)
    assert (again.id, following.begins_ms) == (first.id, first.ends_ms)
    assert books.money(account).available == 0


def test_what_was_paid_for_a_plan_that_became_dearer_stays_on_the_balance(books: TemporaryBooks) -> None:
    account = books.account(1000)
    assert pay(books, account, 1, price=900) == Refused("price_changed", price=1000)
    assert pay(books, account, 1, plan=None) == Refused("unknown")
    assert books.money(account).available == 1000


# ── operators ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_an_operator_does_is_in_the_audit_log(books: TemporaryBooks) -> None:
    account = books.account(5000)
    with books.connection.transaction():
        plans.start_plan_as(books.connection, books.clock, None, account, PRO, note="as agreed")
        plans.cancel_plan_as(books.connection, books.clock, None, account, note=None)
        assert plans.set_group_as(books.connection, books.clock, None, account, "partner", note=None)
        assert not plans.set_group_as(books.connection, books.clock, None, account, "partner", note=None)
    done = [(row.action, row.subject) for row in books.database.read(reports.admin_actions, 10)]
    assert done == [("set_group", "partner"), ("end_plan", "pro"), ("start_plan", "pro")]


def test_a_coupon_lowers_the_price_and_is_not_lost_if_the_balance_does_not_suffice(books: TemporaryBooks) -> None:
    account = books.account(699)
    coupon = Coupon(books.clock.new_id(), "SPRING", 30, None, 1, 0, None, NOON_MS)
    with books.connection.transaction():
        assert create_coupon(books.connection, books.clock, coupon)
    assert buy(books, account, coupon="spring") == Refused("poor", price=700, available=699)
    books.apply(credit(account, 1))
    assert bought(books, account, coupon="spring").price == 700
    assert books.money(account).available == 0
