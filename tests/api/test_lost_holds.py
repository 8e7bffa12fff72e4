"""Holds that are settled elsewhere during a response: it ends in an error, never as if it had been charged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from minitoolai.billing.charging import interrupted
from minitoolai.chat.circuit_breaker import CircuitBreaker
from minitoolai.core.clock import generation_name
from minitoolai.core.in_flight import CHECKPOINT_EVERY_S
from tests.support import manners
from tests.support.ask import API, HELLO, events, start
from tests.support.gate import Gate
from tests.support.server import Account
from tests.support.upstream import Exchange, Upstream
from tests.support.waiting import eventually

CREDIT = 5_000_000_000
WORDS = ["word "] * 8
#: Time until a checkpoint has been confirmed, with a margin for a busy machine.
NOTICED_S = CHECKPOINT_EVERY_S + 4.0
STREAMS = {
    API: {"messages": HELLO},
    "/v1/chat/completions": {"messages": HELLO, "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "Which planet has the most moons?"},
    "/v1/responses": {"input": "Which planet has the most moons?"},
}


def begin(account: Account, path: str) -> requests.Response:
    """Start a stream and return once its head arrives. The upstream bills it even if the client disconnects."""
    body = {"model": "billing", "stream": True, **STREAMS[path]}
    return requests.post(account.server.url + path, json=body, headers=account.headers, timeout=30, stream=True)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


def begin_stream(exchange: Exchange) -> None:
    exchange.begin()
    for word in WORDS:
        exchange.event(words(exchange, word))


def end_stream(exchange: Exchange) -> None:
    exchange.event(words(exchange, "", "stop"))
    exchange.event({**manners.head("chat.completion.chunk"), "choices": [], "usage": manners.usage(len(WORDS))})
    exchange.event("[DONE]")
    exchange.end()


def words(exchange: Exchange, text: str, finish: str | None = None) -> dict[str, Any]:
    """Return a chunk in the format of this path."""
    if exchange.path.endswith("/chat/completions"):
        return manners.chunk({"content": text}, finish=finish)
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
    return {**manners.head("text_completion"), "choices": [choice]}


def end_whole(exchange: Exchange) -> None:
    if exchange.path.endswith("/embeddings"):
        found = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        body = {
            "object": "list",
            "data": found,
            "model": manners.MODEL,
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }
    elif exchange.path.endswith("/chat/completions"):
        body = manners.completion(WORDS)
    else:
        body = {**words(exchange, "".join(WORDS), "stop"), "usage": manners.usage(len(WORDS))}
    exchange.answer(200, body)


def newest(account: Account) -> str:
    """Return the newest generation of an account, whose name the caller does not know yet."""
    rows = account.server.read(
        lambda c: c.execute("SELECT max(id) FROM generations WHERE account_id = ?", (account.id,))
    )
    return generation_name(rows[0][0])


def check_failure(path: str, text: str) -> None:
    """Check that the stream ends in an error in its format, without a sign of completion."""
    if path == "/v1/responses":
        kinds = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
        assert kinds[-1] == "response.failed"
        assert "response.completed" not in kinds
        last = json.loads(text.splitlines()[-2].removeprefix("data: "))["response"]["error"]
    else:
        found = events(text)
        assert "[DONE]" not in found
        last = found[-1]["error"]
        assert (last["code"], last["type"]) == ("interrupted", "server_error")
        assert not [event for event in found if event.get("usage")]
    assert "charge for this response was recorded while the server was paused" in last["message"]


def check_recovered(account: Account, name: str) -> None:
    """Check that the database keeps what the recovery wrote."""
    left = account.settled()
    row = account.server.generation(name)
    assert (row["state"], row["error_code"]) == ("failed", "interrupted")
    assert CREDIT - left == row["cost"] == sum(account.server.transfers_of(name))
    assert account.server.command("audit").returncode == 0


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_stops_at_the_checkpoint_that_finds_its_hold_settled(
    account: Account, upstream: Upstream, gate: Gate, path: str
) -> None:
    upstream.behave = gate.between(begin_stream, end_stream)
    answer = begin(account, path)
    name = answer.headers["x-generation-id"]
    account.server.recover(name)
    began_s = time.monotonic()
    check_failure(path, answer.text)
    assert time.monotonic() - began_s < NOTICED_S
    # The upstream is closed although it bills to the end, because the remaining output can no longer be charged.
    assert eventually(upstream.last.gone.is_set, within_s=2.0)
    check_recovered(account, name)


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_that_ends_before_its_next_checkpoint_is_an_error_if_its_charge_is_too_late(
    account: Account, upstream: Upstream, gate: Gate, path: str
) -> None:
    upstream.behave = gate.between(begin_stream, end_stream)
    answer = begin(account, path)
    name = answer.headers["x-generation-id"]
    account.server.recover(name)
    gate.open()
    check_failure(path, answer.text)
    check_recovered(account, name)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("path", [*STREAMS, "/v1/embeddings"])
def test_a_response_without_streaming_is_a_500_if_its_hold_was_settled(
    account: Account, upstream: Upstream, gate: Gate, path: str, waits: bool
) -> None:
    upstream.behave = gate.between(lambda _: None, end_whole)
    body = {"model": "billing", "stream": False, **STREAMS.get(path, {})}
    body.pop("stream_options", None)
    if path == "/v1/embeddings":
        body = {"model": "far", "input": "Saturn has many moons"}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(requests.post, account.server.url + path, json=body, headers=account.headers, timeout=30)
        eventually(lambda: upstream.seen)
        account.server.recover(newest(account))
        if not waits:
            gate.open()
        answer = asked.result(NOTICED_S)
    assert answer.status_code == 500, answer.text
    assert answer.json()["error"]["code"] == "interrupted"
    check_recovered(account, answer.headers["x-generation-id"])
    assert account.settled() == CREDIT


def test_draining_stops_if_the_hold_was_settled(account: Account, upstream: Upstream, gate: Gate) -> None:
    upstream.behave = gate.between(begin_stream, end_stream)
    answer = start(account, model="billing", stream=True)
    name = answer.headers["x-generation-id"]
    next(answer.iter_lines())
    answer.close()
    time.sleep(0.2)
    assert not upstream.last.gone.is_set()
    account.server.recover(name)
    assert eventually(upstream.last.gone.is_set, within_s=NOTICED_S)
    check_recovered(account, name)


def test_an_interruption_does_not_count_as_an_upstream_failure() -> None:
    breaker = CircuitBreaker(failure_threshold=1, cooldown_s=60.0)
    breaker.on_failure(interrupted(), "billing", 1, 0.0, 0.0, is_probe=False)
    assert breaker.is_closed
