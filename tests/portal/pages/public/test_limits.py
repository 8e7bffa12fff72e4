"""The page of rate limits: what applies to everyone, and what the reader's account and keys have left."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests

from minitoolai.accounts.rate_limits import Limits, LimitState
from minitoolai.billing import payments
from minitoolai.core.clock import SystemClock
from minitoolai.core.models import Caller, RateLimits
from minitoolai.portal.rendering.highlight import plain_example
from tests.support.browse import Visitor, new_user
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess
from tests.support.team import number_of

ENV = {
    "MINITOOLAI_TRIES_FACTOR": "1000",
    "MINITOOLAI_REQUESTS_PER_MINUTE": "600",
    "MINITOOLAI_TOKENS_PER_MINUTE": "5000",
}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("limits"), catalog=CATALOG, env=ENV) as server:
        yield server


def left(page: str, name: str) -> list[int]:
    """What is left of the limits with this name, in the order of the page."""
    rows = re.findall(rf'<th scope="row">{name}</th>.*?</tr>', page, re.DOTALL)
    found = [re.search(r'data-label="Left now">\$?([\d,.]+)<', row) for row in rows]
    return [int(one[1].replace(",", "").split(".")[0]) for one in found if one]


def test_visitors_see_the_limits_of_every_account(limited: ServerProcess) -> None:
    page = Visitor(limited).open("/limits").text
    assert "Limits of every account" in page
    assert "What you have left" not in page
    assert ">600<" in page
    assert "x-ratelimit-remaining-requests" in page


def test_a_member_sees_what_is_left_of_the_account_and_of_each_key(limited: ServerProcess) -> None:
    member = new_user(limited, "limits@example.com")
    account = number_of(limited, "limits@example.com")
    limited.write(lambda c: payments.grant(c, SystemClock(), account, 10**9, reason="test"))
    assert left(member.open("/limits").text, "Requests a minute") == [600]
    member.open("/keys")
    key = re.search(r"sk-mt-\w{12}-\w{32}-\w{6}", member.submit("/keys", name="robot").text)
    assert key
    path = f"/keys/{key[0][6:18]}"
    member.open(path)
    member.submit(path, name="robot", requests_per_minute="60", budget_daily="2.00", streams="4")
    headers = {"authorization": f"Bearer {key[0]}"}
    answers = [requests.get(limited.url + "/api/balance", headers=headers, timeout=20) for _ in range(5)]
    page = member.open("/limits").text
    account_left, key_left = left(page, "Requests a minute")
    # Both refill by the second: at most as many as were sent are missing.
    assert 595 <= account_left <= 600
    assert 55 <= key_left < 60
    assert int(answers[-1].headers["x-ratelimit-remaining-requests"]) <= key_left
    assert left(page, "Concurrent responses") == [4]
    assert left(page, "Dollars a day") == [2]
    # Another account sees neither the key nor what it used.
    other = new_user(limited, "limits-other@example.com").open("/limits").text
    assert "robot" not in other
    assert left(other, "Requests a minute") == [600]


def test_looking_counts_nothing_and_shows_the_work_in_progress() -> None:
    clock = SystemClock()
    limits = Limits(clock, RateLimits(100, 1000, None, 3))
    caller = Caller(7, "k")
    assert limits.states("account 7", limits.of_accounts, {}, {}) == [
        LimitState("requests", 100, 100, 0.0), LimitState("tokens", 1000, 1000, 0.0), LimitState("streams", 3, 3, 0.0)
    ]  # fmt: skip
    limits.count(caller)
    limits.reserve(caller, tokens=400, dollars=0)
    for _ in range(3):
        requests_left, tokens, streams = limits.states("account 7", limits.of_accounts, {}, {})
        assert (requests_left.left, streams.left) == (99, 2)
        assert 600 <= tokens.left <= 601
        assert 23 < tokens.full_in_s <= 24


def test_the_sample_waits_and_tries_again(limited: ServerProcess) -> None:
    new_user(limited, "retry@example.com")
    account = number_of(limited, "retry@example.com")
    limited.write(lambda c: payments.grant(c, SystemClock(), account, 10**9, reason="test"))
    key = limited.command("key", "create", "retry@example.com", "--name", "code").stdout.strip()
    code = plain_example("retry.python", limited.url).replace("sk-…", key).replace("gpt-4o-mini", "fake-chat")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
