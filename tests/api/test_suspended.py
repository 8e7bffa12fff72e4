"""A suspended account: every route that takes a key refuses it, streams end, and signed links still work."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from minitoolai.api.openapi import describe
from minitoolai.billing.corrections import suspend, unsuspend
from minitoolai.core.clock import SystemClock
from tests.api.test_key_rules import EXAMPLES, catalog
from tests.support import catalogs
from tests.support.ask import events, start
from tests.support.books import emptied
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("shop"), catalog=catalog("http://127.0.0.1:9/v1")).start() as server:
        yield server


def call(server: ServerProcess, account: Account, method: str, path: str) -> requests.Response:
    """Send the smallest request to a path, with the key in both headers."""
    headers = {"authorization": f"Bearer {account.key}", "x-api-key": account.key}
    body = EXAMPLES.get(path, {"model": "direct", "messages": [{"role": "user", "content": "hi"}]})
    body = {name: value.replace("*", "direct") if isinstance(value, str) else value for name, value in body.items()}
    address = re.sub(r"\{\w+\}", "x", path)
    return requests.request(
        method, server.url + address, headers=headers, json=body if method == "POST" else None, timeout=20
    )


def keyed_routes() -> list[tuple[str, str]]:
    """Return every operation of the OpenAPI document that needs a key."""
    return [
        (method.upper(), path)
        for path, operations in describe()["paths"].items()
        for method, operation in operations.items()
        if method in ("get", "post", "delete") and operation.get("security") != []
    ]


def test_every_route_with_a_key_is_refused_and_works_again(shop: ServerProcess) -> None:
    account, clock = shop.account(), SystemClock()
    done = shop.write(lambda c: suspend(c, clock, None, account.id, "unpaid invoice 17"))
    assert done.is_new
    eventually(lambda: call(shop, account, "GET", "/api/balance").status_code == 403)
    routes = keyed_routes()
    assert len(routes) > len(EXAMPLES) + 10
    for method, path in routes:
        response = call(shop, account, method, path)
        assert (path, response.status_code) == (path, 403)
        assert "suspended: unpaid invoice 17" in response.text
        if path.startswith("/v1/messages"):
            assert response.json()["error"]["type"] == "permission_error"
        elif path.startswith(("/api/texttoimage", "/api/imagetoimage")):
            assert response.json()["code"] == "account_suspended"
        else:
            assert response.json()["error"]["code"] == "account_suspended"
    assert account.money().held == 0
    shop.write(lambda c: unsuspend(c, clock, None, account.id, ""))
    eventually(lambda: call(shop, account, "GET", "/api/balance").status_code == 200)
    assert call(shop, account, "POST", "/v1/chat/completions").status_code == 200


def test_a_finished_image_stays_readable_by_its_link(shop: ServerProcess) -> None:
    account = shop.account()
    submitted = call(shop, account, "POST", "/api/texttoimage/").json()
    query = {"jobid": submitted["jobid"], "signature": submitted["signature"]}

    def poll() -> dict[str, object]:
        answer: dict[str, object] = requests.post(f"{shop.url}/api/texttoimage/jobs/", json=query, timeout=20).json()
        return answer

    eventually(lambda: "http" in str(poll()))
    shop.write(lambda c: suspend(c, SystemClock(), None, account.id, "why"))
    eventually(lambda: call(shop, account, "GET", "/api/balance").status_code == 403)
    assert "http" in str(poll())


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_stream_ends_within_a_second_and_what_was_delivered_is_charged(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    env = {} if kind == "sqlite" else {"MINITOOLAI_DATABASE_URL": emptied(request.getfixturevalue("postgres_url"))}
    with ServerProcess(tmp_path, catalog=catalogs.FAKE, env=env).start() as server:
        account, other = server.account(), server.account()
        with start(account, model="endless") as stream, start(other, model="paced") as untouched:
            received = stream.iter_lines()
            for _ in range(10):
                next(received)
            said = server.command("account", "suspend", account.email, "--reason", "unpaid")
            began_s = time.monotonic()
            assert "is suspended" in said.stdout
            rest = b"\n".join(received).decode()
            assert time.monotonic() - began_s < 1.5
            assert "account_suspended" in rest
            assert "[DONE]" not in rest
            assert events(untouched.text)[-1] == "[DONE]"
        assert 0 < account.settled() < 5_000_000_000
        assert account.money().held == 0
