"""One file of a form is received whole, within its limit, and deleted at the end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from minitoolai.core.errors import BodyTooLarge, ClientLeft, InvalidRequest
from minitoolai.portal.uploads import received_file

LIMIT = 50_000
TYPE = "multipart/form-data; boundary=xyz"


def form(content: bytes) -> bytes:
    return b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content + b"\r\n--xyz--\r\n"


def received(body: bytes, kind: str = TYPE, *, length: str | None = None, leaves: bool = False) -> tuple[bytes, Path]:
    """Return the content of the received file, and its path, which is deleted by then."""
    chunks = [body[at : at + 7000] for at in range(0, len(body), 7000)] or [b""]
    events: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    events.append({"type": "http.disconnect"} if leaves else {"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    headers = [(b"content-type", kind.encode())] + ([] if length is None else [(b"content-length", length.encode())])
    request = Request({"type": "http", "headers": headers}, receive)

    async def read() -> tuple[bytes, Path]:
        async with received_file(request, LIMIT) as path:
            return path.read_bytes(), path

    return asyncio.run(read())


@pytest.mark.parametrize("content", [b"", b"x", b"\r\n--xyz", b"\r\n" * 10_000, bytes(range(256)) * 190])
def test_the_content_is_whole_and_deleted_at_the_end(content: bytes) -> None:
    found, path = received(form(content))
    assert found == content
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "kind", ['Multipart/Form-Data; charset=utf-8; boundary="xyz"', "multipart/form-data;boundary=xyz;x"]
)
def test_the_boundary_is_read_in_any_notation(kind: str) -> None:
    assert received(form(b"hello"), kind)[0] == b"hello"


def test_a_file_of_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    assert len(received(form(b"x" * LIMIT))[0]) == LIMIT
    with pytest.raises(BodyTooLarge):
        received(form(b"x" * (LIMIT + 1)))


def test_too_much_is_refused_before_it_is_received() -> None:
    with pytest.raises(BodyTooLarge):
        received(b"", length="100000")
    with pytest.raises(BodyTooLarge):
        received(form(b"x" * 200_000), length="many")


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"--xyz\r\nno end of the head", "file"), (b"--abc\r\n\r\nx\r\n--xyz--", "file"), (form(b"x")[:-12], "file")],
)
def test_a_broken_form_is_refused(body: bytes, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        received(body)
    assert refused.value.param == param


def test_what_is_no_form_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="multipart/form-data"):
        received(b"{}", "application/json")


def test_a_client_that_leaves_is_told_apart() -> None:
    with pytest.raises(ClientLeft):
        received(form(b"x"), leaves=True)
