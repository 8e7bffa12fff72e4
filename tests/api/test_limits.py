"""Rate limits, budgets and key rules over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from minitoolai.accounts import keys as account_service
from minitoolai.core.models import KeyRules, RateLimits
from minitoolai.paths import load_secret_keys
from minitoolai.storage.tables import accounts
from tests.support import catalogs
from tests.support.ask import API, HELLO, OPENAI, check_refusal, get, post
from tests.support.books import FixedClock
from tests.support.cli import Cli
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually

CREDIT = 5_000_000_000


def with_rules(account: Account, rules: KeyRules) -> Account:
    """Return the same customer with a key that has these rules."""
    server = account.server
    key = account_service.make_key(account.id, "ruled", load_secret_keys(server.settings), FixedClock(), rules)
    server.write(lambda connection: accounts.insert_key(connection, key.row))
    return Account(server, account.id, account.email, key.text)


def spent(account: Account, key: str) -> int:
    """Return what the ledger charged for this key."""
    query = "SELECT coalesce(sum(settled), 0) FROM holds WHERE key_id = ?"
    total: int = account.server.read(lambda c: c.execute(query, (key.split("-")[2],)))[0][0]
    return total


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serve with default settings and fake models: 1,000 requests per minute."""
    server = ServerProcess(tmp_path_factory.mktemp("shipped"), catalog=catalogs.FAKE)
    del server.env["MINITOOLAI_REQUESTS_PER_MINUTE"]
    with server:
        yield server


def test_the_default_limit_is_a_thousand_requests_per_minute(shipped: ServerProcess) -> None:
    account = shipped.account()
    session = requests.Session()

    def ask(_: int) -> requests.Response:
        return session.get(shipped.url + "/api/balance", headers=account.headers, timeout=30)

    started_s = time.monotonic()
    answers: list[requests.Response] = []
    refusals: list[requests.Response] = []
    with ThreadPoolExecutor(8) as pool:
        # Seventeen come back each second: on a machine that is busy, more must be asked before one is refused.
        while not refusals:
            answers += pool.map(ask, range(100 if answers else 1200))
            refusals = [answer for answer in answers if answer.status_code != 200]
    took_s = time.monotonic() - started_s
    assert 1000 <= len(answers) - len(refusals) <= 1000 + took_s * 1000 / 60 + 2
    for refusal in refusals:
        check_refusal(refusal, 429, "rate_limit_exceeded")
        assert int(refusal.headers["retry-after"]) >= 1
        assert refusal.headers["x-ratelimit-remaining-requests"] == "0"
    # Another customer's minute is another's.
    assert get(shipped.account(), "/api/balance").status_code == 200


@pytest.mark.parametrize("path", [API, OPENAI])
@pytest.mark.parametrize("stream", [True, False])
def test_every_response_reports_what_is_left(shipped: ServerProcess, path: str, stream: bool) -> None:
    account = shipped.account()
    left = []
    for fields in ({"stream": stream}, {"temperature": 9}, {"stream": stream}):
        headers = post(account, path, **fields).headers
        assert headers["x-ratelimit-limit-requests"] == "1000"
        assert headers["x-ratelimit-reset-requests"].endswith("s")
        left.append(int(headers["x-ratelimit-remaining-requests"]))
    assert left[0] == 999
    assert left[0] >= left[1] >= left[2] - 1
    twice = {**account.headers, "idempotency-key": "counted-once"}
    body = {"model": "quick", "messages": HELLO}
    headers = requests.post(shipped.url + path, json=body, headers=twice, timeout=30).headers
    assert int(headers["x-ratelimit-remaining-requests"]) >= left[2] - 1


def test_two_hundred_concurrent_requests_never_exceed_a_budget(account: Account) -> None:
    # 2,007 and 8,003 nano-dollars a token: nothing comes out even.
    budget = 10_000_000
    key = with_rules(account, KeyRules(budget_total=budget))
    passed: list[int] = []

    def ask(_: int) -> int:
        status = post(key, model="paced", max_completion_tokens=50).status_code
        passed.append(spent(account, key.key))
        return status

    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(ask, range(200)))
    assert set(statuses) == {200, 402}
    account.settled()
    assert max(passed) <= budget
    charged = spent(account, key.key)
    assert CREDIT - account.settled() == charged <= budget
    # What is left buys no answer any more, or else it is granted one that is cut to fit.
    for _ in range(3):
        last = post(key, model="paced", max_completion_tokens=50)
        account.settled()
        assert spent(account, key.key) <= budget
    message = check_refusal(last, 402, "budget_exceeded")
    assert "in total" in message
    assert post(account, model="paced").status_code == 200


def test_a_response_is_cut_to_what_the_budget_pays_for(account: Account) -> None:
    key = with_rules(account, KeyRules(budget_daily=300_000))
    answer = post(key, model="paced", max_completion_tokens=50)
    assert answer.status_code == 200
    assert 16 <= int(answer.headers["x-max-completion-tokens"]) < 50
    account.settled()
    assert "today" in check_refusal(post(key, model="paced"), 402, "budget_exceeded")


def test_a_request_that_was_not_charged_returns_its_budget(account: Account) -> None:
    key = with_rules(account, KeyRules(budget_monthly=300_000))
    for _ in range(5):
        assert post(key, model="nowhere").status_code == 502
        account.settled()
    assert post(key, model="paced", max_completion_tokens=16).status_code == 200


def test_a_key_for_some_models_is_a_403_for_others(account: Account) -> None:
    key = with_rules(account, KeyRules(models=("quick",)))
    assert post(key).status_code == 200
    check_refusal(post(key, model="paced"), 403, "model_not_allowed", "model")
    assert account.settled() < CREDIT


def test_a_key_for_other_addresses_is_a_403_despite_a_forged_header(account: Account) -> None:
    key = with_rules(account, KeyRules(allow_ip=("192.0.2.0/24",)))
    check_refusal(get(key, "/api/balance"), 403, "address_not_allowed")
    headers = {**key.headers, "x-forwarded-for": "192.0.2.1"}
    lied = requests.get(account.server.url + "/api/balance", headers=headers, timeout=30)
    check_refusal(lied, 403, "address_not_allowed")
    assert get(with_rules(account, KeyRules(allow_ip=("127.0.0.0/8", "::1"))), "/api/balance").status_code == 200


def test_a_key_expires_on_time(account: Account) -> None:
    ends_ms = int(time.time() * 1000) + 1500
    key = with_rules(account, KeyRules(expires_ms=ends_ms))
    answer = get(key, "/api/balance")
    assert answer.status_code == 200 or time.time() * 1000 > ends_ms
    assert eventually(lambda: get(key, "/api/balance").status_code == 401)
    check_refusal(get(key, "/api/balance"), 401, "key_expired")


def test_a_key_has_its_own_rate_limits(account: Account) -> None:
    key = with_rules(account, KeyRules(rate=RateLimits(requests_per_minute=3, streams=1)))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: post(key, model="endless", max_completion_tokens=150))
        assert eventually(lambda: account.money().held > 0)
        check_refusal(post(key, model="paced"), 429, "rate_limit_exceeded")
        assert first.result().status_code == 200
    answers = [post(key) for _ in range(3)]
    assert [a.status_code for a in answers][-1] == 429
    assert answers[-1].headers["x-ratelimit-limit-requests"] == "3"
    assert post(account).status_code == 200


def test_a_rotated_key_shares_its_budget_during_the_grace_period(account: Account) -> None:
    server = account.server
    made = server.command("key", "create", account.email, "--budget-total", "0.0003", "--models", "quick,paced")
    old = Account(server, account.id, account.email, made.stdout.strip())
    rotated = server.command("key", "rotate", old.key, "--grace", "24h")
    new = Account(server, account.id, account.email, rotated.stdout.strip())
    assert account_service.KEY_PATTERN.fullmatch(new.key)
    assert new.key != old.key
    assert post(old, model="paced", max_completion_tokens=30).status_code == 200
    assert get(new, "/api/balance").status_code == 200
    account.settled()
    check_refusal(post(new, model="paced", max_completion_tokens=30), 402, "budget_exceeded")
    check_refusal(post(new, model="endless"), 403, "model_not_allowed", "model")
    listed = server.command("key", "list", account.email).stdout
    assert "total $0.000" in listed
    assert "of $0.0003" in listed
    assert "expires" in listed
    assert "replaces" in listed
    third = server.command("key", "rotate", new.key, "--grace", "0m")
    assert third.returncode == 0
    assert eventually(lambda: get(new, "/api/balance").status_code == 401)
    assert get(old, "/api/balance").status_code == 200
    assert server.command("key", "rotate", new.key).returncode == 1


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--budget-daily", "lots", "is not an amount in dollars"),
        ("--expires", "soon", "write 30d, 12h, or a date"),
        ("--expires", "2001-01-01", "is in the past"),
        ("--allow-ip", "300.1.1.1", "neither an address nor a network"),
        ("--requests-per-minute", "0", "at least 1"),
        ("--streams", "x", "whole number"),
    ],
)
def test_a_wrong_rule_is_refused_with_the_allowed_values(tmp_path: Path, option: str, value: str, words: str) -> None:
    said = Cli(tmp_path).within("key", "create", "ann@example.com", option, value)
    assert (said.status, said.out) == (1, "")
    assert words in said.err


def test_wrong_settings_of_limits_name_their_variable(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    for variable, value in (("DOLLARS_PER_MINUTE", "lots"), ("TRUSTED_PROXIES", "here")):
        said: Any = cli.within("models", **{f"MINITOOLAI_{variable}": value})
        assert said.status == 1
        assert f"MINITOOLAI_{variable} is wrong" in said.err
