"""Tests of OpenAI-compatible image servers: requests, responses, and the translation of failures."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from PIL import Image

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.errors import EngineError, EngineRateLimited, EngineRefused, EngineTimeout, EngineUnavailable
from minitoolai.engines.images.openai import UpstreamImageEngine, nearest_size
from minitoolai.engines.images.remote import remote_server
from minitoolai.engines.protocols import GeneratedImage, ImageRequest
from minitoolai.httpclient.client import HttpClient
from tests.support.upstream import Behaviour, Exchange, Upstream
from tests.support.webui import png

RED = (200, 10, 20)
APPLE = ImageRequest(prompt="a red apple", negative_prompt="worm", width=320, height=256, seed=7, steps=3)


async def fetch_nothing(url: str) -> bytes:
    """Fail: no other server should be asked."""
    raise AssertionError(url)


@asynccontextmanager
async def upstream(behave: Behaviour, fetch: Any = fetch_nothing, **fields: Any) -> AsyncIterator[UpstreamImageEngine]:
    entry = EngineEntry("upstream", needs_key=True, names={"real": "gpt-image-1"}, **fields)
    with Upstream(behave) as server:
        client = HttpClient()
        engine = UpstreamImageEngine(
            remote_server("up", entry, base_url=server.base_url, key="sk-up"), entry, client, fetch
        )
        engine.server = server  # type: ignore[attr-defined]
        try:
            yield engine
        finally:
            await client.close()


async def generate(engine: UpstreamImageEngine, request: ImageRequest = APPLE) -> GeneratedImage:
    return await engine.generate("real", request, lambda _done, _total: None)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def in_base64(width: int = 320, height: int = 256) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        picture = base64.b64encode(png(RED, width, height)).decode()
        exchange.answer(200, {"created": 1, "data": [{"b64_json": picture, "revised_prompt": "an apple, red"}]})

    return behave


def opened(image: GeneratedImage) -> Any:
    return Image.open(io.BytesIO(image.png))


def test_the_request_follows_openai_and_the_metadata_claims_only_what_was_sent() -> None:
    async def test() -> None:
        async with upstream(in_base64()) as engine:
            image = await generate(engine)
            seen: Exchange = engine.server.last  # type: ignore[attr-defined]
            assert (seen.path, seen.headers["authorization"]) == ("/v1/images/generations", "Bearer sk-up")
            assert seen.body == {
                "model": "gpt-image-1",
                "prompt": "a red apple",
                "n": 1,
                "size": "320x256",
                "response_format": "b64_json",
            }
            assert image.model == "gpt-image-1"
            assert (opened(image).size, opened(image).getpixel((5, 5))) == ((320, 256), RED)
            text = opened(image).text["parameters"]
            assert text.startswith("a red apple\nSize: 320x256, Model: real, Version: minitoolai")

    run(test())


def test_a_server_with_extended_fields_gets_all_parameters() -> None:
    async def test() -> None:
        async with upstream(in_base64(), extended_fields=True) as engine:
            text = opened(await generate(engine)).text["parameters"]
            body = engine.server.last.body  # type: ignore[attr-defined]
            assert body["negative_prompt"] == "worm"
            assert (body["seed"], body["num_inference_steps"], body["guidance_scale"]) == (7, 3, 2.0)
            assert text.startswith("a red apple\nNegative prompt: worm\nSteps: 3, CFG scale: 2, Seed: 7, Size: 320x256")

    run(test())


def test_a_server_that_rejects_response_format_is_not_sent_it_again() -> None:
    async def behave(exchange: Exchange) -> None:
        if "response_format" in exchange.body:
            fault = {"message": "Unknown parameter: 'response_format'.", "param": "response_format"}
            return exchange.answer(400, {"error": fault})
        return await in_base64()(exchange)

    async def test() -> None:
        async with upstream(behave) as engine:
            await generate(engine)
            await generate(engine)
            assert len(engine.server.seen) == 3  # type: ignore[attr-defined]

    run(test())


@pytest.mark.parametrize("relative", [True, False])
def test_a_url_on_the_same_server_is_fetched_with_the_key(relative: bool) -> None:
    async def behave(exchange: Exchange) -> None:
        if exchange.path == "/files/1.png?sig=a%20b":
            assert exchange.headers["authorization"] == "Bearer sk-up"
            return exchange.answer(200, png(RED, 320, 256), content_type="image/png")
        root = "" if relative else f"http://{exchange.headers['host']}"
        return exchange.answer(200, {"data": [{"url": f"{root}/files/1.png?sig=a%20b"}]})

    async def test() -> None:
        async with upstream(behave) as engine:
            assert opened(await generate(engine)).getpixel((1, 1)) == RED

    run(test())


def test_a_url_on_another_server_is_fetched_without_the_key() -> None:
    asked: list[str] = []

    async def fetch(url: str) -> bytes:
        asked.append(url)
        return png(RED, 320, 256)

    async def behave(exchange: Exchange) -> None:
        exchange.answer(200, {"data": [{"url": "https://cdn.example/1.png"}]})

    async def test() -> None:
        async with upstream(behave, fetch) as engine:
            assert opened(await generate(engine)).getpixel((1, 1)) == RED
            assert asked == ["https://cdn.example/1.png"]

    run(test())


def test_the_nearest_offered_size_is_requested_and_cropped() -> None:
    sizes = ["1024x1024", "1536x1024", "1024x1536"]
    assert nearest_size(1024, 1024, sizes) == (1024, 1024)
    assert nearest_size(1344, 768, sizes) == (1536, 1024)
    assert nearest_size(256, 400, sizes) == (1024, 1536)
    assert nearest_size(640, 640, ["512x512", "1024x1024"]) == (1024, 1024)
    assert nearest_size(333, 444, []) == (333, 444)

    async def test() -> None:
        async with upstream(in_base64(1024, 1024), sizes=sizes) as engine:
            image = await generate(engine)
            assert engine.server.last.body["size"] == "1536x1024"  # type: ignore[attr-defined]
            assert opened(image).size == (320, 256)

    run(test())


FAILURES = [
    (400, {"error": {"message": "bad size", "param": "size"}}, EngineRefused, "invalid_request", "bad size"),
    (400, {"error": {"message": "no", "code": "content_policy_violation"}}, EngineRefused, "content_policy", "no"),
    (400, {"error": {"message": "no", "code": "moderation_blocked"}}, EngineRefused, "content_policy", "no"),
    (401, {"error": {"message": "bad key sk-up"}}, EngineUnavailable, "upstream_error", "status 401"),
    (429, {"error": {"message": "slow"}}, EngineRateLimited, "rate_limit_exceeded", "rate limit"),
    (503, b"", EngineError, "upstream_error", "overloaded"),
    (500, b"<html>", EngineError, "upstream_error", "status 500"),
    (200, {"data": []}, EngineError, "upstream_error", "invalid image"),
    (200, {"data": [{}]}, EngineError, "upstream_error", "without an image"),
    (200, {"data": [{"b64_json": "%%%"}]}, EngineError, "upstream_error", "invalid image"),
    (200, {"data": [{"b64_json": "aGVsbG8="}]}, EngineError, "upstream_error", "an invalid image"),
    (200, {"data": [{"url": "/nothing.png"}]}, EngineError, "upstream_error", "invalid image"),
    (200, {"error": {"message": "the model is loading"}}, EngineError, "upstream_error", "engine"),
    (200, {"error": {"message": "no", "code": "moderation_blocked"}}, EngineRefused, "content_policy", "no"),
    (200, {"data": [{"b64_json": "eyJlcnJvciI6ICJubyJ9"}]}, EngineError, "upstream_error", "invalid image"),
    (200, b"<html>Bad gateway</html>", EngineError, "upstream_error", "invalid image"),
    (200, b"", EngineError, "upstream_error", "invalid image"),
    (200, b"not json", EngineError, "upstream_error", "invalid image"),
]


@pytest.mark.parametrize(("status", "body", "kind", "code", "words"), FAILURES)
def test_failures_are_translated(status: int, body: Any, kind: type, code: str, words: str) -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.answer(status, body)

    async def test() -> None:
        async with upstream(behave) as engine:
            with pytest.raises(EngineError) as failure:
                await generate(engine)
            assert (type(failure.value), failure.value.code) == (kind, code)
            assert words in failure.value.message
            assert "sk-up" not in failure.value.message

    run(test())


def test_a_server_that_hangs_breaks_off_or_sends_a_huge_image_is_a_retryable_error() -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.hang()

    async def half(exchange: Exchange) -> None:
        exchange.send(b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"data": [')
        exchange.reset()

    async def test() -> None:
        async with upstream(hang, total_timeout_s=0.3) as engine:
            with pytest.raises(EngineTimeout, match=r"did not finish within 0\.3 s"):
                await generate(engine)
        async with upstream(half) as engine:
            with pytest.raises(EngineError, match="broke off"):
                await generate(engine)
        async with upstream(in_base64(5000, 4000)) as engine:
            with pytest.raises(EngineError, match="5000 by 4000"):
                await generate(engine)

    run(test())


def test_the_engine_is_down_until_retry_after_has_passed() -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.answer(429, {"error": {"message": "slow"}}, retry_after="1")

    async def test() -> None:
        async with upstream(behave) as engine:
            assert engine.is_up
            with pytest.raises(EngineRateLimited):
                await generate(engine)
            assert not engine.is_up
            await asyncio.sleep(1.05)
            assert engine.is_up

    run(test())


def test_without_its_key_the_engine_is_not_ready() -> None:
    entry = EngineEntry("upstream", base_url="https://host/v1", needs_key=True)
    engine = UpstreamImageEngine(remote_server("up", entry), entry, HttpClient(), fetch_nothing)
    assert engine.why_not_ready("real") == "no key: set MINITOOLAI_UP_API_KEY"
