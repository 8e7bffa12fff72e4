"""Idempotency-Key over HTTP: a repeated request gets the same response and is charged once, even after a crash."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from minitoolai.accounts import keys
from minitoolai.billing.charging import Bound, Charging
from minitoolai.billing.idempotency import IdempotencyStore
from minitoolai.core.clock import SystemClock
from minitoolai.core.models import Caller, KeyRules
from minitoolai.http.auth import CLAIM
from minitoolai.http.bodies.bodies import BodyLimits
from minitoolai.http.idempotency import Idempotent
from minitoolai.http.types import Receive, Scope, Send
from minitoolai.paths import load_secret_keys
from minitoolai.storage.tables import accounts, idempotency
from minitoolai.storage.writer import Writer
from tests.support import catalogs, manners
from tests.support.ask import API, HELLO, OPENAI, check_refusal, events, get, start
from tests.support.books import CHAT, DONE, TemporaryBooks
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Exchange, Upstream
from tests.support.waiting import eventually

CREDIT = 5_000_000_000


def post(account: Account, key: str, path: str = API, **fields: Any) -> requests.Response:
    body = {"model": "quick", "messages": HELLO, **fields}
    headers = {**account.headers, "idempotency-key": key}
    return requests.post(account.server.url + path, json=body, headers=headers, timeout=60)


def kept_headers(answer: requests.Response) -> dict[str, str]:
    """Return the headers that a replay repeats."""
    passing = ("date", "idempotent-replayed", "content-length", "transfer-encoding", "x-request-id")
    return {
        name: value
        for name, value in answer.headers.items()
        if name not in passing and not name.startswith("x-ratelimit")
    }


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [API, OPENAI, API.rstrip("/")])
def test_a_repeated_request_gets_the_same_bytes_and_is_charged_once(account: Account, path: str, stream: bool) -> None:
    first = post(account, "a-key", path, stream=stream)
    charged = CREDIT - account.settled()
    again = post(account, "a-key", path, stream=stream)
    assert first.status_code == again.status_code == 200
    assert again.content == first.content
    assert kept_headers(again) == kept_headers(first)
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert CREDIT - account.settled() == charged > 0


def test_another_request_under_the_key_is_a_422_and_costs_nothing(account: Account) -> None:
    post(account, "k")
    charged = CREDIT - account.settled()
    for answer in (post(account, "k", seed=2), post(account, "k", OPENAI)):
        assert "new key" in check_refusal(answer, 422, "idempotency_mismatch", "Idempotency-Key")
    assert CREDIT - account.settled() == charged


def test_other_accounts_and_other_keys_are_independent(account: Account) -> None:
    other = account.server.account()
    names = {post(who, key).headers["x-generation-id"] for who in (account, other) for key in ("k", "l")}
    assert len(names) == 4


def test_of_twenty_concurrent_repetitions_one_runs_and_the_others_are_409(account: Account) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: post(account, "at-once", model="paced"), range(20)))
    [first] = [a for a in answers if a.status_code == 200]
    for answer in answers:
        if answer is not first:
            check_refusal(answer, 409, "idempotency_in_flight", "Idempotency-Key")
            assert answer.headers["retry-after"] == "1"
    account.settled()
    assert len(account.server.transfers_of(first.headers["x-generation-id"])) == 1
    assert post(account, "at-once", model="paced").content == first.content


def test_another_request_is_a_422_even_while_the_first_is_in_progress(account: Account) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: post(account, "busy", model="paced"))
        assert eventually(lambda: account.money().held > 0)
        check_refusal(post(account, "busy", model="quick"), 422, "idempotency_mismatch", "Idempotency-Key")
        check_refusal(post(account, "busy", model="paced"), 409, "idempotency_in_flight", "Idempotency-Key")
        assert first.result().status_code == 200


def test_a_refused_request_leaves_the_key_free(account: Account) -> None:
    assert post(account, "free", temperature=9).status_code == 400
    assert post(account, "free").status_code == 200
    poor = account.server.account(None)
    assert post(poor, "poor").status_code == 402
    assert post(poor, "poor", OPENAI, stream=True).status_code == 402


def test_a_request_that_failed_without_a_charge_runs_again(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.refuse(500)
    assert post(account, "retry", model="standin").status_code == 502
    upstream.behave = manners.answer()
    assert post(account, "retry", model="standin").status_code == 200
    assert len(upstream.seen) == 2


def test_a_stream_that_the_upstream_broke_off_is_replayed(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.break_off("reset")
    first = post(account, "broken", model="standin")
    charged = CREDIT - account.settled()
    upstream.behave = manners.answer()
    assert post(account, "broken", model="standin").content == first.content
    assert len(upstream.seen) == 1
    assert CREDIT - account.settled() == charged > 0


def test_a_client_that_disconnected_gets_the_partial_response_and_is_not_charged_again(account: Account) -> None:
    headers = account.headers
    headers["idempotency-key"] = "left"
    body = {"model": "endless", "messages": HELLO}
    with requests.post(account.server.url + API, json=body, headers=headers, timeout=60, stream=True) as answer:
        written = answer.raw.read(2000)
    charged = CREDIT - account.settled()
    # Charged, it is kept a moment later; until then it is at work.
    again = eventually(lambda: (seen := post(account, "left", model="endless")).status_code != 409 and seen)
    assert again.content.startswith(written[:500])
    assert events(again.text)[-1]["error"]["code"] == "client_left"
    assert CREDIT - account.settled() == charged > 0


def test_an_unstreamed_request_of_a_client_that_disconnected_is_not_run_again(
    account: Account, upstream: Upstream
) -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(1.2)
        await manners.answer()(exchange)

    upstream.behave = slow
    headers = {**account.headers, "idempotency-key": "whole"}
    body = {"model": "billing", "messages": HELLO, "stream": False}
    with pytest.raises(requests.Timeout):
        requests.post(account.server.url + API, json=body, headers=headers, timeout=0.8)
    account.settled(within_s=10)
    status = post(account, "whole", model="billing", stream=False).status_code
    # Charged: it is not run again. Not charged (the server saw the caller leave in time): it is.
    charges = account.server.read(
        lambda c: c.execute("SELECT count(*) FROM transfers WHERE debit = ? AND kind = 'usage'", (account.id,))
    )
    assert (status, charges) in ((409, [(1,)]), (200, [(1,)]))


@pytest.mark.parametrize("key", ["", "x" * 256, "naïve"])
def test_a_malformed_idempotency_key_is_refused(account: Account, key: str) -> None:
    headers = {**account.headers, "idempotency-key": key.encode("latin-1")}
    body = {"model": "quick", "messages": HELLO}
    answer = requests.post(account.server.url + API, json=body, headers=headers, timeout=30)
    check_refusal(answer, 400, "invalid_request", "Idempotency-Key")


def test_without_an_api_key_an_idempotency_key_has_no_effect(account: Account) -> None:
    answer = requests.post(account.server.url + API, json={}, headers={"idempotency-key": "x"}, timeout=30)
    check_refusal(answer, 401, "invalid_api_key", "Authorization")
    assert get(account, "/api/balance").status_code == 200


def test_a_key_expires_after_a_day(account: Account) -> None:
    first = post(account, "old")

    def age(connection: Any) -> None:
        connection.execute("UPDATE idempotency_keys SET created_ms = created_ms - 86400000")

    account.server.write(age)
    second = post(account, "old")
    assert second.headers["x-generation-id"] != first.headers["x-generation-id"]
    assert "idempotent-replayed" not in second.headers
    account.server.write(age)
    now_ms = int(time.time() * 1000)
    assert account.server.write(lambda c: idempotency.delete_expired(c, now_ms)) >= 1
    assert account.server.read(lambda c: idempotency.find(c, f"{account.id}/old")) is None


def test_a_response_that_is_not_streamed_is_replayed(account: Account) -> None:
    answers = [post(account, "chat-and-speech", OPENAI, stream=False) for _ in range(2)]
    assert answers[0].json() == answers[1].json()


def test_a_request_in_flight_when_the_server_was_killed_is_never_charged_twice(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=catalogs.FAKE) as server:
        account = server.account()
        headers = account.headers
        headers["idempotency-key"] = "charged"
        body = {"model": "endless", "messages": HELLO}
        with requests.post(server.url + API, json=body, headers=headers, timeout=60, stream=True) as answer:
            name = answer.headers["x-generation-id"]
            eventually(lambda: server.read(lambda c: c.execute("SELECT max(progress) FROM holds"))[0][0] > 0)
            server.kill()
        # And one that had written nothing yet: it was not charged, so that it may run.
        finished = post_to_new(server, account, "charged")
        message = check_refusal(finished, 409, "idempotency_spent", "Idempotency-Key")
        assert name in message
        assert json.loads(get(account, f"/v1/generations/{name}").text)["error_code"] == "interrupted"
        paid = account.settled()
        assert server.transfers_of(name) == [CREDIT - paid]
        with start(account, model="endless") as answer:
            assert answer.status_code == 200
            check_refusal(post(account, "charged", model="endless"), 409, "idempotency_spent", "Idempotency-Key")


def post_to_new(server: ServerProcess, account: Account, key: str) -> requests.Response:
    """Send the request after a restart on the same data folder."""
    server.start()
    return post(account, key, model="endless")


def test_a_stored_response_survives_a_kill(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=catalogs.FAKE) as server:
        account = server.account()
        first = post(account, "kept")
        server.kill()
        server.start()
        again = post(account, "kept")
        assert again.content == first.content
        assert again.headers["idempotent-replayed"] == "true"
        assert account.settled() == CREDIT - sum(server.transfers_of(first.headers["x-generation-id"]))


def test_a_refused_api_key_is_refused_alike_with_an_idempotency_key(account: Account) -> None:
    server = account.server
    elsewhere = KeyRules(allow_ip=("192.0.2.7",))
    key = keys.make_key(account.id, "narrow", load_secret_keys(server.settings), SystemClock(), elsewhere)
    server.write(lambda connection: accounts.insert_key(connection, key.row))
    narrow = Account(server, account.id, account.email, key.text)
    check_refusal(post(narrow, "k"), 403, "address_not_allowed")
    assert post(account, "k").status_code == 200


# ── the middleware alone, before a handler of the test ────────────────────────────────────────────────────


class Handler:
    """An ASGI handler that reads a body, so that idempotency keys apply to it."""

    limits = BodyLimits(1_000_000, 1_000_000)

    def __init__(self, work: Callable[[Charging, Scope, Receive, Send], Awaitable[None]]) -> None:
        self.work = work
        self.charging: Charging | None = None
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.charging is not None
        self.calls += 1
        await self.work(self.charging, scope, receive, send)


def send_twice(books: TemporaryBooks, handler: Handler, *, is_known: bool = True) -> list[list[Any]]:
    """Send a request twice under the same Idempotency-Key, and return the messages of both responses."""
    key = keys.make_key(books.account(1000), "test", b"secret", books.clock)
    if is_known:
        with books.connection.transaction():
            accounts.insert_key(books.connection, key.row)
    scope = {"type": "http", "method": "POST", "path": "/x", "query_string": b""}
    headers = [(b"authorization", b"Bearer " + key.text.encode())]

    async def ask(middleware: Idempotent) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"hello", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await middleware(handler, "a-key", {**scope, "headers": headers}, receive, send)
        return sent

    async def run(writer: Writer) -> list[list[Any]]:
        handler.charging = Charging(writer, books.clock)
        store = IdempotencyStore(books.database, writer, books.clock)
        middleware = Idempotent(store, keys.KeyVerifier(books.database, b"secret", books.clock))
        return [await ask(middleware), await ask(middleware)]

    with books.writer() as writer:
        return asyncio.run(run(writer))


def test_a_handler_decides_about_a_request_without_a_valid_api_key(sqlite_books: TemporaryBooks) -> None:
    async def work(_: Charging, scope: Scope, receive: Receive, send: Send) -> None:
        assert CLAIM not in scope
        assert (await receive())["body"] == b"hello"
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    handler = Handler(work)
    responses = send_twice(sqlite_books, handler, is_known=False)
    assert [response[0]["status"] for response in responses] == [204, 204]
    assert handler.calls == 2


def cut_off(content_type: bytes) -> Handler:
    """Return a handler that charges for its response, and ends in the middle of it because its client left."""

    async def work(charging: Charging, scope: Scope, _: Receive, send: Send) -> None:
        claim = scope[CLAIM]
        caller = Caller(int(claim.id.partition("/")[0]), "key000000001", claim=claim)
        reservation = await charging.reserve(caller, Bound(base=100, unit=10, units=50, least_units=16), CHAT)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", content_type)]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        charge = charging.settle(reservation, 30, DONE)
        assert charge is not None
        await charge

    return Handler(work)


def test_an_event_stream_that_was_cut_off_is_replayed_with_a_mark_at_its_end(sqlite_books: TemporaryBooks) -> None:
    handler = cut_off(b"text/event-stream; charset=utf-8")
    _, again = send_twice(sqlite_books, handler)
    assert again[0]["status"] == 200
    assert again[1]["body"].startswith(b"data: 1\n\n")
    assert b"client_left" in again[1]["body"]
    assert handler.calls == 1


def test_half_of_any_other_response_is_not_replayed(sqlite_books: TemporaryBooks) -> None:
    """Half of an audio file looks like a whole one."""
    handler = cut_off(b"audio/mpeg")
    _, again = send_twice(sqlite_books, handler)
    assert again[0]["status"] == 409
    assert b"idempotency_spent" in again[1]["body"]
    assert handler.calls == 1
