"""Direct writes to the connection: byte for byte what uvicorn itself would write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.http.asgi import JSON, Send, respond
from minitoolai.http.serving.fast_path import disconnect_watcher
from minitoolai.http.streaming import EVENT_STREAM, StreamWriter

HTTP: dict[str, Any] = {
    "type": "http", "http_version": "1.1", "method": "POST", "path": "/", "query_string": b"", "headers": [],
}  # fmt: skip


class Wire(asyncio.Transport):
    """Collects what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.pieces = 0

    def write(self, data: Any) -> None:
        self.data += data
        self.pieces += 1

    def close(self) -> None:
        """Nothing to let go of."""

    def is_closing(self) -> bool:
        return False


class Cycle:
    """One uvicorn request on a recorded transport."""

    def __init__(self, **scope: Any) -> None:
        self.wire = Wire()
        self.ended = 0
        self.flow = FlowControl(self.wire)
        log = logging.getLogger("nobody")
        self.cycle = RequestResponseCycle(
            scope=HTTP | scope,  # type: ignore[arg-type]
            transport=self.wire,
            flow=self.flow,
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=self._end,
        )

    def _end(self) -> None:
        self.ended += 1

    async def asgi(self, message: Any) -> None:
        """The same, behind something that is not uvicorn."""
        await self.cycle.send(message)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def stream(send: Send, pieces: list[bytes]) -> None:
    out = StreamWriter(send, EVENT_STREAM)
    for piece in pieces:
        slow = out.queue_write(piece)
        if slow is not None:
            await slow
    await out.write(b"end", is_last=True)


@pytest.mark.parametrize("size", [1, 15, 16, 255, 4096, 8191, 8192, 70_000])
def test_a_directly_written_stream_has_the_same_bytes_as_uvicorns(size: int) -> None:
    async def work() -> None:
        direct, slow_way = Cycle(), Cycle()
        pieces = [b"first", b"x" * size, b"\r\n" * size]
        await stream(direct.cycle.send, pieces)  # type: ignore[arg-type]
        await stream(slow_way.asgi, pieces)
        assert direct.wire.data == slow_way.wire.data
        assert direct.cycle.response_complete

    run(work())


def test_a_slow_client_is_waited_for_and_the_order_is_kept() -> None:
    async def work() -> None:
        cycle = Cycle()
        out = StreamWriter(cycle.cycle.send, EVENT_STREAM)  # type: ignore[arg-type]
        assert out.queue_write(b"one") is None
        cycle.flow.pause_writing()
        slow = out.queue_write(b"two")
        assert slow is not None
        assert b"two" not in cycle.wire.data
        waiting = asyncio.ensure_future(slow)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        cycle.flow.resume_writing()
        await waiting
        assert out.queue_write(b"three") is None
        body = cycle.wire.data.partition(b"\r\n\r\n")[2]
        assert body == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n"

    run(work())


def test_nothing_is_written_to_a_disconnected_client() -> None:
    async def work() -> None:
        cycle = Cycle()
        out = StreamWriter(cycle.cycle.send, EVENT_STREAM)  # type: ignore[arg-type]
        out.queue_write(b"one")
        before = cycle.wire.data
        cycle.cycle.disconnected = True
        assert out.queue_write(b"two") is None
        assert cycle.wire.data == before

    run(work())


@pytest.mark.parametrize("body", [b"", b'{"a":1}', b"x" * 100_000])
def test_a_complete_response_has_the_same_bytes_as_uvicorns(body: bytes) -> None:
    async def work() -> None:
        direct, slow_way = Cycle(), Cycle()
        for one in (direct, slow_way):
            one.cycle.default_headers = [(b"date", b"today"), (b"x-request-id", b"r-1")]
        await respond(direct.cycle.send, 200, body, [JSON])
        await respond(slow_way.asgi, 200, body, [JSON])
        assert direct.wire.data == slow_way.wire.data
        assert direct.wire.pieces == 1
        assert slow_way.wire.pieces == 2
        assert direct.cycle.response_complete
        assert direct.ended == slow_way.ended == 1

    run(work())


@pytest.mark.parametrize("unusual", ["to be closed", "logged", "HEAD", "left"])
def test_unusual_connections_are_left_to_uvicorn(unusual: str) -> None:
    async def work() -> None:
        direct, slow_way = Cycle(), Cycle()
        for one in (direct, slow_way):
            one.cycle.keep_alive = unusual != "to be closed"
            one.cycle.access_log = unusual == "logged"
            one.cycle.disconnected = unusual == "left"
            one.cycle.scope["method"] = "HEAD" if unusual == "HEAD" else "POST"
        await respond(direct.cycle.send, 404, b"gone", [JSON])
        await respond(slow_way.asgi, 404, b"gone", [JSON])
        assert direct.wire.data == slow_way.wire.data
        assert direct.wire.pieces == slow_way.wire.pieces

    run(work())


def test_a_header_with_a_line_break_is_refused_and_nothing_is_written() -> None:
    async def work() -> None:
        direct = Cycle()
        with pytest.raises(RuntimeError, match="header value"):
            await respond(direct.cycle.send, 200, b"", [(b"x-name", b"a\r\nset-cookie: b=c")])
        assert direct.wire.data == b""

    run(work())


def _lose(cycle: RequestResponseCycle) -> None:
    """What a connection does when its client has gone."""
    cycle.disconnected = True
    cycle.message_event.set()


def test_a_watcher_is_called_once_when_the_client_disconnects() -> None:
    async def work() -> None:
        told: list[None] = []
        cycle = Cycle().cycle
        cycle.more_body = False
        watcher = disconnect_watcher(cycle.receive, lambda: told.append(None))  # type: ignore[arg-type]
        assert watcher is not None
        # The server sets the event at the end of a response, too.
        cycle.message_event.set()
        assert told == []
        _lose(cycle)
        _lose(cycle)
        assert told == [None]
        assert await cycle.receive() == {"type": "http.disconnect"}

    run(work())


def test_a_cancelled_watcher_leaves_the_request_as_it_was() -> None:
    async def work() -> None:
        told: list[None] = []
        cycle = Cycle().cycle
        cycle.more_body, event = False, cycle.message_event
        watcher = disconnect_watcher(cycle.receive, lambda: told.append(None))  # type: ignore[arg-type]
        assert watcher is not None
        watcher.cancel()
        assert cycle.message_event is event
        _lose(cycle)
        assert told == []

    run(work())


def test_a_client_that_has_gone_already_is_reported_after_this_turn() -> None:
    async def work() -> None:
        told: list[None] = []
        cycle = Cycle().cycle
        cycle.more_body = False
        _lose(cycle)
        disconnect_watcher(cycle.receive, lambda: told.append(None))  # type: ignore[arg-type]
        assert told == []
        await asyncio.sleep(0)
        assert told == [None]

    run(work())


def test_only_uvicorns_own_receive_with_a_whole_body_is_watched() -> None:
    async def work() -> None:
        cycle = Cycle().cycle

        async def receive() -> Any:
            return await cycle.receive()

        assert disconnect_watcher(cycle.receive, lambda: None) is None  # type: ignore[arg-type]
        cycle.more_body = False
        assert disconnect_watcher(receive, lambda: None) is None

    run(work())
