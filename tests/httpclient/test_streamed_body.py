"""Request bodies that are sent block by block: complete, in constant memory, and given up when the server answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from minitoolai.httpclient.client import ConnectionBroken, HttpClient, StreamedBody
from tests.httpclient.test_client import OK, Peer, Script, Server, serving, using

BLOCK = b"z" * 65_536


class Blocks:
    """Yields blocks, and counts them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent = 0

    def body(self) -> StreamedBody:
        return StreamedBody(self.number * len(BLOCK), self._blocks())

    async def _blocks(self) -> AsyncIterator[bytes]:
        for _ in range(self.number):
            self.sent += 1
            yield BLOCK


def running(script: Script, scene: Callable[[Server, HttpClient], Awaitable[None]]) -> None:
    """Run a scene with a server that follows the script."""

    async def both() -> None:
        async with serving(script) as server, using() as client:
            await scene(server, client)

    asyncio.run(both())


def test_a_body_arrives_whole() -> None:
    async def script(peer: Peer) -> None:
        assert await peer.receive() == BLOCK * 50
        await peer.send(OK)
        await peer.until_closed()

    async def scene(server: Server, client: HttpClient) -> None:
        response = await client.request("POST", server.url, stream=Blocks(50).body())
        assert (response.status, await response.read()) == (200, b"ok")

    running(script, scene)


def test_a_server_that_reads_slowly_is_not_sent_more_than_the_buffers_hold() -> None:
    async def script(peer: Peer) -> None:
        await asyncio.sleep(0.5)
        await peer.receive()
        await peer.send(OK)
        await peer.until_closed()

    async def scene(server: Server, client: HttpClient) -> None:
        blocks = Blocks(400)
        request = asyncio.ensure_future(client.request("POST", server.url, stream=blocks.body()))
        await asyncio.sleep(0.3)
        assert blocks.sent < 300
        response = await request
        assert blocks.sent == 400
        await response.read()

    running(script, scene)


def test_an_early_answer_ends_the_body_and_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.sleep(0.5)

    async def scene(server: Server, client: HttpClient) -> None:
        blocks = Blocks(4_000)
        response = await client.request("POST", server.url, stream=blocks.body())
        assert (response.status, await response.read()) == (413, b"no")
        assert blocks.sent < 4_000
        second = await client.request("POST", server.url, stream=Blocks(1).body())
        assert second.status == 413
        assert server.opened == 2
        await second.read()

    running(script, scene)


def test_a_server_that_closes_is_an_error() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.reset()

    async def scene(server: Server, client: HttpClient) -> None:
        with pytest.raises(ConnectionBroken):
            await client.request("POST", server.url, stream=Blocks(4_000).body())

    running(script, scene)
