"""A request that is over leaves nothing for Python's garbage collector, which would stop everybody to find it."""

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
from tests.http.test_uvicorn_fast_path import Cycle
from tests.support import catalogs
from tests.support.server import Account, ServerProcess


@pytest.mark.parametrize("path", ["/api/chat-completions/", "/healthz"])
def test_what_a_request_was_is_gone_as_it_ends(tmp_path: Path, path: str) -> None:
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
def test_an_answer_that_was_paid_for_is_gone_with_all_that_hung_on_it(tmp_path: Path, path: str, stream: bool) -> None:
    house = ServerProcess(tmp_path, catalog=catalogs.FAKE)
    account = house.account()
    server = Server(build(Settings(data_dir=house.data_dir, catalog=house.env["MINITOOLAI_CATALOG"])))
    asked = {"input": "Hello"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "Hello"}]}
    body = {"model": "quick", "stream": stream, **asked}

    async def ask_three_times() -> list[Any]:
        async with running(server):
            # A task each, as at the server: what it knows by context goes with it.
            asked = [await asyncio.create_task(ask(server, account, path, body)) for _ in range(3)]
            # The watch for a caller who leaves was called off, and ends in a turn of its own.
            for _ in range(1000):
                if all(one() is None for one in asked):
                    break
                await asyncio.sleep(0.01)
            return [one() for one in asked]

    # On the loop that serves: asyncio's own keeps a timer that was called off, and its context, for a while.
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
    """From its start to its stop, as uvicorn would have it."""
    said: asyncio.Queue[Any] = asyncio.Queue()
    heard: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.ensure_future(server({"type": "lifespan"}, said.get, heard.put))
    await said.put({"type": "lifespan.startup"})
    assert await heard.get() == {"type": "lifespan.startup.complete"}
    yield
    await said.put({"type": "lifespan.shutdown"})
    await life


@contextmanager
def no_collector() -> Iterator[None]:
    """What is in a ring stays; what is in none is gone as soon as nobody knows it."""
    usual = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)
        gc.enable()
