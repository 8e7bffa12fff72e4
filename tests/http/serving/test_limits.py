"""What a client may do to its connection: heads, pipelined requests, time, and reading nothing."""

from __future__ import annotations

import asyncio
import json
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from minitoolai.http.asgi import JSON, Receive, Scope, Send, respond
from minitoolai.http.serving.connections import Connections
from minitoolai.http.serving.lingering import MOST_DISCARDED
from minitoolai.http.serving.protocol import (
    BODY_TIMEOUT_S,
    HEAD_TIMEOUT_S,
    KEEP_ALIVE_S,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PENDING,
    WRITE_TIMEOUT_S,
    LimitedProtocol,
)

GET = b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n"
KB = 1024


class RemoteProtocol(LimitedProtocol):
    """A connection from the internet. Those from this machine are not limited by address."""

    def _address(self) -> str:
        return "8.8.8.8"


class Edge:
    """A port with our protocol, and an app that records its requests."""

    def __init__(self, connections: Connections, protocol: type[LimitedProtocol]) -> None:
        self.connections = connections
        self._protocol = protocol
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.left = 0
        self.open_requests = 0
        #: Requests to /wait are answered once this is set.
        self.go = asyncio.Event()
        self.protocols: list[LimitedProtocol] = []
        self.port = 0

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.open_requests += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self.open_requests -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.paths.append(path)
        if path == "/refuse":
            await respond(send, 413, b"{}", [JSON])
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)
        if path == "/wait":
            leaving = asyncio.ensure_future(receive())
            going = asyncio.ensure_future(self.go.wait())
            await asyncio.wait({leaving, going}, return_when=asyncio.FIRST_COMPLETED)
            going.cancel()
            if leaving.done():
                self.left += 1
                return
            leaving.cancel()
        await respond(send, 200, b'{"size":%d}' % len(body) + b" " * (30_000 if path == "/long" else 0), [JSON])

    def protocol(self) -> LimitedProtocol:
        config = uvicorn.Config(
            self.app, interface="asgi3", ws="none", lifespan="off", log_config=None, proxy_headers=False
        )
        config.load()
        made = self._protocol(self.connections, config=config, server_state=ServerState(), app_state={})
        self.protocols.append(made)
        return made

    async def pass_time(self, seconds: int) -> None:
        """Let so many ticks pass."""
        for _ in range(seconds):
            await self.connections.tick()
        await asyncio.sleep(0.02)


class Client:
    """One connection to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def send_all(self, data: bytes) -> None:
        """Send, and give the server time to read it."""
        self.writer.write(data)
        await self.writer.drain()
        await asyncio.sleep(0.02)

    async def reply(self) -> tuple[int, Any]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        length = next(int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:"))
        return int(head[9:12]), json.loads(await self.reader.readexactly(length))

    async def status(self) -> int:
        return (await self.reply())[0]

    async def is_closed(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(1), 0.2) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


Connect = Callable[[], Awaitable[Client]]


@asynccontextmanager
async def serving(
    connections: Connections | None = None, protocol: type[LimitedProtocol] = LimitedProtocol
) -> AsyncIterator[tuple[Edge, Connect]]:
    edge = Edge(Connections() if connections is None else connections, protocol)
    server = await asyncio.get_running_loop().create_server(edge.protocol, "127.0.0.1", 0)
    edge.port = server.sockets[0].getsockname()[1]
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_connection("127.0.0.1", edge.port)))
        await asyncio.sleep(0.01)
        return clients[-1]

    try:
        yield edge, connect
    finally:
        for client in clients:
            client.writer.transport.abort()
        server.close()
        edge.go.set()
        await asyncio.sleep(0.05)
        assert edge.open_requests == 0
        assert len(edge.connections) == 0


def run(work: Coroutine[Any, Any, None]) -> None:
    uvloop.run(work)


def chunks(data: bytes, *sizes: int) -> list[bytes]:
    found, at = [], 0
    for size in sizes:
        found.append(data[at : at + size])
        at += size
    return [*found, data[at:]]


def head_of(size: int, line: bytes = b"GET /a HTTP/1.1") -> bytes:
    """A head of exactly so many bytes, in headers of about 8 kB."""
    data = line + b"\r\nhost: a\r\n"
    while size - len(data) - 2 > 16_000:
        data += b"x-%06d: %b\r\n" % (len(data), b"v" * 8000)
    rest = size - len(data) - 2 - len(b"x: \r\n")
    return data + b"x: " + b"v" * rest + b"\r\n\r\n"


# ── heads ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sizes", [(), (1,), (20, 20), (MAX_HEAD_BYTES - 2,), (MAX_HEAD_BYTES // 2,), (40_000, 20_000)])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_head_may_have_64_kb_however_it_is_cut(excess: int, sizes: tuple[int, ...]) -> None:
    async def work() -> None:
        async with serving() as (_, connect):
            client = await connect()
            for number in range(2):
                for piece in chunks(head_of(MAX_HEAD_BYTES + excess), *sizes):
                    await client.send_all(piece)
                status, body = await client.reply()
                assert status == (431 if excess else 200)
                if excess:
                    assert number == 0
                    assert body["error"]["code"] == "head_too_large"
                    assert "64 kB" in body["error"]["message"]
                    client.writer.close()
                    return

    run(work())


def test_the_bytes_before_a_head_do_not_count() -> None:
    async def work() -> None:
        async with serving() as (_, connect):
            client = await connect()
            post = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n"
            large = head_of(MAX_HEAD_BYTES)
            await client.send_all(post + b"x" * 30_000)
            await client.send_all(b"\r\n\r\n" * 7500 + large[:30_000])
            assert await client.status() == 200
            await client.send_all(large[30_000:50_000])
            await client.send_all(large[50_000:] + GET * 10 + large[:5])
            assert [await client.status() for _ in range(11)] == [200] * 11
            await client.send_all(large[5:-2])
            await client.send_all(large[-2:])
            assert await client.status() == 200

    run(work())


@pytest.mark.parametrize("unit", [b"x-a: b\r\n", b"v", b"a:\r\n", b"\r\n "])
def test_endless_heads_are_refused_at_once_and_take_no_memory(unit: bytes) -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            client.send(b"GET /a HTTP/1.1\r\nhost: a\r\nx: ")
            for _ in range(20):
                client.send(unit * (10_000 // len(unit)))
                await asyncio.sleep(0)
            assert await client.status() in (400, 431)
            assert edge.paths == []
            assert not edge.protocols[0].headers

    run(work())


def test_a_giant_url_is_refused() -> None:
    async def work() -> None:
        async with serving() as (_, connect):
            client = await connect()
            client.send(b"GET /" + b"a" * 200_000)
            assert await client.status() == 431

    run(work())


def test_a_request_may_have_so_many_headers() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            lines = b"".join(b"x-%d: 1\r\n" % number for number in range(MAX_HEADERS - 1))
            await client.send_all(b"GET /a HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n")
            assert await client.status() == 200
            await client.send_all(b"GET /a HTTP/1.1\r\nhost: a\r\n" + lines + b"y: 1\r\n\r\n")
            status, body = await client.reply()
            assert (status, body["error"]["code"]) == (431, "head_too_large")
            assert str(MAX_HEADERS) in body["error"]["message"]
            assert len(edge.paths) == 1

    run(work())


@pytest.mark.parametrize("unit", [b"x-a: b\r\n", b"v" * 1000])
def test_endless_trailers_are_refused(unit: bytes) -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            await client.send_all(
                b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx: "
            )
            for _ in range(20):
                client.send(unit * (10_000 // len(unit)))
                await asyncio.sleep(0.005)
            assert await client.status() == 431
            await asyncio.sleep(0.02)
            assert edge.left == 1
            assert edge.bodies == []

    run(work())


def test_a_refusal_waits_for_the_answers_before_it() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            await client.send_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n" + GET + b"nonsense\r\n\r\n" + GET)
            await edge.pass_time(3)
            edge.go.set()
            assert [await client.status() for _ in range(3)] == [200, 200, 400]
            assert edge.paths == ["/wait", "/a"]
            client.writer.write_eof()
            assert await client.is_closed()

    run(work())


def test_a_connection_that_sends_nothing_takes_little_memory() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            first, second = await connect(), await connect()
            made = edge.protocols
            # The parser and its callbacks take 900 bytes, an empty deque 620.
            assert all(protocol.parser is None and sys.getsizeof(protocol.pipeline) < 100 for protocol in made)
            assert made[0].server is made[1].server
            for client in (first, second):
                await client.send_all(GET)
                assert await client.status() == 200

    run(work())


# ── pipelining ────────────────────────────────────────────────────────────────────────────────────────────


def test_few_pipelined_requests_are_parsed_ahead_and_all_are_answered_in_order() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            first = b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n"
            await client.send_all(first + b"".join(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % n for n in range(3000)))
            assert len(edge.protocols[0].pipeline) <= MAX_PENDING
            edge.go.set()
            for _ in range(3001):
                assert await client.status() == 200
            assert edge.paths == ["/wait", *(f"/{n}" for n in range(3000))]

    run(work())


def test_nothing_is_read_while_requests_wait_or_answers_are_not_read() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            tracemalloc.start()
            request = b"GET /long HTTP/1.1\r\nhost: a\r\n\r\n"
            flood = request * (8 * KB * KB // len(request))
            grown = tracemalloc.get_traced_memory()[0]
            client.send(flood)
            for _ in range(50):
                await asyncio.sleep(0.02)
            # The client's own buffer is in this process.
            unsent = client.writer.transport.get_write_buffer_size()
            kept = tracemalloc.get_traced_memory()[0] - grown - unsent
            tracemalloc.stop()
            assert unsent > 2 * KB * KB
            assert kept < 2 * KB * KB, kept
            assert len(edge.paths) < 1000
            edge.protocols[0].transport.abort()

    run(work())


def test_every_pipelined_request_learns_that_the_client_has_left() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            await client.send_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n" * 3)
            assert edge.open_requests == 1
            edge.protocols[0].transport.abort()
            await asyncio.sleep(0.05)
            assert (edge.open_requests, edge.left) == (0, 1)

    run(work())


def test_bodies_of_pipelined_requests_are_complete() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            bodies = [bytes([65 + number]) * size for number, size in enumerate((0, 1, 70_000, 5, 200_000, 3))]
            for body in bodies:
                client.send(b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            assert [(await client.reply())[1]["size"] for _ in bodies] == [len(body) for body in bodies]
            assert edge.bodies == bodies

    run(work())


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("start", [b"", b"GET /", GET[:-2] + b"x: ", GET + b"GET /b"])
def test_a_head_must_arrive_within_ten_seconds_however_it_drips(start: bytes) -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            await client.send_all(start)
            if GET in start:
                assert await client.status() == 200
            for _ in range(HEAD_TIMEOUT_S // 2):
                await edge.pass_time(2)
                if start:
                    await client.send_all(b"x")
            assert not await client.is_closed()
            await edge.pass_time(1)
            if start:
                assert (await client.reply())[1]["error"]["code"] == "request_timeout"
                client.writer.write_eof()
            assert await client.is_closed()

    run(work())


def test_a_body_may_take_long_but_not_stop() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            await client.send_all(b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n")
            for _ in range(5):
                await edge.pass_time(BODY_TIMEOUT_S)
                await client.send_all(b"x")
            assert edge.open_requests == 1
            await edge.pass_time(BODY_TIMEOUT_S + 1)
            status, body = await client.reply()
            assert (status, body["error"]["code"]) == (408, "request_timeout")
            assert (edge.open_requests, edge.left) == (0, 1)
            client.writer.write_eof()
            assert await client.is_closed()

    run(work())


def test_an_idle_connection_is_closed_after_a_while_and_a_busy_one_never() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            idle, busy = await connect(), await connect()
            await idle.send_all(GET)
            assert await idle.status() == 200
            await busy.send_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\nGET /half")
            await edge.pass_time(KEEP_ALIVE_S)
            assert not await idle.is_closed()
            await edge.pass_time(1)
            assert await idle.is_closed()
            await edge.pass_time(1000)
            edge.go.set()
            assert await busy.status() == 200
            await busy.send_all(b" HTTP/1.1\r\nhost: a\r\n\r\n")
            assert await busy.status() == 200

    run(work())


async def send_endlessly(edge: Edge, client: Client, *, ends_by_time: bool) -> int:
    """Send a body until the server ends the connection. Return how much that was."""
    sent = 0
    try:
        while sent < MOST_DISCARDED * 2:
            client.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await client.writer.drain()
            sent += 65_536
            if ends_by_time:
                await edge.pass_time(1)
    except (ConnectionError, RuntimeError):
        # uvloop raises the latter for a connection that was closed meanwhile.
        return sent
    raise AssertionError("the server read everything")


@pytest.mark.parametrize("framing", [b"content-length: 999999999999", b"transfer-encoding: chunked"])
def test_a_body_that_goes_on_after_a_refusal_is_bounded_in_time_and_bytes(framing: bytes) -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            for ends_by_time in (True, False):
                client = await connect()
                await client.send_all(b"POST /refuse HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n\r\n")
                assert await client.status() == 413
                sent = await send_endlessly(edge, client, ends_by_time=ends_by_time)
                assert (sent < 40 * 65_536) if ends_by_time else (sent > MOST_DISCARDED)

    run(work())


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(b"GET /long HTTP/1.1\r\nhost: a\r\n\r\n" * 3000)
            await asyncio.sleep(0.3)
            assert edge.protocols[0].flow.write_paused
            await edge.pass_time(WRITE_TIMEOUT_S)
            assert len(edge.connections) == 1
            await edge.pass_time(2)
            assert len(edge.connections) == 0

    run(work())


def test_a_server_that_stops_does_not_wait_for_clients_that_it_refused() -> None:
    async def work() -> None:
        async with serving() as (edge, connect):
            client = await connect()
            await client.send_all(b"nonsense\r\n\r\n")
            assert await client.status() == 400
            assert len(edge.connections) == 1
            edge.protocols[0].shutdown()
            await asyncio.sleep(0.02)
            assert len(edge.connections) == 0

    run(work())


# ── connections ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_connection_too_many_is_told_so_and_closed() -> None:
    async def work() -> None:
        async with serving(Connections(2), RemoteProtocol) as (edge, connect):
            first, second, third = await connect(), await connect(), await connect()
            status, body = await third.reply()
            assert (status, body["error"]["code"]) == (429, "too_many_connections")
            assert await third.is_closed()
            await first.send_all(GET)
            await second.send_all(GET)
            assert [await first.status(), await second.status()] == [200, 200]
            first.writer.close()
            await asyncio.sleep(0.05)
            fourth = await connect()
            await fourth.send_all(GET)
            assert await fourth.status() == 200
            assert len(edge.connections) == 2

    run(work())
