"""A stand-in upstream over raw sockets: behaves as instructed, even badly, and records what it receives.

`upstream.behave` is a coroutine function of an Exchange; tests/support/manners.py has the ready ones.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from functools import cached_property
from types import TracebackType
from typing import Any

STREAM_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Exchange:
    """One request and the means to respond to it."""

    def __init__(self, connection: _Connection, path: str, headers: dict[str, str], raw: bytes) -> None:
        self._connection = connection
        self.path = path
        self.headers = headers
        self.raw = raw
        #: Set when the other side is gone, whoever cut the connection.
        self.gone = connection.gone
        #: Events written before the other side left.
        self.events_sent = 0

    @cached_property
    def body(self) -> dict[str, Any]:
        """The decoded body of a JSON request."""
        decoded: dict[str, Any] = json.loads(self.raw or b"{}")
        return decoded

    def send(self, data: bytes) -> None:
        """Write raw bytes; nothing if the other side has disconnected."""
        if not self._connection.transport.is_closing():
            self._connection.transport.write(data)

    def answer(self, status: int, body: bytes | dict[str, Any], **headers: str) -> None:
        """Send a complete response; header names are written with _ for -."""
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        named = {"content-type": "application/json", "content-length": str(len(raw))}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        self.send(f"HTTP/1.1 {status} As Told\r\n{head}\r\n".encode() + raw)

    def begin(self, content_type: str = "text/event-stream") -> None:
        """Send the head of a stream."""
        self.send(STREAM_HEAD.replace("text/event-stream", content_type).encode())

    def write(self, data: bytes) -> None:
        """Send one chunk of a stream."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, data: dict[str, Any] | str, *, newline: str = "\n", spaced: bool = False) -> None:
        """Send one server-sent event; compact like most servers, or with spaces like Python."""
        marks = (", ", ": ") if spaced else (",", ":")
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=marks)
        self.write(f"data: {text}{newline}{newline}".encode())
        self.events_sent += 1

    def end(self) -> None:
        """Send the regular end of a stream."""
        self.send(b"0\r\n\r\n")

    def close(self) -> None:
        """Close the connection (FIN)."""
        self._connection.transport.close()

    def reset(self) -> None:
        """Reset the connection (RST), once everything is sent."""
        transport = self._connection.transport
        if transport.is_closing():
            # The other side was first.
            return
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def hang(self) -> None:
        """Send nothing until the other side disconnects."""
        await self.gone.wait()


Behaviour = Callable[[Exchange], Awaitable[None]]


class _Connection(asyncio.Protocol):
    """Read requests, one after the other."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self.gone = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._upstream.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._upstream.connections.discard(self)
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        exchange = Exchange(self, lines[0].split(" ")[1], headers, rest[:length])
        if self._upstream.records:
            self._upstream.seen.append(exchange)
        task = asyncio.ensure_future(self._upstream.behave(exchange))
        self._upstream.tasks.add(task)
        task.add_done_callback(self._upstream.over)


class Upstream:
    """The server, on an event loop in a separate thread."""

    def __init__(self, behave: Behaviour, *, records: bool = True) -> None:
        """`records`: keep every exchange in `seen`. Off for tests that run for hours."""
        self.behave = behave
        self.records = records
        self.seen: list[Exchange] = []
        self.connections: set[_Connection] = set()
        self.tasks: set[asyncio.Future[None]] = set()
        #: What went wrong in the stand-in itself; looked at when it ends.
        self.faults: list[BaseException] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def last(self) -> Exchange:
        return self.seen[-1]

    def over(self, task: asyncio.Future[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self.faults.append(fault)

    def __enter__(self) -> Upstream:
        ready = threading.Event()
        self._loop.call_soon(lambda: asyncio.ensure_future(self._listen(ready)))
        self._thread.start()
        assert ready.wait(10)
        return self

    async def _listen(self, ready: threading.Event) -> None:
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        ready.set()

    def _run(self) -> None:
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(10)
        assert not self.faults, self.faults

    def hang_up(self) -> None:
        """Close the port and every connection, as a server that died; further connections are refused."""
        self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self._server.close()
        for connection in self.connections:
            connection.transport.abort()

    def _stop(self) -> None:
        self._close()
        self._loop.stop()
