"""Tests of OpenAI-compatible upstreams: invalid responses and false usage never corrupt the ledger."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minitoolai.engines.chat.openai import UpstreamResponse
from tests.support import manners
from tests.support.ask import check_refusal, post, start
from tests.support.server import Account
from tests.support.upstream import Upstream

CREDIT = 5_000_000_000
PRICE_IN, PRICE_OUT = 150, 600
FULL_COST = manners.PROMPT_TOKENS * PRICE_IN + len(manners.WORDS) * PRICE_OUT


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "rubbish",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00\x01\x02\x03" * 100, b"HTTP/1.1 200 OK\r\ncontent-length: zzz\r\n\r\n{}", b""],
)
def test_a_response_that_is_not_http_is_a_502(
    account: Account, upstream: Upstream, rubbish: bytes, stream: bool
) -> None:
    upstream.behave = manners.raw(rubbish)
    check_refusal(post(account, model="standin", stream=stream), 502, "upstream_error")
    assert account.settled() == CREDIT


@pytest.mark.parametrize(
    "rubbish", [b"<html>502 Bad Gateway</html>", b'{"choices": 7}', b'{"choices": []}', b"[1, 2]", b"", b"\xff\xfe"]
)
def test_a_200_without_a_completion_is_a_502(account: Account, upstream: Upstream, rubbish: bytes) -> None:
    upstream.behave = manners.body(rubbish)
    check_refusal(post(account, model="standin", stream=False), 502, "upstream_error")
    assert account.settled() == CREDIT


@pytest.mark.parametrize(
    "rubbish",
    [
        b"data: {broken\n\n",
        b"data: [1]\n\n",
        b'data: {"choices": "none"}\n\n',
        b"data: [DONE]\n\n",
        b"data: \xff\xfe\n\n",
        b"event: ping\n\n",
        b"<html>\n\n</html>",
        b"",
    ],
)
@pytest.mark.parametrize("model", ["standin", "whole"])
def test_invalid_events_are_an_error_and_free(account: Account, upstream: Upstream, rubbish: bytes, model: str) -> None:
    upstream.behave = manners.body(rubbish)
    check_refusal(post(account, model=model), 502, "upstream_error")
    assert account.settled() == CREDIT


def test_usage_above_the_limit_is_charged_up_to_the_limit(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(["word "] * 500)
    answer = post(account, model="standin", max_completion_tokens=16)
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["output_units"], row["estimated"]) == (16, 1)
    assert CREDIT - account.settled() == row["cost"] <= row["hold_amount"]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": -5},
        {"prompt_tokens": 2**70, "completion_tokens": 1},
        {"prompt_tokens": 2**40, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2**63}},
        {"prompt_tokens": "many", "completion_tokens": 1},
        {"prompt_tokens": 2**31 - 1, "completion_tokens": 2**31 - 1},
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_impossible_usage_never_credits_the_customer(
    account: Account, upstream: Upstream, usage: dict[str, Any], stream: bool
) -> None:
    async def behave(exchange: Any) -> None:
        if not stream:
            exchange.answer(200, {**manners.completion(("word",)), "usage": usage})
            return
        exchange.begin()
        exchange.event(manners.chunk({"content": "word"}))
        exchange.event({**manners.head("chat.completion.chunk"), "choices": [], "usage": usage})
        exchange.event("[DONE]")
        exchange.end()

    upstream.behave = behave
    with start(account, model="standin", stream=stream) as answer:
        assert answer.status_code in (200, 502), answer.text
    assert (
        0 <= CREDIT - account.settled() <= account.server.generation(answer.headers["x-generation-id"])["hold_amount"]
    )


# ── without a server: translation of responses and failures ───────────────────────────────────────────────────


class Received:
    """An HTTP response whose bytes arrive in these parts."""

    status = 200

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.closed = 0

    async def next_bytes(self) -> bytes:
        return self.parts.pop(0) if self.parts else b""

    def read_nowait(self) -> bytes | None:
        return self.parts.pop(0) if self.parts else b""

    async def read(self) -> bytes:
        return b"".join(self.parts)

    def close(self) -> None:
        self.closed += 1


def test_closing_a_response_returns_its_slot_once() -> None:
    received, slots = Received(), []
    response = UpstreamResponse(received, "up")  # type: ignore[arg-type]
    response.on_close = lambda: slots.append(1)

    async def test() -> None:
        await response.close()
        await response.close()

    asyncio.run(test())
    assert (slots, received.closed) == ([1], 2)
