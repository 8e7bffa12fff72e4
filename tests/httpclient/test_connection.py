"""Reads that are one whole chunk are taken without the parser: the body is the same however the bytes are cut."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from minitoolai.httpclient.connection import LARGEST_READ, HttpConnection

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
WORDS = [b"data: a\n\n", b"x", b"0\r\n\r\n", b"e4\r\n", b"\r\n" * 3, bytes(range(256)) * 3, b"y" * 5000]


class Idle(asyncio.Transport):
    """A transport to nowhere."""

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


def test_the_body_of_one_chunk_is_found_at_every_size() -> None:
    bodies = [b"\r\n" * (size // 2) + b"z" * (size % 2) for size in range(1, LARGEST_READ - 8)]
    for upper in (False, True):
        _, short, _ = heard([HEAD + chunk(b"first"), *(chunk(body, upper=upper) for body in bodies)], with_sink=True)
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
        chunk(b"w" * LARGEST_READ),
    ],
)
def test_whatever_else_a_read_may_be_is_left_to_the_parser(read: bytes) -> None:
    assert heard([HEAD + chunk(b"first"), read], with_sink=True)[1] == []


def heard(reads: list[bytes], *, with_sink: bool) -> tuple[bytes, list[bytes], bool]:
    """What a connection makes of these reads: the body, what of it came the short way, whether it ended well."""

    async def listen() -> tuple[bytes, list[bytes], bool]:
        connection = HttpConnection(lambda _: None, lambda _: None)
        connection.connection_made(Idle())
        connection.send(b"", b"", is_head=False, silence_s=9)
        got: list[bytes] = []
        short: list[bytes] = []

        def came() -> None:
            while data := connection.take() if connection.error is None else None:
                got.append(data)

        def flows(data: bytes) -> None:
            got.append(data)
            short.append(data)

        connection.listener, connection.sink = came, flows if with_sink else None
        for read in reads:
            connection.data_received(read)
        return b"".join(got), short, connection.ended and connection.error is None

    return asyncio.run(listen())


def test_an_answer_cut_at_random_is_the_same_with_and_without_the_short_way() -> None:
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
        body, short, ended = heard(reads, with_sink=True)
        assert body == b"".join(words)
        assert ended
        assert heard(reads, with_sink=False) == (body, [], True)
        taken += len(short)
    assert taken > 500


@pytest.mark.parametrize("rubbish", [b"zz\r\n", b"\r\n\r\n", b"5\r\nabc\r\n\r\n9", b"3\r\nabcXX"])
def test_rubbish_between_chunks_breaks_the_answer_by_either_way(rubbish: bytes) -> None:
    for with_sink in (False, True):
        _, _, ended = heard([HEAD + chunk(b"one"), chunk(b"two"), rubbish, b"0\r\n\r\n"], with_sink=with_sink)
        assert not ended


def test_a_head_that_says_one_name_again_and_again_is_measured_whole() -> None:
    head = HEAD[:-2] + b"x-again: and again\r\n" * 5000 + b"\r\n"
    _, _, ended = heard([head + chunk(b"one") + b"0\r\n\r\n"], with_sink=False)
    assert not ended
