"""The customer's log of requests: filters, one page for each, and CSV."""

from __future__ import annotations

import csv
import io
import re

from minitoolai.core.clock import MS_PER_DAY, generation_name
from minitoolai.storage.tables import reports
from tests.portal.pages.account.test_usage import account_of, chat, key_with_money
from tests.support.browse import Visitor, new_user
from tests.support.history import count_usage
from tests.support.server import ServerProcess
from tests.support.waiting import eventually


def names_on(visitor: Visitor, query: str = "") -> list[str]:
    """Return the requests that the page lists."""
    return re.findall(r"/usage/requests/(gen-\w+)", visitor.open(f"/usage/requests{query}").text)


def log_of(server: ServerProcess, account_id: int, count: int) -> list[str]:
    """Return the names of the account's requests, newest first, once all have ended."""

    def rows() -> list[reports.RecentRequest]:
        return server.read(lambda c: reports.recent_requests(c, account_id, 100))  # type: ignore[no-any-return]

    eventually(lambda: len(rows()) == count and not any(row.is_pending for row in rows()))
    return [generation_name(row.id) for row in rows()]


def test_filters_find_requests_by_key_state_model_kind_and_day(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    first, second = key_with_money(member, email), key_with_money(member, email, "other")
    for key in (first, first, second):
        chat(server, key)
    account_id = account_of(server, email)
    newest, *older = names = log_of(server, account_id, 3)
    assert names_on(member) == names
    assert names_on(member, f"?key={second.split('-')[2]}") == [newest]
    assert names_on(member, f"?key={first.split('-')[2]}") == older
    assert names_on(member, "?model=fake-chat&kind=chat&state=succeeded") == names
    for nothing in ("?state=failed", "?kind=image", "?model=gone", "?key=x", "?from=2090-01-01", "?to=2001-01-01"):
        assert names_on(member, nothing) == [], nothing
        assert "No matching requests" in member.page.text
    # A day is its beginning up to the next one.
    sql = "UPDATE generations SET created_ms = ? WHERE account_id = ? AND key_id = ?"
    moment = 1_700_000_000_000 // MS_PER_DAY * MS_PER_DAY
    key_id = second.split("-")[2]
    server.write(lambda c: [c.execute(sql, (moment + MS_PER_DAY - 1, account_id, key_id)), count_usage(c, account_id)])
    assert names_on(member, "?from=2023-11-14&to=2023-11-14") == [newest]
    assert names_on(member, "?to=2023-11-13") == names_on(member, "?from=2023-11-15&to=2023-11-16") == []
    assert names_on(member, "?from=rubbish") == names_on(member)


def test_a_page_of_a_request_shows_cost_and_times_to_its_account_only(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    chat(server, key_with_money(member, email, "laptop"))
    (name,) = log_of(server, account_of(server, email), 1)
    page = member.open(f"/usage/requests/{name}")
    assert page.status_code == 200
    for words in (name, "fake-chat", "laptop", "completed", "Charged", "First token"):
        assert words in page.text
    stranger = new_user(server, f"stranger-{email}")
    for path in (f"/usage/requests/{name}", "/usage/requests/gen-0", "/usage/requests/x"):
        assert stranger.open(path).status_code == 404


def test_a_failed_request_shows_what_to_do_and_no_supplier(member: Visitor, email: str, server: ServerProcess) -> None:
    chat(server, key_with_money(member, email))
    account_id = account_of(server, email)
    (name,) = log_of(server, account_id, 1)
    attempts = '[{"engine":"acme-gpu","error_code":"upstream_error","after_ms":0,"took_ms":1500}]'
    sql = "UPDATE generations SET error_code = 'budget_exceeded', attempts = ? WHERE account_id = ?"
    server.write(lambda c: c.execute(sql, (attempts, account_id)))
    page = member.open(f"/usage/requests/{name}").text
    assert "The key has used up its budget." in page
    assert 'href="/en/keys"' in page
    assert "upstream_error" in page
    assert "acme-gpu" not in page


def test_the_csv_has_every_request_of_the_filter(member: Visitor, email: str, server: ServerProcess) -> None:
    key = key_with_money(member, email, "=1+1")
    for _ in range(3):
        chat(server, key)
    names = log_of(server, account_of(server, email), 3)

    def lines(query: str = "") -> list[dict[str, str]]:
        text = member.open(f"/usage/requests.csv{query}").text.removeprefix("\ufeff")
        return list(csv.DictReader(io.StringIO(text)))

    assert [line["id"] for line in lines()] == names
    assert [line["id"] for line in lines("?state=succeeded")] == names
    assert lines("?state=failed") == []
    assert {line["key_name"] for line in lines()} == {"'=1+1"}
    assert all(float(line["cost"]) > 0 and line["currency"] == "USD" for line in lines())
