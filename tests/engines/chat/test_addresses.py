"""An upstream with several addresses: least requests first, a circuit breaker for each, and nothing sent twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.errors import CatalogError, EngineUnavailable, ServiceError
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.addresses import FIRST_REST_S, AddressPool
from minitoolai.engines.chat.openai import UpstreamEngine
from minitoolai.httpclient.client import HttpClient
from tests.support import catalogs, manners
from tests.support.upstream import Upstream

REQUEST = ChatRequest("m", [{"role": "user", "content": "word"}], {}, stream=False, include_usage=True, limit=8)


def closed_url() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def run(urls: list[str], test: Callable[[UpstreamEngine], Awaitable[None]]) -> None:
    async def go() -> None:
        client = HttpClient()
        try:
            entry = EngineEntry(kind="upstream", base_url=urls[0], base_urls=tuple(urls))
            await test(UpstreamEngine("fleet", entry, client))
        finally:
            await client.close()

    asyncio.run(go())


def test_open_requests_are_spread_evenly_and_a_finished_one_makes_room() -> None:
    with Upstream(manners.answer()) as first, Upstream(manners.answer()) as second:

        async def test(engine: UpstreamEngine) -> None:
            opened = [await engine.open(REQUEST, 8) for _ in range(6)]
            assert (len(first.seen), len(second.seen)) == (3, 3)
            before = len(first.seen)
            for response in opened:
                await response.read()
                await response.close()
            assert engine._addresses is not None
            assert [address.in_flight for address in engine._addresses.order()] == [0, 0]
            assert len(first.seen) == before

        run([first.base_url, second.base_url], test)


def test_an_address_without_a_server_costs_no_caller_a_failure_and_rests() -> None:
    with Upstream(manners.answer()) as works:

        async def test(engine: UpstreamEngine) -> None:
            for _ in range(6):
                response = await engine.open(REQUEST, 8)
                await response.read()
                await response.close()
            assert len(works.seen) == 6
            assert engine._addresses is not None
            assert [one.backoff.is_due() for one in engine._addresses.order()] == [True, False]

        run([closed_url(), works.base_url], test)


def test_a_request_that_was_sent_is_not_sent_to_another_address() -> None:
    with Upstream(manners.raw(b"")) as breaks, Upstream(manners.answer()) as works:

        async def test(engine: UpstreamEngine) -> None:
            outcomes = []
            for _ in range(4):
                try:
                    response = await engine.open(REQUEST, 8)
                    await response.close()
                    outcomes.append("ok")
                except ServiceError as error:
                    outcomes.append(error.code)
            assert outcomes.count("upstream_error") == 1
            assert len(breaks.seen) + len(works.seen) == 4

        run([breaks.base_url, works.base_url], test)


def test_without_any_working_address_the_engine_is_unavailable() -> None:
    async def test(engine: UpstreamEngine) -> None:
        for _ in range(2):
            with pytest.raises(EngineUnavailable):
                await engine.open(REQUEST, 8)

    run([closed_url(), closed_url()], test)


def test_an_address_rests_longer_each_time_and_is_asked_first_again_after_a_success() -> None:
    now_s = [0.0]
    pool = AddressPool(["http://a/v1/", "http://b/v1"], lambda: now_s[0])
    bad = next(one for one in pool.order() if one.url == "http://a/v1")
    bad.failed()
    assert [one.url for one in pool.order()] == ["http://b/v1", "http://a/v1"]
    now_s[0] = FIRST_REST_S
    assert bad.backoff.is_due()
    bad.failed()
    assert bad.backoff.retry_at_s > now_s[0] + FIRST_REST_S
    bad.succeeded()
    assert bad.backoff.is_due()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('kind = "upstream"\nbase_url = "http://a/v1"\nbase_urls = ["http://b/v1"]', "not both"),
        ('kind = "upstream"\nbase_urls = ["ftp://b/v1"]', "is not an address"),
        ('kind = "anthropic"\nbase_urls = ["http://b/v1"]', 'only an engine with kind = "upstream"'),
    ],
)
def test_wrong_addresses_are_refused_with_the_reason(lines: str, says: str) -> None:
    with pytest.raises(CatalogError, match=says):
        parse_catalog(f"{catalogs.FAKE}\n[engines.fleet]\n{lines}\n")
