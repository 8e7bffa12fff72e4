"""Groups, plans and coupons, as an operator types them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.catalogs import SELLING
from tests.support.cli import CATALOG, Cli

ANN = "ann@example.com"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli(tmp_path, CATALOG + SELLING.replace("models = { exact = 0.5 }\n", "")).with_books()
    made.ok_within("account", "create", ANN, "--credit", "5.00")
    return made


def test_an_account_enters_and_leaves_a_group(cli: Cli) -> None:
    assert cli.ok_within("account", "group", ANN, "partner") == f"{ANN} pays the prices of partner\n"
    assert cli.ok_within("account", "group", ANN, "partner") == f"{ANN} already pays the prices of partner\n"
    assert cli.ok_within("account", "group", ANN) == f"{ANN} pays the list prices\n"
    assert "no price group 'partners'; the nearest is partner" in cli.within("account", "group", ANN, "partners").err
    assert "There is no account" in cli.within("account", "group", "bob@example.com", "partner").err


def test_plans_are_listed_started_shown_and_cancelled(cli: Cli) -> None:
    listed = cli.ok_within("plan", "list").splitlines()
    assert listed[0] == "pro: $2.00 a month for $3.00 of credit, $1.00 in a window of 5h"
    assert listed[2].endswith(", closed")
    assert cli.ok_within("plan", "show", ANN) == f"{ANN} has no plan\n"
    started = cli.ok_within("plan", "start", ANN, "pro", "--reason", "offer 12")
    times = r"\S+ \S+ to \S+ \S+ UTC"
    assert re.fullmatch(rf"pro \(now\): {times}, \$3\.00 of \$3\.00 left, renewed from the balance\n", started)
    assert cli.ok_within("plan", "show", ANN) == started
    poor = cli.within("plan", "start", ANN, "max").err
    assert "the balance is $" in poor
    assert "and the plan costs $5.00" in poor
    assert cli.ok_within("plan", "cancel", ANN) == started.replace("renewed from the balance", "not renewed")
    assert "no plan 'max2'; the nearest is max" in cli.within("plan", "start", ANN, "max2").err
    assert "closed in the catalog" in cli.within("plan", "start", ANN, "old").err
    assert cli.ok_within("audit") == "15 invariants hold\n"


def test_an_account_without_a_plan_has_none_to_cancel(cli: Cli) -> None:
    assert cli.within("plan", "cancel", ANN).err == f"minitoolai: {ANN} has no plan\n"


def test_coupons_are_created_listed_and_cancelled(cli: Cli) -> None:
    made = cli.ok_within("coupon", "create", "spring-26", "--percent", "20", "--uses", "3", "--days", "9")
    assert re.fullmatch(r"SPRING26: 20 % off a plan, 0 of 3 used, until \S+ \S+ UTC\n", made)
    cli.ok_within("coupon", "create", "WELCOME", "--amount", "5", "--uses", "1")
    assert cli.ok_within("coupon", "list").splitlines()[0] == "WELCOME: $5.00 of credit, 0 of 1 used"
    assert "there is a coupon WELCOME" in cli.within("coupon", "create", "welcome", "--amount", "1", "--uses", "1").err
    assert cli.ok_within("coupon", "cancel", "wel come") == "WELCOME is cancelled; earlier uses stay\n"
    assert "that is not cancelled" in cli.within("coupon", "cancel", "welcome").err
    assert "cancelled" in cli.ok_within("coupon", "list").splitlines()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("x", "--percent", "5", "--uses", "1"), "is not a code"),
        (("abc", "--percent", "101", "--uses", "1"), "--percent must be 1 to 100"),
        (("abc", "--percent", "5", "--uses", "0"), "--uses must be"),
        (("abc", "--percent", "5", "--uses", "1", "--days", "0"), "--days must be"),
        (("abc", "--amount", "-1", "--uses", "1"), "more than zero"),
    ],
)
def test_a_wrong_coupon_is_refused_with_the_remedy(cli: Cli, options: tuple[str, ...], message: str) -> None:
    assert message in cli.within("coupon", "create", *options).err


def test_the_check_of_the_catalog_counts_groups_and_plans(cli: Cli) -> None:
    assert ", 1 group, 3 plans, " in cli.within("catalog", "check").out


def test_doctor_names_a_group_that_the_catalog_has_not(cli: Cli) -> None:
    cli.ok_within("account", "group", ANN, "partner")
    cli.catalog.write_text(CATALOG)
    assert "price group partner" in cli.within("doctor").out
