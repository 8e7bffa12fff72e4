"""Pieces of a stream written straight to the server's socket: to the byte what the server itself would write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.api.asgi import Send
from minitoolai.api.streaming import EVENT_STREAM, StreamWriter


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: Any) -> None:
        self.data += data

    def is_closing(self) -> bool:
        return False


class Cycle:
    """One request at uvicorn, on a wire of our own."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.flow = FlowControl(self.wire)
        log = logging.getLogger("nobody")
        self.cycle = RequestResponseCycle(
            scope={"type": "http", "method": "POST"},  # type: ignore[typeddict-item]
            transport=self.wire,
            flow=self.flow,
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=lambda: None,
        )

    async def asgi(self, message: Any) -> None:
        """The same, behind something that is not uvicorn."""
        await self.cycle.send(message)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def stream(send: Send, pieces: list[bytes]) -> None:
    out = StreamWriter(send, EVENT_STREAM)
    for piece in pieces:
        slow = out.write_soon(piece)
        if slow is not None:
            await slow
    await out.write(b"end", is_last=True)


@pytest.mark.parametrize("size", [1, 15, 16, 255, 4096, 8191, 8192, 70_000])
def test_what_is_written_directly_is_what_the_server_would_write(size: int) -> None:
    async def work() -> None:
        direct, slow_way = Cycle(), Cycle()
        pieces = [b"first", b"x" * size, b"\r\n" * size]
        await stream(direct.cycle.send, pieces)  # type: ignore[arg-type]
        await stream(slow_way.asgi, pieces)
        assert direct.wire.data == slow_way.wire.data
        assert direct.cycle.response_complete

    run(work())


def test_a_caller_who_reads_slowly_is_waited_for_and_the_order_is_kept() -> None:
    async def work() -> None:
        cycle = Cycle()
        out = StreamWriter(cycle.cycle.send, EVENT_STREAM)  # type: ignore[arg-type]
        assert out.write_soon(b"one") is None
        cycle.flow.pause_writing()
        slow = out.write_soon(b"two")
        assert slow is not None
        assert b"two" not in cycle.wire.data
        waiting = asyncio.ensure_future(slow)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        cycle.flow.resume_writing()
        await waiting
        assert out.write_soon(b"three") is None
        body = cycle.wire.data.partition(b"\r\n\r\n")[2]
        assert body == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n"

    run(work())


def test_nothing_is_written_to_a_caller_who_has_left() -> None:
    async def work() -> None:
        cycle = Cycle()
        out = StreamWriter(cycle.cycle.send, EVENT_STREAM)  # type: ignore[arg-type]
        out.write_soon(b"one")
        before = cycle.wire.data
        cycle.cycle.disconnected = True
        assert out.write_soon(b"two") is None
        assert cycle.wire.data == before

    run(work())
