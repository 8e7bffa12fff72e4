"""Exports: the next part is made when the client has taken this one, and none after the client has left."""

from __future__ import annotations

import asyncio
import csv
import io
import threading
from collections.abc import AsyncGenerator, Iterator, MutableMapping
from typing import Any

import pytest

from minitoolai.core.errors import ReportTooLarge
from minitoolai.http.exports import LINES, csv_parts, export_response

SCOPE = {"type": "http", "method": "GET", "asgi": {"spec_version": "2.3"}, "headers": []}


class Client:
    """Takes as many parts as it is told to, then waits, or leaves."""

    def __init__(self, takes: int, *, leaves: bool = False) -> None:
        self.takes, self.leaves = takes, leaves
        self.left = asyncio.Event()
        self.body = b""
        self.is_complete = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] != "http.response.body":
            return
        self.body += message.get("body", b"")
        self.is_complete = not message.get("more_body", False)
        self.takes -= 1
        if self.takes == 0:
            if self.leaves:
                self.left.set()
            await asyncio.Event().wait()

    async def receive(self) -> MutableMapping[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}


class Numbers:
    """Parts 0, 1, 2, …, which count how many were made."""

    def __init__(self, most: int, fails_at: int = -1) -> None:
        self.most, self.fails_at, self.made, self.is_closed = most, fails_at, 0, False

    async def parts(self) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(self.most):
                if number == self.fails_at:
                    raise ReportTooLarge("This report takes too long.")
                self.made += 1
                yield b"%d\n" % number
        finally:
            self.is_closed = True


async def deliver(numbers: Numbers, client: Client, *, within_s: float = 5) -> None:
    response = await export_response(numbers.parts(), {}, "text/csv", is_head=False)
    await asyncio.wait_for(response(SCOPE, client.receive, client.send), within_s)


def test_a_client_that_reads_everything_gets_everything() -> None:
    async def run() -> None:
        numbers, client = Numbers(50), Client(-1)
        await deliver(numbers, client)
        assert client.body == b"".join(b"%d\n" % number for number in range(50))
        assert client.is_complete
        assert numbers.is_closed

    asyncio.run(run())


def test_no_part_is_made_ahead_of_a_slow_client() -> None:
    async def run() -> None:
        numbers, client = Numbers(50), Client(3)
        with pytest.raises(TimeoutError):
            await deliver(numbers, client, within_s=0.3)
        assert numbers.made == 3

    asyncio.run(run())


def test_a_client_that_leaves_ends_the_work() -> None:
    async def run() -> None:
        numbers, client = Numbers(50), Client(3, leaves=True)
        await deliver(numbers, client)
        assert numbers.made == 3
        assert not client.is_complete

    asyncio.run(run())


def test_an_error_before_the_first_part_is_an_error_and_a_later_one_breaks_the_response_off() -> None:
    async def run() -> None:
        with pytest.raises(ReportTooLarge):
            await deliver(Numbers(5, fails_at=0), Client(-1))
        client = Client(-1)
        with pytest.raises(BaseException, match=r"takes too long|unhandled errors"):
            await deliver(Numbers(5, fails_at=2), client)
        assert client.body == b"0\n1\n"
        assert not client.is_complete

    asyncio.run(run())


def test_a_head_request_makes_no_part() -> None:
    async def run() -> None:
        numbers = Numbers(5)
        response = await export_response(numbers.parts(), {"x-name": "value"}, "text/csv", is_head=True)
        assert (response.status_code, response.body, numbers.made) == (200, b"", 0)
        assert response.headers["x-name"] == "value"

    asyncio.run(run())


@pytest.mark.parametrize("rows", [0, 1, LINES - 1, LINES, LINES + 1, 3 * LINES])
def test_csv_in_parts_is_the_csv_of_one_piece_and_is_made_off_the_loop(rows: int) -> None:
    columns, makers = ["name", "a, b"], set()

    def lines() -> Iterator[list[object]]:
        for number in range(rows):
            makers.add(threading.current_thread().name)
            yield [f'a "quoted", name\nand {number}', number]

    async def run() -> bytes:
        return b"".join([part async for part in csv_parts(columns, lines())])

    whole = io.StringIO()
    csv.writer(whole).writerows([columns, *([f'a "quoted", name\nand {n}', n] for n in range(rows))])
    assert asyncio.run(run()) == whole.getvalue().encode()
    assert all(name.startswith("exports") for name in makers)
