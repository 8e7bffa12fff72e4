"""The HTTP client of the engines, against a server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from minitoolai.engines.http import Broken, HttpAnswer, HttpClient, Silent, Unreachable, encode_head, parse_target

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Script = Callable[["Peer", bytes], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Peer:
    """One connection of the scripted server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


class Server:
    def __init__(self) -> None:
        self.opened = 0
        self.closed_at: list[float] = []
        self.heads: list[bytes] = []
        self.scripts: dict[str, Script] = {}
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                await self.scripts[head.split(b" ")[1].decode()](Peer(reader, writer), body)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed_at.append(time.perf_counter())
            writer.close()


@asynccontextmanager
async def serving(**scripts: Script) -> AsyncIterator[tuple[Server, HttpClient]]:
    server = Server()
    server.scripts = {f"/{name}": script for name, script in scripts.items()}
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    client = HttpClient(connect_s=0.3)
    try:
        yield server, client
    finally:
        await client.close()
        listener.close()
        await asyncio.sleep(0.01)


async def post(client: HttpClient, url: str, body: bytes = b"{}", silence_s: float = 5.0) -> HttpAnswer:
    return await client.request("POST", url, headers={"x-a": "b"}, body=body, silence_s=silence_s)


async def plain(peer: Peer, body: bytes) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


async def until_left(peer: Peer, _: bytes) -> None:
    """Streams until the client is gone."""
    await peer.write(STREAM)
    left = asyncio.ensure_future(peer.reader.read(1))
    while not left.done():
        peer.writer.write(chunk(b"data: {}\n\n"))
        await asyncio.sleep(0.002)
    left.exception()  # read, so that asyncio does not complain of a pipe that broke under our write
    raise ConnectionError


async def headless(peer: Peer, _: bytes) -> None:
    await peer.reader.read(1)
    raise ConnectionError


async def silent_after_one(peer: Peer, _: bytes) -> None:
    await peer.write(STREAM + chunk(b"data: 1\n\n"))
    await peer.reader.read(1)
    raise ConnectionError


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On both event loops: they differ in what a closed transport forgives."""
    for runner in (asyncio.run, uvloop.run):
        runner(asyncio.wait_for(main(), 20))


def test_a_connection_whose_answer_was_read_serves_the_next_request() -> None:
    async def main() -> None:
        async with serving(plain=plain) as (server, client):
            for _ in range(20):
                answer = await post(client, f"{server.url}/plain", b"hello")
                assert (answer.status, await answer.read()) == (200, b"hello")
                answer.close()
            assert server.opened == 1
            assert b"\r\nx-a: b\r\n" in server.heads[0]

    run(main)


def test_the_bytes_of_a_stream_come_as_they_were_sent() -> None:
    async def bounds(peer: Peer, _: bytes) -> None:
        for piece in (STREAM, chunk(b"data: a"), chunk(b"bc\n\nda"), chunk(b"ta: d\n\n")):
            await peer.write(piece)
            await asyncio.sleep(0.01)
        await peer.write(chunk(b"x: 1\n\n") + chunk(b"y: 2\n\n") + b"0\r\n\r\n")

    async def main() -> None:
        async with serving(bounds=bounds) as (server, client):
            answer = await post(client, f"{server.url}/bounds")
            pieces = []
            while piece := await answer.next_bytes():
                pieces.append(piece)
            assert pieces == [b"data: a", b"bc\n\nda", b"ta: d\n\n", b"x: 1\n\ny: 2\n\n"]
            assert await answer.next_bytes() == b""

    run(main)


def test_status_headers_and_body_of_a_refusal_can_be_read() -> None:
    async def busy(peer: Peer, _: bytes) -> None:
        await peer.write(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nX: 1\r\nx: 2\r\nContent-Length: 4\r\n\r\nbusy")

    async def main() -> None:
        async with serving(busy=busy) as (server, client):
            answer = await post(client, f"{server.url}/busy")
            assert (answer.status, answer.headers["retry-after"], answer.headers["x"]) == (429, "7", "1, 2")
            assert await answer.read(100) == b"busy"

    run(main)


def test_a_provisional_answer_is_passed_over() -> None:
    async def hints(peer: Peer, body: bytes) -> None:
        await peer.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        await plain(peer, body)

    async def main() -> None:
        async with serving(hints=hints) as (server, client):
            for _ in range(2):
                answer = await post(client, f"{server.url}/hints", b"ok")
                assert (answer.status, await answer.read(), "link" in answer.headers) == (200, b"ok", False)
            assert server.opened == 1

    run(main)


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async def close(peer: Peer, _: bytes) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        raise ConnectionError

    async def main() -> None:
        async with serving(close=close) as (server, client):
            answer = await post(client, f"{server.url}/close")
            assert await answer.read() == b"all of it"

    run(main)


@pytest.mark.parametrize("path", ["headless", "until_left"])
def test_the_upstream_sees_a_cancel_within_100_ms(path: str) -> None:
    async def main() -> None:
        async with serving(headless=headless, until_left=until_left) as (server, client):
            task = asyncio.create_task(_read_all(client, f"{server.url}/{path}"))
            await asyncio.sleep(0.05)
            began = time.perf_counter()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.1)
            assert server.closed_at
            assert server.closed_at[0] - began < 0.1

    run(main)


async def _read_all(client: HttpClient, url: str) -> None:
    answer = await post(client, url)
    try:
        await answer.read()
    finally:
        answer.close()


def test_a_thousand_cancelled_streams_leave_nothing_behind() -> None:
    async def main() -> None:
        async with serving(until_left=until_left) as (server, client):
            for _ in range(20):
                tasks = [asyncio.create_task(_read_all(client, f"{server.url}/until_left")) for _ in range(50)]
                await asyncio.sleep(0.02)
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(end, asyncio.CancelledError) for end in ends)
            await asyncio.sleep(0.1)
            assert server.opened == len(server.closed_at) == 1000
            assert not client._all
            assert not any(client._idle.values())
            assert len(asyncio.all_tasks()) == 1 + 1  # this one and wait_for's caller

    run(main)


@pytest.mark.parametrize("path", ["headless", "silent_after_one"])
def test_silence_ends_the_answer_and_the_connection(path: str) -> None:
    async def main() -> None:
        async with serving(headless=headless, silent_after_one=silent_after_one) as (server, client):
            with pytest.raises(Silent):
                await (await post(client, f"{server.url}/{path}", silence_s=0.1)).read()
            await asyncio.sleep(0.05)
            assert server.closed_at

    run(main)


def test_silence_ends_an_answer_without_a_length_as_an_error_too() -> None:
    async def lull(peer: Peer, _: bytes) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await headless(peer, b"")

    async def main() -> None:
        async with serving(lull=lull) as (server, client):
            answer = await post(client, f"{server.url}/lull", silence_s=0.1)
            assert await answer.next_bytes() == b"half"
            with pytest.raises(Silent):
                await answer.next_bytes()

    run(main)


def _breaks() -> dict[str, Script]:
    async def cut(peer: Peer, _: bytes) -> None:
        await peer.write(STREAM + chunk(b"data: 1\n\n"))
        raise ConnectionError

    async def reset(peer: Peer, _: bytes) -> None:
        await peer.write(STREAM + chunk(b"data: 1\n\n"))
        await asyncio.sleep(0.02)
        peer.reset()
        raise ConnectionError

    async def hang_up(peer: Peer, _: bytes) -> None:
        raise ConnectionError

    async def rubbish(peer: Peer, _: bytes) -> None:
        await peer.write(b"\x00\x01rubbish\r\n\r\n")

    async def huge_head(peer: Peer, _: bytes) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\n" + b"x: %s\r\n" % (b"y" * 70_000))

    async def packed(peer: Peer, _: bytes) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nzz")

    async def two(peer: Peer, _: bytes) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb")

    every = (cut, reset, hang_up, rubbish, huge_head, packed, two)
    return {script.__name__: script for script in every}


@pytest.mark.parametrize("path", [name for name in _breaks() if name != "two"])
def test_what_is_not_a_whole_answer_is_broken(path: str) -> None:
    async def main() -> None:
        async with serving(**_breaks()) as (server, client):
            with pytest.raises(Broken):
                await (await post(client, f"{server.url}/{path}")).read()
            await asyncio.sleep(0.01)
            assert not client._all

    run(main)


def test_a_second_answer_nobody_asked_for_never_reaches_the_next_request() -> None:
    async def main() -> None:
        async with serving(**_breaks(), plain=plain) as (server, client):
            answer = await post(client, f"{server.url}/two")
            assert await answer.next_bytes() == b"a"
            answer = await post(client, f"{server.url}/plain", b"mine")
            assert await answer.read() == b"mine"
            assert server.opened == 2

    run(main)


def test_a_connection_closed_while_idle_is_not_used_again() -> None:
    async def once(peer: Peer, body: bytes) -> None:
        await plain(peer, body)
        raise ConnectionError

    async def main() -> None:
        async with serving(once=once) as (server, client):
            for _ in range(3):
                assert await (await post(client, f"{server.url}/once", b"x")).read() == b"x"
                await asyncio.sleep(0.02)
            assert server.opened == 3

    run(main)


def test_a_slow_reader_holds_the_server_back_and_loses_nothing() -> None:
    total = 20_000_000
    sent = 0

    async def flood(peer: Peer, _: bytes) -> None:
        nonlocal sent
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        for _number in range(total // 100_000):
            await peer.write(b"z" * 100_000)
            sent += 100_000

    async def main() -> None:
        nonlocal sent
        sent = 0
        async with serving(flood=flood, plain=plain) as (server, client):
            answer = await post(client, f"{server.url}/flood", silence_s=0.2)
            await asyncio.sleep(0.5)
            assert sent < total
            assert len(await answer.read()) == total
            assert await (await post(client, f"{server.url}/plain", b"next")).read() == b"next"
            assert server.opened == 1

    run(main)


def test_nothing_listening_is_unreachable() -> None:
    async def main() -> None:
        client = HttpClient(connect_s=0.3)
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            for url in (f"http://127.0.0.1:{bound.getsockname()[1]}/", "http://no-such-host.invalid/"):
                with pytest.raises(Unreachable):
                    await post(client, url)

    run(main)


def test_a_connection_that_is_not_made_in_time_is_unreachable() -> None:
    async def main() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fill = [socket.socket() for _ in range(4)]
            for each in fill:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            with pytest.raises(Unreachable, match=r"in 0\.3 s"):
                await post(HttpClient(connect_s=0.3), f"http://127.0.0.1:{full.getsockname()[1]}/")
            for each in fill:
                each.close()

    run(main)


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nx: y", "a\r", "a\0"])
def test_a_header_cannot_smuggle_another(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        encode_head("POST", parse_target("http://x/"), {"authorization": value}, 0)


@pytest.mark.parametrize("url", ["ftp://x/", "http:///x", "x", "http://x/a b", "http://x:99999/"])
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - urllib words one of them
        parse_target(url)


def test_a_url_is_taken_apart() -> None:
    assert parse_target("https://u:p@[::1]:8443/v1?a=b") == (True, "::1", 8443, "[::1]:8443", "/v1?a=b")
    assert parse_target("http://x") == (False, "x", 80, "x", "/")
