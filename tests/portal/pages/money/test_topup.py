"""Vouchers and the statement, in the browser and on the command line."""

from __future__ import annotations

import csv
import io
import itertools
import re
from concurrent.futures import ThreadPoolExecutor

import requests

from minitoolai.core.money import parse_dollars
from minitoolai.storage.tables import accounts, users
from tests.support.browse import Visitor, new_user
from tests.support.server import ServerProcess
from tests.support.waiting import eventually


def balance(server: ServerProcess, email: str) -> int:
    return server.read(lambda c: accounts.balance_of(c, users.find_user(c, email)[0].account_id)).posted


def test_a_voucher_is_redeemed_once_in_any_spelling(member: Visitor, email: str, server: ServerProcess) -> None:
    made = server.command("voucher", "create", "7.50", "--count", "2", "--note", "fair")
    first, second = made.stdout.split()
    assert re.fullmatch(r"(\w{4}-){3}\w{4}", first)
    assert "2 vouchers of $7.50, $15.00 in total" in made.stderr
    member.open("/topup")
    member.submit("/topup/voucher", code=f" {first.lower().replace('-', ' ')} ")
    assert "$7.50 added to your balance." in member.page.text
    member.open("/topup")
    member.submit("/topup/voucher", code=first)
    assert member.page.status_code == 422
    assert "This voucher has already been redeemed." in member.page.text
    assert first in member.page.text
    assert balance(server, email) == parse_dollars("7.50")
    listed = server.command("voucher", "list").stdout
    account_id = server.read(lambda c: users.find_user(c, email)[0].account_id)
    redeemed, still_open = (
        next(line for line in listed.splitlines() if line.startswith(f"…-{code[-4:]}  $7.50  "))
        for code in (first, second)
    )
    assert re.search(rf"  redeemed \S+ by account {account_id}  fair$", redeemed)
    assert still_open.endswith("  open  fair")
    assert first not in listed


def test_a_voucher_redeemed_concurrently_is_credited_once(server: ServerProcess, email: str) -> None:
    code = server.command("voucher", "create", "3.00").stdout.strip()
    people = [new_user(server, f"{n}-{email}") for n in range(4)]
    tries = [(person, person.open("/topup") and person.fields("/topup/voucher")) for person in people for _ in range(5)]

    def redeem(one: tuple[Visitor, dict[str, str]]) -> int:
        person, fields = one
        address = person.url("/topup/voucher")
        sent = requests.post(
            address, data=fields | {"code": code}, cookies=person.cookies.copy(), allow_redirects=False, timeout=30
        )
        return sent.status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = sorted(pool.map(redeem, tries))
    assert statuses == [303] + [422] * 19
    assert sum(balance(server, f"{n}-{email}") for n in range(4)) == parse_dollars("3.00")


def test_an_unknown_voucher_is_refused(member: Visitor, email: str) -> None:
    for code in ("", "ABCD", "x" * 5000, "💥", "' OR 1=1 --", "0" * 16):
        member.open("/topup")
        member.submit("/topup/voucher", code=code)
        assert member.page.status_code == 422
        assert "There is no such voucher." in member.page.text


def test_a_voucher_code_is_not_stored(server: ServerProcess) -> None:
    code = server.command("voucher", "create", "1.00").stdout.strip()
    for file in server.data_dir.glob("minitoolai.db*"):
        assert code.encode() not in file.read_bytes()
        assert code.replace("-", "").encode() not in file.read_bytes()


def test_wrong_options_of_voucher_create_are_refused_with_a_remedy(server: ServerProcess) -> None:
    for options, words in (
        (("five",), "write it like 5.00"),
        (("1", "--count", "0"), "--count must be from 1 to 10000"),
        (("1", "--days", "0"), "--days must be from 1 to"),
    ):
        said = server.command("voucher", "create", *options)
        assert (said.returncode, said.stdout) == (1, "")
        assert words in said.stderr


def test_the_statement_adds_up_and_names_what_was_paid_for(member: Visitor, email: str, server: ServerProcess) -> None:
    code = server.command("voucher", "create", "2.00").stdout.strip()
    member.open("/topup")
    member.submit("/topup/voucher", code=code)
    key = server.command("key", "create", email, "--name", "k").stdout.strip()
    names = []
    for _ in range(3):
        asked = {"model": "fake-chat", "stream": False, "messages": [{"role": "user", "content": "hello there"}]}
        headers = {"authorization": f"Bearer {key}"}
        answer = requests.post(server.url + "/v1/chat/completions", json=asked, headers=headers, timeout=30)
        names.append(answer.headers["x-generation-id"])
    page = member.open("/balance").text
    assert all(name in page for name in names)
    assert "+$2.00" in page
    lines = list(csv.DictReader(io.StringIO(member.open("/balance/statement.csv").text.removeprefix("\ufeff"))))
    assert [line["generation"] for line in lines] == [*reversed(names), ""]
    assert [line["number"] for line in lines] == ["4", "3", "2", "1"]
    amounts = [int(line["amount"].replace(".", "")) for line in lines]
    assert sum(amounts) == balance(server, email) == int(lines[0]["balance"].replace(".", ""))
    for after, before in itertools.pairwise(lines):
        assert int(after["balance"].replace(".", "")) - int(before["balance"].replace(".", "")) == int(
            after["amount"].replace(".", "")
        )


def test_an_empty_statement_says_how_to_top_up(member: Visitor) -> None:
    page = member.open("/balance").text
    assert "No transactions yet" in page
    assert "/en/topup" in page


def test_the_command_line_grants_and_revokes_admin_rights(member: Visitor, email: str, server: ServerProcess) -> None:
    assert server.command("account", "admin", email).stdout == f"{email} is an admin\n"
    assert server.read(lambda c: users.find_user(c, email)[0].is_admin)
    assert server.command("account", "admin", email, "--off").returncode == 0
    assert not server.read(lambda c: users.find_user(c, email)[0].is_admin)
    assert server.command("account", "create", f"admin-{email}", "--admin").returncode == 0
    assert server.read(lambda c: users.find_user(c, f"admin-{email}")[0].is_admin)
    assert "There is no account" in server.command("account", "admin", "nobody@example.com").stderr


def test_the_last_use_of_a_key_shows_without_costing_the_request(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    key = server.command("key", "create", email, "--name", "k").stdout.strip()
    assert "never" in member.open("/keys").text
    requests.get(server.url + "/api/balance", headers={"authorization": f"Bearer {key}"}, timeout=20)
    eventually(lambda: ">never<" not in member.open("/keys").text, within_s=30)


def test_the_limits_of_a_key_are_enforced(member: Visitor, email: str, server: ServerProcess) -> None:
    server.command("credit", "grant", email, "5.00")
    member.open("/keys")
    member.submit("/keys", name="site", budget_daily="five", expires="2001-01-01")
    assert member.page.status_code == 422
    assert "Enter an amount in dollars, such as 5.00." in member.page.text
    assert "Choose a day to come" in member.page.text
    assert 'value="five"' in member.page.text
    member.submit("/keys", name="site", budget_daily="0,00001", budget_monthly="3", expires="2090-12-31")
    assert "$0.00 of $0.00001 today" in member.page.text
    assert "$0.00 of $3.00 this month" in member.page.text
    assert "until Dec 31, 2090" in member.page.text
    found = re.search(r"sk-mt-\w{12}-\w{32}-\w{6}", member.page.text)
    assert found
    asked = {"model": "fake-chat", "max_completion_tokens": 500, "messages": [{"role": "user", "content": "hello"}]}
    headers = {"authorization": f"Bearer {found[0]}"}
    answer = requests.post(server.url + "/v1/chat/completions", json=asked, headers=headers, timeout=30)
    assert answer.status_code == 402, answer.text
