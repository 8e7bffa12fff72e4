"""A fast client for load tests: keep-alive over raw sockets, one awaited read per chunk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

API = "/api/chat-completions/"
OPENAI = "/v1/chat/completions"


@dataclass
class Seen:
    """The response. `done` is True once it is complete, with `[DONE]` if it is a stream."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    done: bool = False
    left: bool = False
    first_byte_s: float = 0.0
    #: Until the first text, in OpenAI's or Anthropic's format.
    first_token_s: float = 0.0
    total_s: float = 0.0

    @property
    def name(self) -> str:
        return self.headers.get("x-generation-id", "")

    @property
    def tokens(self) -> int:
        """Return the number of chunks with content."""
        return self.body.count(b'"content":"') - self.body.count(b'"content":""')

    @property
    def usage(self) -> dict[str, Any] | None:
        """Return the usage that the caller received."""
        if self.body.startswith(b"{"):
            return json.loads(self.body).get("usage")  # type: ignore[no-any-return]
        for line in reversed(self.body.split(b"\n")):
            if line.startswith(b"data: {") and b'"usage":{' in line:
                return json.loads(line[6:])["usage"]  # type: ignore[no-any-return]
        return None


def has_text(part: bytes) -> bool:
    """Return True if these events have text that the model generated."""
    return b"text_delta" in part or part.count(b'"content":"') > part.count(b'"content":""')


class Caller:
    """Send requests one after the other on one connection; reconnect if it is gone."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: dict[str, Any], *, path: str = API, leave_after: int | None = None) -> Seen:
        """Return the response, or the part before the server died. Disconnect after `leave_after` chunks."""
        raw, seen, started_s = json.dumps(body).encode(), Seen(), time.perf_counter()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
            if leave_after == 0:
                await asyncio.sleep(0.002)
                seen.left = True
            else:
                await self._read(reader, seen, leave_after, started_s)
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
        if seen.left:
            await self.close()
        seen.total_s = time.perf_counter() - started_s
        return seen

    async def _read(self, reader: asyncio.StreamReader, seen: Seen, leave_after: int | None, started_s: float) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        seen.status = int(head[0].split(" ")[1])
        seen.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if "content-length" in seen.headers:
            seen.body = await reader.readexactly(int(seen.headers["content-length"]))
            seen.done = True
            return
        parts: list[bytes] = []
        try:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                parts.append((await reader.readexactly(size + 2))[:-2])
                seen.first_byte_s = seen.first_byte_s or time.perf_counter() - started_s
                if not seen.first_token_s and has_text(parts[-1]):
                    seen.first_token_s = time.perf_counter() - started_s
                if len(parts) == leave_after:
                    seen.left = True
                    return
            await reader.readexactly(2)
        finally:
            seen.body = b"".join(parts)
            seen.done = seen.body.endswith(b"data: [DONE]\n\n")

    async def close(self) -> None:
        """Disconnect."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()
            with contextlib.suppress(OSError):
                await streams[1].wait_closed()


async def many(
    callers: list[Caller], bodies: list[tuple[dict[str, Any], int | None]], *, path: str = API
) -> list[Seen]:
    """Send everything as fast as these callers can; each body with its `leave_after`."""
    left, seen = list(reversed(bodies)), []

    async def work(caller: Caller) -> None:
        while left:
            body, leave_after = left.pop()
            seen.append(await caller.ask(body, path=path, leave_after=leave_after))

    await asyncio.gather(*(work(caller) for caller in callers))
    for caller in callers:
        await caller.close()
    return seen
