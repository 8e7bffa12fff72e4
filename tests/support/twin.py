"""A process that answers every request at once: python -m tests.support.twin 0

It prints its port. What its clients wait for is the machine alone: the baseline for a server beside it.
"""

from __future__ import annotations

import asyncio
import sys

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve() -> None:
    """Serve until there are no more lines."""
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]))
    print(server.sockets[0].getsockname()[1], flush=True)
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, lambda: None if sys.stdin.readline() else over.set())
    await over.wait()


if __name__ == "__main__":
    asyncio.run(serve())
