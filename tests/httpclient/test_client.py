"""Tests of the pooled HTTP client against real servers on loopback."""

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

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.head = b""

    async def receive(self) -> bytes:
        self.head = await self.reader.readuntil(b"\r\n\r\n")
        length = self.head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return await self.reader.readexactly(int(length or 0))

    async def send(self, data: bytes) -> None:
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
    """Respond to every request with these bytes and keep the connection open."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.receive()
            for part in parts:
                await peer.send(part)

    return script


def once(*parts: bytes, then: Callable[[Peer], None] | None = None) -> Script:
    """Respond once, then call `then` or close."""

    async def script(peer: Peer) -> None:
        await peer.receive()
        for part in parts:
            await peer.send(part)
        await asyncio.sleep(0.02)
        if then:
            then(peer)

    return script


async def fetch(script: Script, method: str = "POST", **options: Any) -> tuple[int, bytes]:
    async with serving(script) as server, using() as client:
        response = await client.request(method, server.url, **options)
        return response.status, await response.read()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_a_chunked_response_received_byte_by_byte_is_complete() -> None:
    text = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nt: 1\r\n\r\n"
    parts = [text[at : at + 1] for at in range(len(text))]
    assert asyncio.run(fetch(always(*parts))) == (200, b"helloabc")


@pytest.mark.parametrize("at", range(1, len(CHUNKED) + 18))
def test_a_response_split_at_any_byte_is_complete(at: int) -> None:
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
def test_every_way_to_end_a_body_is_supported(method: str, text: bytes, body: bytes) -> None:
    assert asyncio.run(fetch(once(text), method))[1] == body


def test_twenty_requests_in_a_row_use_one_connection() -> None:
    async def test() -> None:
        async with serving(always(OK)) as server, using() as client:
            for _ in range(20):
                assert await (await client.request("POST", server.url, body=b"{}")).read() == b"ok"
            assert server.opened == 1

    run(test())


@pytest.mark.parametrize("extra", [b"rubbish", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"H"])
def test_unsolicited_bytes_after_a_response_are_discarded(extra: bytes) -> None:
    async def test() -> None:
        async with serving(once(OK + extra)) as server, using() as client:
            for _ in range(3):
                assert await (await client.request("GET", server.url)).read() == b"ok"
            assert server.opened == 3

    run(test())


@pytest.mark.parametrize("answer", [OK, CHUNKED + b"2\r\nok\r\n0\r\n\r\n"])
@pytest.mark.parametrize("stray", [b"\r\n", b"x", b"data: late\n\n", OK, b"2\r\nno\r\n"])
def test_bytes_that_come_while_a_connection_idles_close_it(answer: bytes, stray: bytes) -> None:
    closed: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.receive()
        await peer.send(answer)
        await asyncio.sleep(0.03)
        await peer.send(stray)
        await peer.until_closed()
        closed.append(1)

    async def test() -> None:
        async with serving(script) as server, using() as client:
            for number in range(1, 4):
                assert await (await client.request("POST", server.url)).read() == b"ok"
                await asyncio.sleep(0.08)
                assert (server.opened, len(closed)) == (number, number)

    run(test())


def test_an_idle_connection_is_closed_after_its_timeout() -> None:
    async def test() -> None:
        async with serving(always(OK)) as server, using(idle_s=0.4) as client:
            await (await client.request("GET", server.url)).read()
            await asyncio.sleep(0.8)
            assert not server.tasks
            await (await client.request("GET", server.url)).read()
            assert server.opened == 2

    run(test())


def test_a_post_on_a_closed_connection_is_not_repeated_but_a_get_is() -> None:
    async def test() -> None:
        seen = []

        async def script(peer: Peer) -> None:
            await peer.receive()
            await peer.send(OK)
            await peer.receive()
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


def test_the_server_sees_a_close_in_mid_body_immediately() -> None:
    async def test() -> None:
        closed = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.receive()
            await peer.send(CHUNKED + b"1\r\na\r\n")
            await peer.until_closed()
            closed.set()

        async with serving(script) as server, using() as client:
            response = await client.request("POST", server.url)
            assert await response.next_bytes() == b"a"
            response.close()
            response.close()
            await asyncio.wait_for(closed.wait(), 0.1)
            with pytest.raises(ConnectionBroken):
                await response.next_bytes()

    run(test())


def test_the_server_sees_a_cancellation_before_the_head_immediately() -> None:
    async def test() -> None:
        begun, closed = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.receive()
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


def test_a_response_stays_readable_after_its_reader_was_cancelled() -> None:
    async def test() -> None:
        cancelled = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.receive()
            await peer.send(CHUNKED + b"1\r\na\r\n")
            await cancelled.wait()
            await peer.send(b"1\r\nb\r\n0\r\n\r\n")
            await peer.until_closed()

        async with serving(script) as server, using() as client:
            response = await client.request("POST", server.url)
            assert await response.next_bytes() == b"a"
            reader = asyncio.create_task(response.next_bytes())
            await asyncio.sleep(0.01)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            cancelled.set()
            assert await response.read() == b"b"

    run(test())


def test_a_thousand_cancelled_streams_leak_no_socket_and_no_task() -> None:
    async def test() -> None:
        async def script(peer: Peer) -> None:
            await peer.receive()
            await peer.send(CHUNKED + b"1\r\na\r\n")
            await peer.until_closed()

        async def read(client: HttpClient, url: str) -> None:
            response = await client.request("POST", url)
            try:
                while await response.next_bytes():
                    pass
            finally:
                response.close()

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


def test_connecting_to_a_full_backlog_times_out() -> None:
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
def test_silence_raises_read_timeout(start: bytes) -> None:
    async def test() -> None:
        async def script(peer: Peer) -> None:
            await peer.receive()
            await peer.send(start)
            await peer.until_closed()

        async with serving(script) as server, using() as client:
            began = time.monotonic()
            with pytest.raises(ReadTimeout):
                await (await client.request("POST", server.url, read_timeout_s=0.2)).read()
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
def test_a_broken_response_raises_connection_broken(script: Script) -> None:
    with pytest.raises(ConnectionBroken) as caught:
        asyncio.run(fetch(script))
    assert caught.value.sent


def test_bytes_received_before_a_failure_are_returned_first() -> None:
    async def test() -> None:
        async with serving(once(CHUNKED + b"1\r\na\r\n", then=Peer.reset)) as server, using() as client:
            response = await client.request("POST", server.url)
            await asyncio.sleep(0.1)
            assert await response.next_bytes() == b"a"
            with pytest.raises(ConnectionBroken):
                await response.next_bytes()

    run(test())


def test_a_slow_reader_applies_back_pressure() -> None:
    async def test() -> None:
        size = 200 * 1024 * 1024
        block = b"x" * 65536

        async def script(peer: Peer) -> None:
            await peer.receive()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            for _ in range(size // len(block)):
                await peer.send(block)

        async with serving(script) as server, using() as client:
            response = await client.request("GET", server.url, read_timeout_s=0.2)
            await asyncio.sleep(1)
            got = largest = 0
            while data := await response.next_bytes():
                got += len(data)
                largest = max(largest, len(data))
            assert got == size
            assert largest <= 1024 * 1024

    run(test())


def test_a_body_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(ConnectionBroken):
        asyncio.run(_read_limited())


async def _read_limited() -> None:
    async with serving(always(OK)) as server, using() as client:
        await (await client.request("GET", server.url)).read(limit=1)


def test_a_repeatable_post_is_sent_again_on_a_closed_connection() -> None:
    async def test() -> None:
        async with serving(once(OK)) as server, using() as client:
            assert await (await client.request("POST", server.url)).read() == b"ok"
            # The server closes now; its close may reach the client only with the next request.
            connection = client._idle[next(iter(client._idle))][0]
            connection._poll = None
            response = await client.request("POST", server.url, may_repeat=True)
            assert await response.read() == b"ok"
            assert server.opened == 2

    run(test())


def test_a_closed_client_refuses_requests() -> None:
    async def test() -> None:
        async with using() as client:
            await client.close()
            with pytest.raises(RuntimeError, match="closed"):
                await client.request("GET", "http://127.0.0.1:9/")

    run(test())


def test_callbacks_report_every_byte_and_the_end() -> None:
    async def test() -> None:
        script = always(CHUNKED + b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n")
        async with serving(script) as server, using() as client:
            response = await client.request("GET", server.url)
            received, done = bytearray(), asyncio.Event()

            def on_readable() -> None:
                while (data := response.read_nowait()) is not None:
                    if not data:
                        done.set()
                        return
                    received.extend(data)

            response.set_callbacks(on_readable, received.extend)
            on_readable()
            await asyncio.wait_for(done.wait(), 5)
            assert bytes(received) == b"ab"

    run(test())


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
def test_request_smuggling_is_refused(url: str, headers: dict[str, str]) -> None:
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


def test_tls_works_and_an_untrusted_certificate_is_refused(certificate: tuple[str, str]) -> None:
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


def test_closing_the_client_fails_responses_in_flight() -> None:
    async def test() -> None:
        async with serving(once(CHUNKED)) as server, using() as client:
            response = await client.request("POST", server.url)
            waiting = asyncio.create_task(response.next_bytes())
            await asyncio.sleep(0)
            await client.close()
            with pytest.raises(HttpError):
                await waiting

    run(test())
