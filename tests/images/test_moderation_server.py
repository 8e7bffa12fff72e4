"""Tests of the moderation server: every prompt is checked, and a failing server refuses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from minitoolai.core.errors import ContentRefused, EngineError, EngineTimeout
from minitoolai.httpclient.client import HttpClient
from minitoolai.images.moderation import ModerationPolicy
from tests.support.upstream import Exchange, Upstream


def answering(status: int, body: Any) -> Callable[[Exchange], Awaitable[None]]:
    async def behave(exchange: Exchange) -> None:
        exchange.answer(status, body)

    return behave


def check(upstream: Upstream, prompt: str = "a red apple", *, key: str = "sk-mod", model: str = "omni") -> None:
    async def request() -> None:
        client = HttpClient()
        try:
            await ModerationPolicy(client, base_url=upstream.base_url + "/", key=key, model=model).check(prompt, "")
        finally:
            await client.close()

    asyncio.run(request())


def test_the_prompt_is_sent_and_passes_if_nothing_is_flagged() -> None:
    with Upstream(answering(200, {"results": [{"flagged": False, "categories": {"sexual": False}}]})) as upstream:
        check(upstream)
        sent = upstream.last
        assert (sent.path, sent.headers["authorization"]) == ("/v1/moderations", "Bearer sk-mod")
        assert sent.body == {"input": "a red apple", "model": "omni"}
        check(upstream, key="", model="")
        assert "authorization" not in upstream.last.headers
        assert upstream.last.body == {"input": "a red apple"}


def test_a_flagged_prompt_is_refused_with_its_categories() -> None:
    result = {"flagged": True, "categories": {"violence": True, "sexual": True, "hate": False, "illicit": None}}
    with Upstream(answering(200, {"id": "modr-1", "model": "omni", "results": [result]})) as upstream:
        with pytest.raises(ContentRefused, match=r"sexual, violence\); nothing was charged") as refusal:
            check(upstream)
        assert (refusal.value.code, refusal.value.param) == ("content_policy", "prompt")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"error": "broken"}),
        (401, {"error": {"message": "bad key"}}),
        (200, b"<html>"),
        (200, {"results": []}),
        (200, {"results": [{"flagged": "no"}]}),
        (200, {}),
        (200, b"\xff"),
    ],
    ids=repr,
)
def test_an_unusable_response_refuses_the_prompt(status: int, body: Any) -> None:
    with Upstream(answering(status, body)) as upstream, pytest.raises(EngineError, match="nothing was charged") as no:
        check(upstream)
    assert "bad key" not in no.value.message


def test_an_unreachable_server_refuses_the_prompt() -> None:
    with Upstream(answering(200, {})) as upstream:
        address = upstream
    with pytest.raises(EngineTimeout, match="does not respond"):
        check(address)
