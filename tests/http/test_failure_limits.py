"""Requests without a key: failures are limited by address, and a request with a right signature never is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import requests

from minitoolai.accounts.keys import KeyPolicy, KeyVerifier
from minitoolai.accounts.rate_limits import Limits
from minitoolai.core.errors import BodyTooLarge, Gone, InvalidRequest, NotFound, Overloaded, RateLimited, ServiceError
from minitoolai.core.models import RateLimits
from minitoolai.http.failure_limits import FailureLimits
from tests.support.books import FixedClock
from tests.support.server import ServerProcess
from tests.support.studio_http import CATALOG, POLL, submit

MOST = 20


def limits(clock: FixedClock, requests_per_minute: int = 200) -> FailureLimits:
    policy = KeyPolicy(clock, Limits(clock, RateLimits()), trusted_proxies=("10.0.0.0/8",))
    keys = cast(KeyVerifier, type("Keys", (), {"policy": policy})())
    return FailureLimits(clock, keys, requests_per_minute)


def scope(address: str, forwarded: str = "") -> dict[str, Any]:
    return {"client": (address, 1), "headers": [(b"x-forwarded-for", forwarded.encode())]}


def failures(counted: FailureLimits, *scopes: dict[str, Any]) -> int:
    """How many of these failures are answered as they are."""
    return sum(not isinstance(counted.error_for(each, NotFound("x")), RateLimited) for each in scopes)


def test_an_address_may_fail_so_often_and_then_slowly() -> None:
    clock = FixedClock()
    counted = limits(clock)
    assert failures(counted, *[scope("192.0.2.7")] * 50) == MOST
    assert failures(counted, scope("192.0.2.8")) == 1
    clock.steady += 6
    assert failures(counted, *[scope("192.0.2.7")] * 9) == 2
    refused = counted.error_for(scope("192.0.2.7"), InvalidRequest("It is not JSON."))
    assert isinstance(refused, RateLimited)
    assert refused.retry_after_s == 3
    assert "It is not JSON." in refused.message


def test_an_ipv6_network_is_one_address_and_a_trusted_proxy_is_none() -> None:
    counted = limits(FixedClock())
    assert failures(counted, *(scope(f"2001:db8::{host:x}") for host in range(50))) == MOST
    assert failures(counted, *(scope("10.0.0.1", f"198.51.100.{host}") for host in range(50))) == 50
    assert failures(counted, *[scope("10.0.0.1", "192.0.2.7")] * 50) == MOST


@pytest.mark.parametrize("error", [Gone("x"), Overloaded("x"), ServiceError("x")])
def test_what_is_not_the_fault_of_the_client_is_not_counted(error: ServiceError) -> None:
    counted = limits(FixedClock())
    assert [counted.error_for(scope("192.0.2.7"), error) for _ in range(50)] == [error] * 50
    assert isinstance(counted.error_for(scope("192.0.2.7"), BodyTooLarge("x")), BodyTooLarge)


def test_without_rate_limits_there_is_none() -> None:
    assert failures(limits(FixedClock(), 0), *[scope("192.0.2.7")] * 5000) == 5000


# ── over HTTP ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    env = {
        "MINITOOLAI_REQUESTS_PER_MINUTE": "200",
        "MINITOOLAI_TRUSTED_PROXIES": "127.0.0.1",
        "MINITOOLAI_STRIPE_SECRET_KEY": "sk_test_1",
        "MINITOOLAI_STRIPE_WEBHOOK_SECRET": "whsec_1",
    }
    with ServerProcess(tmp_path_factory.mktemp("strict"), catalog=CATALOG, env=env) as server:
        yield server


def failing(server: ServerProcess, address: str) -> dict[str, list[int]]:
    """Fail at every kind of route without a key; the statuses by kind."""
    wrong = {"jobid": "1", "signature": "wrong"}
    by_kind: dict[str, dict[str, Any]] = {
        "too large": {"method": "POST", "path": POLL, "json": wrong | {"x": "x" * 5000}},
        "no JSON": {"method": "POST", "path": POLL, "data": "{", "headers": {"content-type": "application/json"}},
        "wrong signature": {"method": "POST", "path": POLL, "json": wrong},
        "no type": {"method": "POST", "path": POLL, "data": "x"},
        "events": {"method": "GET", "path": "/api/texttoimage/jobs/1/events?signature=x"},
        "cancel": {"method": "DELETE", "path": "/api/texttoimage/jobs/1?signature=x"},
        "picture": {"method": "GET", "path": "/api/texttoimage/pictures/1.png?expires=9&signature=x"},
        "event": {"method": "POST", "path": "/webhooks/stripe", "data": "{}"},
        "large event": {"method": "POST", "path": "/webhooks/stripe", "data": "x" * 2_000_000},
        "form": {"method": "POST", "path": "/en/signin", "data": {"email": "x" * 70_000}},
    }
    found: dict[str, list[int]] = {kind: [] for kind in by_kind}
    with requests.Session() as session:
        for _ in range(4):
            for kind, request in by_kind.items():
                headers = request.get("headers", {}) | {"x-forwarded-for": address}
                url = server.url + request["path"]
                more = {key: value for key, value in request.items() if key in ("json", "data")}
                answer = session.request(request["method"], url, headers=headers, timeout=30, **more)
                found[kind].append(answer.status_code)
                if answer.status_code == 429:
                    assert int(answer.headers["retry-after"]) > 0
    return found


def test_failures_without_a_key_are_limited_and_polls_with_a_right_signature_are_not(strict: ServerProcess) -> None:
    account = strict.account()
    job = submit(account).json()
    poll = {"jobid": job["jobid"], "signature": job["signature"]}
    mine = {"x-forwarded-for": "198.51.100.7"}
    with requests.Session() as session:
        for _ in range(300):
            assert session.post(strict.url + POLL, json=poll, headers=mine, timeout=30).status_code == 200
        found = failing(strict, "198.51.100.7")
        for statuses in found.values():
            assert 429 not in statuses[:2]
            assert statuses[2:] == [429, 429], found
        for _ in range(300):
            assert session.post(strict.url + POLL, json=poll, headers=mine, timeout=30).status_code == 200
    assert 429 not in {statuses[0] for statuses in failing(strict, "198.51.100.8").values()}


def test_requests_with_a_key_are_not_counted(strict: ServerProcess) -> None:
    account = strict.account()
    headers = account.headers | {"x-forwarded-for": "198.51.100.9"}
    for _ in range(MOST + 10):
        answer = requests.post(f"{strict.url}/api/texttoimage/", json={}, headers=headers, timeout=30)
        assert answer.status_code == 400
    statuses = failing(strict, "198.51.100.9")
    assert 429 not in {found[0] for found in statuses.values()}
