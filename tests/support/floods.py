"""A process that abuses its connections: python -m tests.support.floods PORT

For each line that it reads, the name of a flood, it opens the connections of that flood, keeps them and prints how many
are still open after a moment. An empty name closes all of them. Ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable

from minitoolai.http.serving.server import allow_many_connections

GET = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
MB = 1024 * 1024
Start = Callable[[asyncio.StreamWriter], None]


def pipeline(writer: asyncio.StreamWriter) -> None:
    """Send 8 MB of requests and read no answer."""
    transport = writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    writer.write(GET * (8 * MB // len(GET)))


def endless_headers(writer: asyncio.StreamWriter) -> None:
    """Send 30 MB of headers."""
    writer.write(GET[:-2] + b"x-header: some value of it\r\n" * MB)


def giant_header(writer: asyncio.StreamWriter) -> None:
    """Send one header of 30 MB."""
    writer.write(GET[:-2] + b"x-header: " + b"v" * 30 * MB)


def half_head(writer: asyncio.StreamWriter) -> None:
    """Send half a head."""
    writer.write(GET[:-2] + b"x-header: " + b"v" * 8000)


def half_body(writer: asyncio.StreamWriter) -> None:
    """Send half a form."""
    head = b"POST /en/signin HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-www-form-urlencoded\r\n"
    writer.write(head + b"content-length: 60000\r\n\r\n" + b"email=" + b"x" * 30_000)


def nothing(_: asyncio.StreamWriter) -> None:
    """Send nothing."""


FLOODS: dict[str, tuple[int, Start]] = {
    "pipeline": (20, pipeline),
    "endless headers": (20, endless_headers),
    "giant header": (10, giant_header),
    "half heads": (1000, half_head),
    "half bodies": (500, half_body),
    "idle": (5000, nothing),
}


class Flood:
    """All connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[tuple[asyncio.StreamWriter, asyncio.Task[None]]] = []

    async def start(self, count: int, start: Start) -> int:
        """Open so many connections. Return how many are open a second later."""
        made = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=MB)
            start(writer)
            made.append((writer, asyncio.create_task(read_all(reader))))
        self._open += made
        await asyncio.sleep(1)
        return _count_open(made)

    def open_count(self) -> int:
        """How many connections the server has not ended."""
        return _count_open(self._open)

    def end(self) -> None:
        """Close all of them at once."""
        for writer, _ in self._open:
            writer.transport.abort()
        self._open.clear()


def _count_open(connections: list[tuple[asyncio.StreamWriter, asyncio.Task[None]]]) -> int:
    return sum(not (reading.done() or writer.is_closing()) for writer, reading in connections)


async def read_all(reader: asyncio.StreamReader) -> None:
    """Read until the server closes its side."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass


async def main() -> None:
    """Obey until there are no more lines."""
    allow_many_connections()
    flood = Flood(int(sys.argv[1]))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name = json.loads(line)
        if name == "":
            flood.end()
        count = await flood.start(*FLOODS[name]) if name in FLOODS else flood.open_count()
        print(count, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
