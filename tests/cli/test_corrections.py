"""Commands that stop and undo, as an operator types them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.cli import Cli

ANN = "ann@example.com"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli(tmp_path).with_books()
    made.ok_within("account", "create", ANN, "--credit", "5.00")
    return made


def test_an_account_is_suspended_listed_and_active_again(cli: Cli) -> None:
    cli.ok_within("account", "create", "bob@example.com", "--admin")
    said = cli.ok_within("account", "suspend", "Ann@Example.com", "--reason", "unpaid invoice 17")
    assert said == f"{'Ann@Example.com'} is suspended; running responses end within a second\n"
    assert "already suspended" in cli.ok_within("account", "suspend", ANN)
    listed = cli.ok_within("account", "list").splitlines()
    day = r"\d{4}-\d\d-\d\d"
    assert re.fullmatch(
        rf"1000  {ANN}  balance \$5\.00  available \$5\.00  since {day}  suspended {day}  \(unpaid invoice 17\)",
        listed[0],
    )
    assert re.fullmatch(rf"1001  bob@example\.com  balance \$0\.00 .* since {day}  active, admin", listed[1])
    assert cli.ok_within("account", "list", "--state", "suspended").splitlines() == listed[:1]
    assert cli.ok_within("account", "list", "bob").splitlines() == listed[1:]
    assert cli.ok_within("account", "list", "--limit", "1").splitlines() == listed[:1]
    assert cli.ok_within("account", "list", "--after", "1000").splitlines() == listed[1:]
    assert cli.ok_within("account", "unsuspend", ANN) == f"{ANN} is active again\n"
    assert cli.within("account", "unsuspend", ANN).err == f"minitoolai: {ANN} is not suspended\n"
    assert cli.within("account", "suspend", "nobody@example.com").status == 1
    assert "one line of at most 200" in cli.within("account", "suspend", ANN, "--reason", "x" * 201).err


def test_credit_is_reversed_at_most_once_per_reference(cli: Cli) -> None:
    take = ("credit", "reverse", ANN, "3.00", "--reason", "granted twice", "--reference", "ticket 5")
    assert cli.ok_within(*take) == "took $3.00 back; balance $2.00\n"
    assert cli.ok_within(*take) == "balance $2.00 (this reference was used before; nothing changed)\n"
    more = ("credit", "reverse", ANN, "3.00", "--reason", "again")
    assert cli.ok_within(*more) == "took $2.00 back of $3.00; no more was available; balance $0.00\n"
    assert "Nothing is available to take back" in cli.within(*more).err
    assert cli.within("credit", "reverse", ANN, "3.00").status == 2


def test_a_refund_names_what_is_wrong(cli: Cli) -> None:
    assert "is not the ID of a generation" in cli.within("credit", "refund", "17").err
    assert "There is no generation gen-" in cli.within("credit", "refund", "gen-00000000001").err
    assert "write it like 5.00" in cli.within("credit", "refund", "gen-00000000001", "ten").err


def test_vouchers_are_cancelled_by_code_and_by_batch(cli: Cli) -> None:
    made = cli.within("voucher", "create", "3.00", "--count", "3", "--batch", "fair")
    codes = made.out.splitlines()
    assert "3 vouchers of $3.00, $9.00 in total, batch fair" in made.err
    assert cli.ok_within("voucher", "cancel", codes[0]) == "cancelled 1 vouchers worth $3.00\n"
    assert cli.within("voucher", "cancel", codes[0]).err == "minitoolai: nothing was cancelled: 1 cancelled before\n"
    said = cli.ok_within("voucher", "cancel", "--batch", "fair", "--reason", "stolen")
    assert said == "cancelled 2 vouchers worth $6.00; untouched: 1 cancelled before\n"
    day = r"\d{4}-\d\d-\d\d"
    for line in cli.ok_within("voucher", "list", "--batch", "fair").splitlines():
        assert re.fullmatch(rf"…-\w{{4}}  \$3\.00  fair  created {day}  cancelled {day}", line)
    assert cli.within("voucher", "create", "1.00", "--days", "5").status == 0
    assert re.search(rf"created {day}  open until {day}", cli.ok_within("voucher", "list"))
    assert "either the code of one voucher or --batch" in cli.within("voucher", "cancel").err
    assert "There is no batch" in cli.within("voucher", "cancel", "--batch", "unknown").err
    assert "--batch must be" in cli.within("voucher", "create", "1.00", "--batch", "a b").err


@pytest.mark.parametrize(
    "command",
    ["account list", "account suspend", "account unsuspend", "credit reverse", "credit refund", "voucher cancel"],
)
def test_every_command_has_an_example(cli: Cli, command: str) -> None:
    assert f"example:\n  minitoolai {command} " in cli.ok(*command.split(), "--help")
