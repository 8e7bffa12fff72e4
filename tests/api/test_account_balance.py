"""A request above the balance is refused or gets fewer tokens, and is charged exactly."""

from __future__ import annotations

import pytest

from tests.support.ask import check_refusal, events, get, post, start
from tests.support.server import Account, ServerProcess

# HELLO is six words, so six tokens to the fake engines: `quick` costs 150 each in and 600 each out.
PROMPT = 6 * 150


def funded(server: ServerProcess, nano: int) -> Account:
    return server.account(f"{nano / 1e9:.9f}")


def test_an_empty_account_is_refused(server: ServerProcess) -> None:
    account = server.account(credit=None)
    message = check_refusal(post(account), 402, "insufficient_balance")
    assert "only $0.00 is" in message


@pytest.mark.parametrize("tokens", [3, 15])
def test_a_balance_for_fewer_than_sixteen_tokens_is_refused_and_untouched(server: ServerProcess, tokens: int) -> None:
    account = funded(server, PROMPT + tokens * 600)
    check_refusal(post(account), 402, "insufficient_balance")
    assert (account.money().posted, account.money().held) == (PROMPT + tokens * 600, 0)


def test_a_request_for_few_tokens_that_can_be_paid_is_served(server: ServerProcess) -> None:
    account = funded(server, PROMPT + 3 * 600)
    answer = post(account, max_completion_tokens=3)
    assert answer.status_code == 200
    assert "x-max-completion-tokens" not in answer.headers
    assert account.settled() == 0
    check_refusal(post(account, max_completion_tokens=4), 402, "insufficient_balance")


@pytest.mark.parametrize("stream", [True, False])
def test_a_low_balance_lowers_the_token_limit_and_reports_it(server: ServerProcess, stream: bool) -> None:
    account = funded(server, PROMPT + 20 * 600 + 599)
    answer = post(account, stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-max-completion-tokens"] == "20"
    assert account.settled() == 20 * 600 + 599 - 16 * 600


def test_the_lowered_limit_is_passed_to_the_engine(server: ServerProcess) -> None:
    account = funded(server, 6 * 2007 + 17 * 8003)
    answer = post(account, model="paced", max_completion_tokens=40)
    assert answer.headers["x-max-completion-tokens"] == "17"
    found = events(answer.text)
    assert found[-2]["usage"]["completion_tokens"] == 17
    assert found[-3]["choices"][0]["finish_reason"] == "length"
    assert account.settled() == 0


def test_a_sufficient_balance_adds_no_header(server: ServerProcess) -> None:
    assert "x-max-completion-tokens" not in post(server.account()).headers


def test_the_balance_shows_held_and_available_money(account: Account) -> None:
    with start(account, model="endless", max_completion_tokens=1500) as answer:
        # Kept: lines that nobody holds any more would close the connection.
        lines = answer.iter_lines()
        next(lines)
        page = get(account, "/api/balance/").json()
        assert set(page) == {"balance", "held", "available", "currency"}
        assert page["held"] == f"{(6 * 2007 + 1500 * 8003) / 1e9:.9f}"
        assert page["balance"] == "5.000000000"
        assert page["available"] == f"{(5_000_000_000 - 6 * 2007 - 1500 * 8003) / 1e9:.9f}"
        assert page["currency"] == "USD"
    account.settled()
    assert get(account, "/api/balance").json()["held"] == "0.000000000"


def test_a_free_prompt_costs_nothing(server: ServerProcess) -> None:
    account = funded(server, 16_000_001)
    post(account, model="promptless")
    assert account.settled() == 1
