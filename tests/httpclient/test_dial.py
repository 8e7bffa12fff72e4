"""Tests of happy eyeballs (RFC 8305): the first address that accepts wins, and no other socket stays open."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from minitoolai.httpclient import dial
from minitoolai.httpclient.dial import Address, Lookups, connect_first, connect_to

IPV4 = (socket.AF_INET, socket.SOCK_STREAM, 0, "")


@asynccontextmanager
async def listening() -> AsyncIterator[Address]:
    """A server on loopback that accepts connections."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    try:
        yield (*IPV4, server.sockets[0].getsockname())
    finally:
        server.close()
        await asyncio.sleep(0.02)


def open_sockets() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_an_address_that_refuses_gives_way_to_the_next() -> None:
    async def test() -> None:
        async with listening() as address:
            with socket.socket() as bound:
                bound.bind(("127.0.0.1", 0))
                refusing: Address = (*IPV4, bound.getsockname())
                winner = await connect_first([refusing, address, address])
                assert winner.getpeername() == address[4]
                winner.close()
                with pytest.raises(ConnectionRefusedError):
                    await connect_first([refusing] * 2)

    asyncio.run(test())


def test_a_host_without_addresses_is_an_error() -> None:
    with pytest.raises(OSError, match="no address"):
        asyncio.run(connect_first([]))


def test_the_next_attempt_starts_after_the_delay_and_the_slow_one_is_abandoned() -> None:
    async def test() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fill = [socket.socket() for _ in range(4)]
            for each in fill:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            async with listening() as address:
                before = open_sockets()
                started_s = time.monotonic()
                winner = await connect_first([(*IPV4, full.getsockname()), address])
                assert time.monotonic() - started_s >= dial.ATTEMPT_DELAY_S
                assert winner.getpeername() == address[4]
                winner.close()
                await asyncio.sleep(0.02)
                assert open_sockets() <= before
            for each in fill:
                each.close()

    asyncio.run(test())


def test_families_alternate_and_keep_the_preferred_order() -> None:
    def address(family: socket.AddressFamily, name: str) -> Address:
        return (family, socket.SOCK_STREAM, 0, "", (name, 443))

    six = [address(socket.AF_INET6, name) for name in ("a", "b", "c")]
    four = [address(socket.AF_INET, name) for name in ("x", "y")]
    assert [found[4][0] for found in dial._interleave([*six, *four])] == ["a", "x", "b", "y", "c"]
    assert [found[4][0] for found in dial._interleave([*four, *six])] == ["x", "a", "y", "b", "c"]


def test_a_cancelled_connect_leaves_no_socket_open() -> None:
    async def test() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fill = [socket.socket() for _ in range(4)]
            for each in fill:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            before = open_sockets()
            task = asyncio.create_task(
                connect_to([(*IPV4, full.getsockname())] * 2, asyncio.Protocol(), "127.0.0.1", None)
            )
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.02)
            assert open_sockets() <= before
            for each in fill:
                each.close()

    asyncio.run(test())


def test_connections_to_one_host_share_a_look_up_which_delays_no_other_host() -> None:
    release, asked = threading.Event(), []

    def slow(host: str, port: int) -> list[Address]:
        asked.append((host, port))
        if host == "hangs.example":
            release.wait(30)
        return [(*IPV4, (host, port))]

    async def test() -> None:
        lookups = Lookups(slow)
        waiting = [asyncio.ensure_future(lookups.resolve("hangs.example", 443)) for _ in range(40)]
        await asyncio.sleep(0.05)
        began_s = time.monotonic()
        assert await asyncio.wait_for(lookups.resolve("127.0.0.1", 80), 5) == [(*IPV4, ("127.0.0.1", 80))]
        assert time.monotonic() - began_s < 1
        # One caller leaves; the others still get their answer.
        waiting[0].cancel()
        release.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == [[(*IPV4, ("hangs.example", 443))]] * 39
        assert asked == [("hangs.example", 443), ("127.0.0.1", 80)]
        # Nothing is remembered: an address may change.
        await lookups.resolve("127.0.0.1", 80)
        assert len(asked) == 3

    asyncio.run(test())


def test_a_name_without_an_address_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r".*"):
        asyncio.run(dial.resolve("nothing.invalid", 80))
    ((_, _, _, _, address),) = asyncio.run(dial.resolve("127.0.0.1", 80))
    assert address == ("127.0.0.1", 80)
