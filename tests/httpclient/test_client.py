"""The HTTP client for engines, against real servers on loopback: one claim per test."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from minitoolai.httpclient.client import ConnectError, ConnectionBroken, HttpClient, HttpError, ReadTimeout
from minitoolai.httpclient.dial import _first_of

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.head = b""

    async def take(self) -> bytes:
        self.head = await self.reader.readuntil(b"\r\n\r\n")
        length = self.head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return await self.reader.readexactly(int(length or 0))

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_closed(self) -> None:
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        option = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self.writer.transport.abort()


class Server:
    def __init__(self, script: Script) -> None:
        self.script, self.opened, self.tasks = script, 0, set[asyncio.Task[Any]]()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self.script(Peer(reader, writer))
        finally:
            self.tasks.discard(task)
            writer.close()


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> Any:
    server = Server(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        listener.close()
        for task in list(server.tasks):
            task.cancel()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def using(**options: Any) -> Any:
    client = HttpClient(**options)
    try:
        yield client
    finally:
        await client.close()


def always(*parts: bytes) -> Script:
    """Answers every request with these bytes, and lives on."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.take()
            for part in parts:
                await peer.say(part)

    return script


def once(*parts: bytes, then: Callable[[Peer], None] | None = None) -> Script:
    """Answers once, then closes, or does what it is told."""

    async def script(peer: Peer) -> None:
        await peer.take()
        for part in parts:
            await peer.say(part)
        await asyncio.sleep(0.02)
        if then:
            then(peer)

    return script


async def fetch(script: Script, method: str = "POST", **options: Any) -> tuple[int, bytes]:
    async with serving(script) as server, using() as client:
        answer = await client.request(method, server.url, **options)
        return answer.status, await answer.read()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_a_chunked_answer_that_comes_byte_by_byte_is_whole() -> None:
    text = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nt: 1\r\n\r\n"
    parts = [text[at : at + 1] for at in range(len(text))]
    assert asyncio.run(fetch(always(*parts))) == (200, b"helloabc")


@pytest.mark.parametrize("at", range(1, len(CHUNKED) + 18))
def test_an_answer_cut_anywhere_is_whole(at: int) -> None:
    text = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
    assert asyncio.run(fetch(always(text[:at], text[at:]))) == (200, b"hello")


@pytest.mark.parametrize(
    ("method", "text", "body"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 No\r\ncontent-length: 9\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        ("GET", b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        ("GET", b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    ],
)
def test_every_way_to_end_a_body_is_known(method: str, text: bytes, body: bytes) -> None:
    assert asyncio.run(fetch(once(text), method))[1] == body


def test_twenty_requests_in_a_row_use_one_connection() -> None:
    async def test() -> None:
        async with serving(always(OK)) as server, using() as client:
            for _ in range(20):
                assert await (await client.request("POST", server.url, body=b"{}")).read() == b"ok"
            assert server.opened == 1

    run(test())


@pytest.mark.parametrize("extra", [b"rubbish", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"H"])
def test_what_follows_an_answer_is_nobodys_answer(extra: bytes) -> None:
    async def test() -> None:
        async with serving(once(OK + extra)) as server, using() as client:
            for _ in range(3):
                assert await (await client.request("GET", server.url)).read() == b"ok"
            assert server.opened == 3

    run(test())


def test_an_idle_connection_is_closed_in_time() -> None:
    async def test() -> None:
        async with serving(always(OK)) as server, using(idle_s=0.4) as client:
            await (await client.request("GET", server.url)).read()
            await asyncio.sleep(0.8)
            assert not server.tasks
            await (await client.request("GET", server.url)).read()
            assert server.opened == 2

    run(test())


def test_a_post_on_a_connection_that_dies_is_not_sent_twice_and_a_get_is() -> None:
    async def test() -> None:
        seen = []

        async def script(peer: Peer) -> None:
            await peer.take()
            await peer.say(OK)
            await peer.take()
            seen.append(peer.head[:4])

        async with serving(script) as server, using() as client:
            await (await client.request("POST", server.url)).read()
            with pytest.raises(ConnectionBroken) as caught:
                await client.request("POST", server.url)
            assert caught.value.sent
            await (await client.request("GET", server.url)).read()
            assert await (await client.request("GET", server.url)).read() == b"ok"
            assert seen == [b"POST", b"GET "]

    run(test())


def test_a_close_in_mid_body_is_seen_at_once() -> None:
    async def test() -> None:
        closed = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.take()
            await peer.say(CHUNKED + b"1\r\na\r\n")
            await peer.until_closed()
            closed.set()

        async with serving(script) as server, using() as client:
            answer = await client.request("POST", server.url)
            assert await answer.next_bytes() == b"a"
            answer.close()
            answer.close()
            await asyncio.wait_for(closed.wait(), 0.1)
            with pytest.raises(ConnectionBroken):
                await answer.next_bytes()

    run(test())


def test_a_cancel_before_the_head_is_seen_at_once() -> None:
    async def test() -> None:
        begun, closed = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.take()
            begun.set()
            await peer.until_closed()
            closed.set()

        async with serving(script) as server, using() as client:
            task = asyncio.create_task(client.request("POST", server.url))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(closed.wait(), 0.1)

    run(test())


def test_an_answer_whose_reader_was_cancelled_can_be_read_on() -> None:
    async def test() -> None:
        cancelled = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.take()
            await peer.say(CHUNKED + b"1\r\na\r\n")
            await cancelled.wait()
            await peer.say(b"1\r\nb\r\n0\r\n\r\n")
            await peer.until_closed()

        async with serving(script) as server, using() as client:
            answer = await client.request("POST", server.url)
            assert await answer.next_bytes() == b"a"
            reader = asyncio.create_task(answer.next_bytes())
            await asyncio.sleep(0.01)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            cancelled.set()
            assert await answer.read() == b"b"

    run(test())


def test_a_thousand_cancelled_streams_leave_nothing_behind() -> None:
    async def test() -> None:
        async def script(peer: Peer) -> None:
            await peer.take()
            await peer.say(CHUNKED + b"1\r\na\r\n")
            await peer.until_closed()

        async def read(client: HttpClient, url: str) -> None:
            answer = await client.request("POST", url)
            try:
                while await answer.next_bytes():
                    pass
            finally:
                answer.close()

        async with serving(script) as server, using() as client:
            sockets, running = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
            for step in range(20):
                tasks = [asyncio.create_task(read(client, server.url)) for _ in range(50)]
                await asyncio.sleep(0.002 * step)
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(end, asyncio.CancelledError) for end in ends)
            await asyncio.sleep(0.3)
            assert len(os.listdir("/proc/self/fd")) <= sockets
            assert len(asyncio.all_tasks()) <= running

    run(test())


def test_a_refused_connection_sent_nothing() -> None:
    async def test() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            async with using() as client:
                with pytest.raises(ConnectError) as caught:
                    await client.request("POST", f"http://127.0.0.1:{bound.getsockname()[1]}")
                assert not caught.value.sent

    run(test())


def test_a_server_that_accepts_nobody_is_unreachable_in_time() -> None:
    async def test() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fill = [socket.socket() for _ in range(4)]
            for each in fill:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            began = time.monotonic()
            async with using(connect_timeout_s=0.2) as client:
                with pytest.raises(ConnectError):
                    await client.request("POST", f"http://127.0.0.1:{full.getsockname()[1]}")
            assert time.monotonic() - began < 3
            for each in fill:
                each.close()

    run(test())


@pytest.mark.parametrize("start", [b"", CHUNKED + b"1\r\na\r\n"])
def test_silence_ends_an_answer(start: bytes) -> None:
    async def test() -> None:
        async def script(peer: Peer) -> None:
            await peer.take()
            await peer.say(start)
            await peer.until_closed()

        async with serving(script) as server, using() as client:
            began = time.monotonic()
            with pytest.raises(ReadTimeout):
                await (await client.request("POST", server.url, silence_s=0.2)).read()
            assert 0.2 <= time.monotonic() - began < 5

    run(test())


@pytest.mark.parametrize(
    "script",
    [
        once(CHUNKED + b"1\r\na\r\n", then=Peer.reset),
        once(CHUNKED + b"1\r\na\r\n"),
        once(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"),
        once(),
        once(b"\x00\x01 rubbish\r\n\r\n"),
        once(CHUNKED + b"zz\r\n"),
        once(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc"),
        once(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
        once(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\ncontent-length: 0\r\n\r\n"),
        once(b"HTTP/1.1 101 Over\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nabc"),
    ],
)
def test_a_broken_answer_says_so(script: Script) -> None:
    with pytest.raises(ConnectionBroken) as caught:
        asyncio.run(fetch(script))
    assert caught.value.sent


def test_what_came_before_a_break_is_given_first() -> None:
    async def test() -> None:
        async with serving(once(CHUNKED + b"1\r\na\r\n", then=Peer.reset)) as server, using() as client:
            answer = await client.request("POST", server.url)
            await asyncio.sleep(0.1)
            assert await answer.next_bytes() == b"a"
            with pytest.raises(ConnectionBroken):
                await answer.next_bytes()

    run(test())


def test_a_slow_reader_holds_the_server_back() -> None:
    async def test() -> None:
        size = 200 * 1024 * 1024
        block = b"x" * 65536

        async def script(peer: Peer) -> None:
            await peer.take()
            await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            for _ in range(size // len(block)):
                await peer.say(block)

        async with serving(script) as server, using() as client:
            answer = await client.request("GET", server.url, silence_s=0.2)
            await asyncio.sleep(1)
            got = largest = 0
            while data := await answer.next_bytes():
                got += len(data)
                largest = max(largest, len(data))
            assert got == size
            assert largest <= 1024 * 1024

    run(test())


def test_more_than_the_limit_is_refused() -> None:
    with pytest.raises(ConnectionBroken):
        asyncio.run(_read_limited())


async def _read_limited() -> None:
    async with serving(always(OK)) as server, using() as client:
        await (await client.request("GET", server.url)).read(limit=1)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://127.0.0.1/\r\nx: y", {}),
        ("http://127.0.0.1/a b", {}),
        ("ftp://127.0.0.1/", {}),
        ("http://me:secret@127.0.0.1/", {}),
        ("http://127.0.0.1/", {"x": "a\r\nb: c"}),
        ("http://127.0.0.1/", {"x\r\ny": "a"}),
        ("http://127.0.0.1/", {"Content-Length": "3"}),
    ],
)
def test_nothing_can_be_smuggled_into_a_head(url: str, headers: dict[str, str]) -> None:
    async def test() -> None:
        async with using() as client:
            with pytest.raises(ValueError, match=r"."):
                await client.request("POST", url, headers=headers)

    run(test())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    name = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run([*command.split(), *name], check=True, capture_output=True)
    return key, cert


def test_tls_is_spoken_and_a_stranger_is_not_trusted(certificate: tuple[str, str]) -> None:
    async def test() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate[1], certificate[0])
        trusting = ssl.create_default_context(cafile=certificate[1])
        async with serving(always(OK), context) as server:
            async with using(ssl_context=trusting) as client:
                for _ in range(3):
                    assert await (await client.request("POST", server.url)).read() == b"ok"
                assert server.opened == 1
            async with using() as client:
                with pytest.raises(ConnectError):
                    await client.request("POST", server.url)

    run(test())


def test_an_address_that_refuses_gives_way_to_the_next() -> None:
    async def test() -> None:
        listener = await asyncio.start_server(Server(always(OK)).serve, "127.0.0.1", 0)
        where = listener.sockets[0].getsockname()
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
            won = await _first_of([(*kind, bound.getsockname()), (*kind, where), (*kind, where)])
            assert won.getpeername() == where
            won.close()
            with pytest.raises(ConnectionRefusedError):
                await _first_of([(*kind, bound.getsockname())] * 2)
        listener.close()
        await asyncio.sleep(0.02)

    run(test())


def test_close_ends_what_is_under_way() -> None:
    async def test() -> None:
        async with serving(once(CHUNKED)) as server, using() as client:
            answer = await client.request("POST", server.url)
            waiting = asyncio.create_task(answer.next_bytes())
            await asyncio.sleep(0)
            await client.close()
            with pytest.raises(HttpError):
                await waiting

    run(test())
