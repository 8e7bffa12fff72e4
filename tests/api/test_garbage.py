"""Check that requests leave no reference cycles, because a garbage collection blocks the event loop."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.app import Server
from minitoolai.bootstrap import build
from minitoolai.settings import Settings
from tests.http.serving.test_fast_path import Cycle
from tests.support import catalogs
from tests.support.server import Account, ServerProcess


@pytest.mark.parametrize("path", ["/api/chat-completions/", "/healthz"])
def test_a_request_leaves_no_reference_cycle(tmp_path: Path, path: str) -> None:
    server = Server(build(Settings(data_dir=tmp_path)))

    async def ask() -> weakref.ref[RequestResponseCycle]:
        one = Cycle(method="GET", path=path)
        await one.cycle.run_asgi(server)  # type: ignore[arg-type]
        assert one.wire.data.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 405 ")), one.wire.data
        return weakref.ref(one.cycle)

    with no_collector():
        assert asyncio.run(ask())() is None


@pytest.mark.parametrize("path", ["/api/chat-completions/", "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_charged_response_leaves_no_reference_cycle(tmp_path: Path, path: str, stream: bool) -> None:
    house = ServerProcess(tmp_path, catalog=catalogs.FAKE)
    account = house.account()
    server = Server(build(Settings(data_dir=house.data_dir, catalog=house.env["MINITOOLAI_CATALOG"])))
    asked = {"input": "Hello"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "Hello"}]}
    body = {"model": "quick", "stream": stream, **asked}

    async def ask_three_times() -> list[Any]:
        async with running(server):
            # Run each in its own task as uvicorn does, so that its context variables are freed with it.
            asked = [await asyncio.create_task(ask(server, account, path, body)) for _ in range(3)]
            # The cancelled task that watches for a disconnect ends in a later turn of the event loop.
            for _ in range(1000):
                if all(one() is None for one in asked):
                    break
                await asyncio.sleep(0.01)
            return [one() for one in asked]

    # Use uvloop as the server does: asyncio's own loop keeps cancelled timers, and their contexts, for a while.
    with no_collector(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask_three_times()) == [None] * 3


async def ask(server: Server, account: Account, path: str, body: dict[str, Any]) -> weakref.ref[RequestResponseCycle]:
    headers = [(name.encode(), value.encode()) for name, value in account.headers.items()]
    one = Cycle(path=path, headers=[*headers, (b"content-type", b"application/json")])
    one.cycle.body += json.dumps(body).encode()
    one.cycle.more_body = False
    one.cycle.message_event.set()
    await one.cycle.run_asgi(server)  # type: ignore[arg-type]
    assert one.wire.data.startswith(b"HTTP/1.1 200 "), one.wire.data
    return weakref.ref(one.cycle)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[None]:
    """Run the lifespan of the app around the block, as uvicorn does."""
    received: asyncio.Queue[Any] = asyncio.Queue()
    sent: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.ensure_future(server({"type": "lifespan"}, received.get, sent.put))
    await received.put({"type": "lifespan.startup"})
    assert await sent.get() == {"type": "lifespan.startup.complete"}
    yield
    await received.put({"type": "lifespan.shutdown"})
    await life


@contextmanager
def no_collector() -> Iterator[None]:
    """Disable the garbage collector, so that objects in reference cycles stay."""
    usual, was_frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        # What pytest froze stays frozen: each later collection would search it in vain.
        if not was_frozen:
            gc.unfreeze()
        gc.set_threshold(*usual)
        gc.enable()
