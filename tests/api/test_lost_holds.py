"""A hold that was settled under a response: the response ends in an error, and never as if it had been paid for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from minitoolai.core.clock import generation_name
from minitoolai.services.charging import interrupted
from minitoolai.services.health import Health
from minitoolai.services.underway import CHECKPOINT_EVERY_S
from tests.support import manners
from tests.support.ask import API, HELLO, events, start
from tests.support.gate import Gate
from tests.support.server import Account
from tests.support.upstream import Exchange, Upstream
from tests.support.waiting import eventually

CREDIT = 5_000_000_000
WORDS = ["word "] * 8
#: Until a checkpoint has been answered, and a margin for a busy machine.
NOTICED_S = CHECKPOINT_EVERY_S + 4.0
STREAMS = {
    API: {"messages": HELLO},
    "/v1/chat/completions": {"messages": HELLO, "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "Which planet has the most moons?"},
    "/v1/responses": {"input": "Which planet has the most moons?"},
}


def begin(account: Account, path: str) -> requests.Response:
    """A stream, once its head is there; the upstream bills to the end where the caller leaves."""
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
    """A chunk in the form of the address that was asked."""
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
    """The newest generation of an account, whose name its caller has not seen yet."""
    rows = account.server.read(
        lambda c: c.execute("SELECT max(id) FROM generations WHERE account_id = ?", (account.id,))
    )
    return generation_name(rows[0][0])


def check_failure(path: str, text: str) -> None:
    """The stream ended in the error of its form, and in nothing that says it was complete."""
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
    assert "already recorded while the server was paused" in last["message"]


def check_recovered(account: Account, name: str) -> None:
    """The books carry what the recovery wrote, whatever the run asked for afterwards."""
    left = account.settled()
    row = account.server.generation(name)
    assert (row["state"], row["error_code"]) == ("failed", "interrupted")
    assert CREDIT - left == row["cost"] == sum(account.server.transfers_of(name))
    assert account.server.command("audit").returncode == 0


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_whose_checkpoint_finds_its_hold_settled_is_stopped_at_once(
    account: Account, upstream: Upstream, gate: Gate, path: str
) -> None:
    upstream.behave = gate.between(begin_stream, end_stream)
    answer = begin(account, path)
    name = answer.headers["x-generation-id"]
    account.server.recover(name)
    began_s = time.monotonic()
    check_failure(path, answer.text)
    assert time.monotonic() - began_s < NOTICED_S
    # The upstream is let go, though it would bill to the end: no one pays for the rest any more.
    assert eventually(upstream.last.gone.is_set, within_s=2.0)
    check_recovered(account, name)


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_that_ends_before_its_next_checkpoint_has_no_end_if_its_charge_comes_too_late(
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
def test_a_whole_answer_whose_hold_was_settled_is_a_500(
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


def test_an_answer_that_is_read_on_after_its_caller_left_is_read_no_further(
    account: Account, upstream: Upstream, gate: Gate
) -> None:
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


def test_an_interruption_is_no_failure_of_the_upstream() -> None:
    health = Health(after=1, rest_s=60.0)
    health.failed(interrupted(), "billing", 0.0)
    assert health.is_well
