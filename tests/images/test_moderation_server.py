"""A moderation server is asked for every prompt; where it cannot answer, nothing is drawn."""

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
    async def ask() -> None:
        client = HttpClient()
        try:
            await ModerationPolicy(client, base_url=upstream.base_url + "/", key=key, model=model).check(prompt, "")
        finally:
            await client.close()

    asyncio.run(ask())


def test_the_prompt_is_asked_for_and_passes_where_nothing_is_flagged() -> None:
    with Upstream(answering(200, {"results": [{"flagged": False, "categories": {"sexual": False}}]})) as upstream:
        check(upstream)
        asked = upstream.last
        assert (asked.path, asked.headers["authorization"]) == ("/v1/moderations", "Bearer sk-mod")
        assert asked.body == {"input": "a red apple", "model": "omni"}
        check(upstream, key="", model="")
        assert "authorization" not in upstream.last.headers
        assert upstream.last.body == {"input": "a red apple"}


def test_what_is_flagged_is_refused_with_its_categories() -> None:
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
def test_an_answer_that_says_nothing_is_no_consent(status: int, body: Any) -> None:
    with Upstream(answering(status, body)) as upstream, pytest.raises(EngineError, match="nothing was charged") as no:
        check(upstream)
    assert "bad key" not in no.value.message


def test_a_server_that_is_not_there_is_no_consent() -> None:
    with Upstream(answering(200, {})) as upstream:
        address = upstream
    with pytest.raises(EngineTimeout, match="does not answer"):
        check(address)
