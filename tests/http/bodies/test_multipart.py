"""The multipart parser: the same parts however the bytes arrive, and constant memory."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from minitoolai.core.errors import InvalidRequest, WrongContentType
from minitoolai.http.bodies.multipart import MAX_HEADERS, MultipartParser, PartData, PartHead, boundary_of

BOUNDARY = b"xYz"


def part(name: str, value: bytes, more: str = "") -> bytes:
    head = f'--xYz\r\nContent-Disposition: form-data; name="{name}"{more}\r\nContent-Type: text/plain\r\n\r\n'
    return head.encode() + value + b"\r\n"


def parse(body: bytes, sizes: list[int]) -> tuple[list[tuple[str, str | None, bytes]], bool]:
    """Return the parts, fed in pieces of these sizes, and whether the form is complete."""
    parser, found = MultipartParser(BOUNDARY), list[tuple[str, str | None, bytes]]()
    at = 0
    for size in [*sizes, len(body)]:
        for event in parser.feed(body[at : at + size]):
            if isinstance(event, PartHead):
                found.append((event.name, event.filename, b""))
            else:
                assert isinstance(event, PartData)
                name, filename, data = found[-1]
                found[-1] = (name, filename, data + event.data)
        at += size
    return found, parser.is_complete


NASTY = b"\r\n--xY\r\n-- xYz\r\n--x\r\r\n\n--" + bytes(range(256)) * 3 + b"\r\n--xY"
BODY = (
    b"preamble"
    + b"\r\n"
    + part("a", b"")
    + part("file", NASTY, '; filename="\xc3\xa9t\xc3\xa9 \\"x\\".wav"'.encode("latin-1").decode())
    + part("b", b"1")
    + b"--xYz--\r\nepilogue --xYz"
)


def test_parts_do_not_depend_on_how_the_bytes_arrive() -> None:
    expected, is_complete = parse(BODY, [])
    assert is_complete
    assert [(name, data) for name, _, data in expected] == [("a", b""), ("file", NASTY), ("b", b"1")]
    assert parse(BODY, [1] * len(BODY)) == (expected, True)
    drawn = random.Random(3)
    for _ in range(200):
        assert parse(BODY, [drawn.randrange(1, 40) for _ in range(60)]) == (expected, True)


def test_a_form_that_is_cut_anywhere_is_not_complete() -> None:
    end = BODY.index(b"--xYz--") + len(b"--xYz-")
    for length in range(0, end, 7):
        assert not parse(BODY[:length], [])[1]


def test_random_bytes_are_refused_or_incomplete_and_nothing_else() -> None:
    drawn = random.Random(5)
    alphabet = [
        b"\r\n",
        b"--xYz",
        b"--",
        b"\r",
        b"\n",
        b":",
        b"Content-Disposition: form-data; name=a",
        b"\x00\xff",
        b"x",
    ]
    for _ in range(3_000):
        body = b"".join(drawn.choice(alphabet) for _ in range(drawn.randrange(40)))
        with suppress(InvalidRequest):
            parse(body, [drawn.randrange(1, 9) for _ in range(20)])


def test_a_large_file_stays_out_of_the_buffer() -> None:
    parser = MultipartParser(BOUNDARY)
    list(parser.feed(part("file", b"", '; filename="a"')[:-2]))
    for _ in range(200):
        assert sum(len(event.data) for event in parser.feed(b"z" * 65_536) if isinstance(event, PartData)) > 65_000
    assert len(parser._buffer) < 100


def test_endless_headers_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="headers of a part"):
        parse(b"--xYz\r\n" + b"A: b\r\n" * MAX_HEADERS, [])


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        (
            b"multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
    ],
)
def test_a_boundary_is_read(header: bytes, boundary: bytes) -> None:
    assert boundary_of(header) == boundary


OTHER_TYPES = [
    b"",
    b"application/json",
    b"multipart/mixed; boundary=a",
    b"multipart/form-data",
    b'multipart/form-data; boundary=""',
    b"multipart/form-data; boundary=" + b"a" * 300,
    b"multipart/form-data; boundary=\xff",
]


@pytest.mark.parametrize("header", OTHER_TYPES)
def test_another_content_type_is_refused(header: bytes) -> None:
    with pytest.raises(WrongContentType):
        boundary_of(header)
