"""Tests of what the remote image engines share."""

from __future__ import annotations

import asyncio
import base64

import pytest

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.errors import ContextExceeded, EngineError, EngineRateLimited, EngineRefused, Overloaded
from minitoolai.engines.images.remote import as_image_error, remote_server
from minitoolai.httpclient.client import HttpClient
from tests.support.upstream import Exchange, Upstream

ENTRY = EngineEntry("upstream", base_url="http://catalog.example/v1/", headers={"x-team": "a"}, needs_key=True)


def test_the_settings_override_the_catalog_and_the_key_becomes_a_bearer_token() -> None:
    server = remote_server("up", ENTRY, key="sk")
    assert (server.base_url, server.fault) == ("http://catalog.example/v1", None)
    assert server.headers == {"content-type": "application/json", "x-team": "a", "authorization": "Bearer sk"}
    assert remote_server("up", ENTRY, base_url="http://own.example/", key="sk").base_url == "http://own.example"


def test_the_key_of_a_web_ui_is_sent_as_basic_authentication() -> None:
    server = remote_server("web", EngineEntry("webui", base_url="http://host:7860"), key="ann:secret")
    scheme, _, value = server.headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(value)) == ("Basic", b"ann:secret")


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (EngineEntry("webui"), "no address: set MINITOOLAI_UP_BASE_URL"),
        (EngineEntry("upstream", base_url="http://host", needs_key=True), "no key: set MINITOOLAI_UP_API_KEY"),
    ],
)
def test_a_server_without_address_or_key_refuses_requests(entry: EngineEntry, fault: str) -> None:
    server = remote_server("up", entry)
    assert str(server.fault).startswith(fault)

    async def test() -> None:
        with pytest.raises(EngineError, match="the engine is not ready"):
            await server.request(HttpClient(), "GET", "/", read_timeout_s=1)

    asyncio.run(test())


def test_reading_closes_the_response_even_if_it_is_too_long() -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.answer(200, b"x" * 1000)

    async def test() -> None:
        with Upstream(behave) as upstream:
            server, client = remote_server("up", EngineEntry("upstream", base_url=upstream.base_url)), HttpClient()
            response = await server.request(client, "GET", "/", read_timeout_s=5)
            assert await server.read(response) == b"x" * 1000
            response = await server.request(client, "GET", "/", read_timeout_s=5)
            with pytest.raises(EngineError, match="the engine broke off"):
                await server.read(response, max_bytes=10)
            assert response._connection is None
            await client.close()

    asyncio.run(test())


def test_a_refusal_is_final_and_other_failures_are_retryable() -> None:
    limited = EngineRateLimited("slow down", retry_after_s=7)
    assert as_image_error(limited) is limited
    refused = as_image_error(ContextExceeded("too long", param="prompt"))
    assert isinstance(refused, EngineRefused)
    assert refused.param == "prompt"
    overloaded = as_image_error(Overloaded("busy", retry_after_s=3))
    assert (type(overloaded), overloaded.retry_after_s) == (EngineError, 3)
