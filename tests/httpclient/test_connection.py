"""Tests of one HTTP connection: the fast path for single-chunk reads gives the same body as the parser."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from minitoolai.httpclient.connection import MAX_FAST_READ, HttpConnection

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
WORDS = [b"data: a\n\n", b"x", b"0\r\n\r\n", b"e4\r\n", b"\r\n" * 3, bytes(range(256)) * 3, b"y" * 5000]


class NullTransport(asyncio.Transport):
    """A transport that discards its output."""

    def write(self, data: object) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        return None

    def is_closing(self) -> bool:
        return False


def chunk(body: bytes, *, upper: bool = False, extension: bytes = b"") -> bytes:
    size = b"%X" % len(body) if upper else b"%x" % len(body)
    return size + extension + b"\r\n" + body + b"\r\n"


def test_a_single_chunk_read_of_every_size_takes_the_fast_path() -> None:
    bodies = [b"\r\n" * (size // 2) + b"z" * (size % 2) for size in range(1, MAX_FAST_READ - 8)]
    for upper in (False, True):
        _, short, _ = receive([HEAD + chunk(b"first"), *(chunk(body, upper=upper) for body in bodies)], fast=True)
        assert short == bodies


@pytest.mark.parametrize(
    "read",
    [
        b"",
        b"0\r\n\r\n",
        chunk(b"ab") + chunk(b"cd"),
        chunk(b"ab", extension=b";x=1"),
        b"0" + chunk(b"ab"),
        b"+" + chunk(b"ab"),
        chunk(b"abc")[:-1],
        chunk(b"abc")[:-2] + b"xx",
        chunk(b"abc") + b"0\r\n\r\n",
        chunk(b"w" * MAX_FAST_READ),
    ],
)
def test_any_other_read_goes_through_the_parser(read: bytes) -> None:
    assert receive([HEAD + chunk(b"first"), read], fast=True)[1] == []


def receive(reads: list[bytes], *, fast: bool) -> tuple[bytes, list[bytes], bool]:
    """Feed reads to a connection; return the body, the parts that took the fast path, and whether it succeeded."""

    async def feed() -> tuple[bytes, list[bytes], bool]:
        connection = HttpConnection(lambda _: None, lambda _: None)
        connection.connection_made(NullTransport())
        connection.send(b"", b"", is_head=False, read_timeout_s=9)
        got: list[bytes] = []
        short: list[bytes] = []

        def on_readable() -> None:
            while data := connection.read_nowait() if connection.error is None else None:
                got.append(data)

        def on_chunk(data: bytes) -> None:
            got.append(data)
            short.append(data)

        connection.on_readable, connection.on_chunk = on_readable, on_chunk if fast else None
        for read in reads:
            connection.data_received(read)
        return b"".join(got), short, connection.ended and connection.error is None

    return asyncio.run(feed())


def test_a_response_split_at_random_is_the_same_with_and_without_the_fast_path() -> None:
    dice = random.Random(1)
    taken = 0
    for _ in range(400):
        words = [dice.choice(WORDS) for _ in range(dice.randrange(1, 12))]
        frames = [HEAD]
        for word in words:
            frames.append(chunk(word, upper=dice.random() < 0.5, extension=dice.choice([b"", b"", b"", b";q=1"])))
        frames.append(b"0\r\n\r\n")
        reads = frames
        if dice.random() < 0.7:
            whole = b"".join(frames)
            cuts = sorted(dice.choices(range(len(whole) + 1), k=dice.randrange(12)))
            cuts += [sum(map(len, frames[:at])) for at in range(1, len(frames)) if dice.random() < 0.7]
            ends = sorted({0, *cuts, len(whole)})
            reads = [whole[a:b] for a, b in itertools.pairwise(ends)]
        body, short, ended = receive(reads, fast=True)
        assert body == b"".join(words)
        assert ended
        assert receive(reads, fast=False) == (body, [], True)
        taken += len(short)
    assert taken > 500


@pytest.mark.parametrize("garbage", [b"zz\r\n", b"\r\n\r\n", b"5\r\nabc\r\n\r\n9", b"3\r\nabcXX"])
def test_garbage_between_chunks_breaks_the_response_on_both_paths(garbage: bytes) -> None:
    for fast in (False, True):
        _, _, ended = receive([HEAD + chunk(b"one"), chunk(b"two"), garbage, b"0\r\n\r\n"], fast=fast)
        assert not ended


def test_repeated_headers_count_towards_the_header_limit() -> None:
    head = HEAD[:-2] + b"x-again: and again\r\n" * 5000 + b"\r\n"
    _, _, ended = receive([head + chunk(b"one") + b"0\r\n\r\n"], fast=False)
    assert not ended
