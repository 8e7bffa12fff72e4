"""The usage pages agree with the ledger, show only the own account, and have accessible charts."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET

import msgspec
import pytest
import requests

from minitoolai.billing import payments
from minitoolai.core.clock import MS_PER_DAY, SystemClock
from minitoolai.core.models import Outcome
from minitoolai.core.money import format_dollars
from minitoolai.ledger.rules import decide
from minitoolai.portal.i18n import formatter
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import ledger, users
from tests.support.books import hold, settle
from tests.support.browse import Visitor, new_user
from tests.support.history import count_usage
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

MARK = "<script>alert('x')</script>"
KEY = re.compile(r"sk-mt-\w{12}-\w{32}-\w{6}")


def account_of(server: ServerProcess, email: str) -> int:
    found = server.read(lambda c: users.find_user(c, email))
    return int(found[0].account_id)


def key_with_money(member: Visitor, email: str, name: str = "k") -> str:
    account_id = account_of(member.server, email)
    member.server.write(lambda c: payments.grant(c, SystemClock(), account_id, 5 * 10**9, reason="test"))
    member.open("/keys")
    found = KEY.search(member.submit("/keys", name=name).text)
    assert found
    return found[0]


def chat(server: ServerProcess, key: str, text: str = "hello there") -> None:
    body = {"model": "fake-chat", "messages": [{"role": "user", "content": text}], "max_tokens": 5}
    answer = requests.post(
        server.url + "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=20
    )
    assert answer.status_code == 200, answer.text


def test_a_file_of_usage_begins_with_a_byte_order_mark_for_excel(member: Visitor) -> None:
    for path in ("/usage/usage.csv", "/balance/statement.csv"):
        assert member.open(path).content.startswith(b"\xef\xbb\xbf"), path


def used(member: Visitor, email: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(member.open("/usage/usage.csv").text.removeprefix("\ufeff"))))


def test_usage_by_day_model_and_key_adds_up(member: Visitor, email: str, server: ServerProcess) -> None:
    assert "No usage in this period" in member.open("/usage").text
    key = key_with_money(member, email)
    for _ in range(3):
        chat(server, key)
    account_id = account_of(server, email)
    paid = "SELECT coalesce(sum(amount), 0), count(*) FROM transfers WHERE debit = ? AND kind = 'usage'"
    eventually(lambda: server.read(lambda c: c.execute(paid, (account_id,)))[0][1] == 3)
    cost = server.read(lambda c: c.execute(paid, (account_id,)))[0][0]
    line = used(member, email)[0]
    assert (line["kind"], line["model"], line["key_name"], line["requests"]) == ("chat", "fake-chat", "k", "3")
    assert line["cost"] == format_dollars(cost)
    page = member.open("/usage").text
    for table in ("by-day", "by-model", "by-key"):
        assert formatter("en").money(cost) in re.findall(rf'id="{table}".*?</table>', page, re.DOTALL)[0]
    assert len(page) < 60_000
    last = member.open("/usage/requests").text.partition("<tbody>")[2]
    assert last.count("fake-chat") == 3
    assert last.count(">completed<") == 3


def test_each_request_shows_the_usage_since_the_last_one(member: Visitor, email: str, server: ServerProcess) -> None:
    key = key_with_money(member, email)
    for times in (1, 2, 3):
        chat(server, key)
        assert used(member, email)[0]["requests"] == str(times)


def test_old_usage_adds_up_with_what_is_new(member: Visitor, email: str, server: ServerProcess) -> None:
    key = key_with_money(member, email)
    chat(server, key)
    account_id = account_of(server, email)

    def age(connection: Connection) -> None:
        sql = "UPDATE generations SET created_ms = created_ms - ? WHERE account_id = ?"
        connection.execute(sql, (3 * MS_PER_DAY, account_id))
        count_usage(connection, account_id)

    server.write(age)
    assert [line["requests"] for line in used(member, email)] == ["1"]
    chat(server, key)
    assert [line["requests"] for line in used(member, email)] == ["1", "1"]
    assert "7 days" in member.open("/usage?days=7").text
    assert [line["requests"] for line in used(member, email)] == ["1", "1"]


def test_usage_shows_only_the_own_account(member: Visitor, email: str, server: ServerProcess) -> None:
    chat(server, key_with_money(member, email))
    other = new_user(server, f"other-{email}")
    for path in ("/usage", "/usage/usage.csv", "/usage/requests.csv"):
        assert "fake-chat" not in other.open(path).text
    assert "No requests yet" in other.open("/usage/requests").text
    stranger = Visitor(server)
    for path in ("/usage", "/usage/requests", "/usage/usage.csv", "/usage/requests.csv"):
        assert "/signin" in stranger.open(path).url


def test_the_name_of_a_key_is_escaped_in_pages_and_csv(member: Visitor, email: str, server: ServerProcess) -> None:
    chat(server, key_with_money(member, email, "=" + MARK), MARK)
    for path in ("/usage", "/usage/requests"):
        page = member.open(path).text
        assert MARK not in page
        assert "&lt;script&gt;" in page
    assert used(member, email)[0]["key_name"] == "'=" + MARK


@pytest.mark.parametrize("lang", ["de", "tr"])
def test_charts_have_titles_axes_and_labels(member: Visitor, email: str, server: ServerProcess, lang: str) -> None:
    chat(server, key_with_money(member, email))
    drawings = re.findall(r"<svg viewBox.*?</svg>", member.open(f"/{lang}/usage?days=90").text, re.DOTALL)
    charts = [ET.fromstring(text) for text in drawings if "<title" in text]
    assert len(charts) == 3
    for chart in charts:
        assert chart.find("title") is not None
        assert chart.findall("path")
        assert len([*chart.iter("text"), *chart.iter("tspan")]) >= 2


def test_parts_with_a_price_of_their_own_have_lines_and_columns(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    account, split = account_of(server, email), '[["cached_input",300,500],["input",100,1000],["reasoning",7,9000]]'
    hold_id, now_ms = SystemClock().new_id(), SystemClock().now_ms()

    def use(connection: Connection) -> None:
        payments.grant(connection, SystemClock(), account, 5 * 10**9, reason="test")
        with_split = Outcome("succeeded", 400, 7, 300, price_split=split)
        placed = msgspec.structs.replace(hold(hold_id, account, 500), now_ms=now_ms)
        ended = msgspec.structs.replace(settle(hold_id, account, 313, with_split), now_ms=now_ms)
        ledger.apply(connection, [placed], decide)
        ledger.apply(connection, [ended], decide)

    server.write(use)
    (line,) = used(member, email)
    assert (line["cached_input_units"], line["cached_input_cost"]) == ("300", "0.000000150")
    assert (line["reasoning_units"], line["reasoning_cost"]) == ("7", "0.000000063")
    assert (line["input_units"], line["cost"]) == ("400", "0.000000313")
    shown = member.open("/usage").text
    assert "cache read" in shown
    assert "reasoning" in shown
