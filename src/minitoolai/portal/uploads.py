"""Receive one file from a form into a temporary file, in constant memory and with a limit of size."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from starlette.requests import ClientDisconnect, Request

from minitoolai.core.errors import BodyTooLarge, ClientLeft, InvalidRequest
from minitoolai.core.threads import UPLOADS

#: What a form with one file has in addition to the file: the boundary and a few headers.
_MAX_ENVELOPE_BYTES = 16 * 1024
_BOUNDARY = re.compile(r'multipart/form-data;.*?boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)


@asynccontextmanager
async def received_file(request: Request, max_bytes: int) -> AsyncIterator[Path]:
    """Receive a multipart form with one file and yield its path. Delete it at the end.

    Raise BodyTooLarge, InvalidRequest or ClientLeft.
    """
    match = _BOUNDARY.match(request.headers.get("content-type", ""))
    if match is None:
        raise InvalidRequest("Send the file as multipart/form-data.", param="Content-Type")
    boundary = b"--" + (match[1] or match[2]).encode("latin-1")
    limit = max_bytes + _MAX_ENVELOPE_BYTES
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise _too_large(max_bytes)
    with tempfile.TemporaryDirectory(prefix="minitoolai-upload-") as folder:
        path = Path(folder) / "body"
        with path.open("wb") as file:
            await _receive(request, file, limit, max_bytes)
        yield await UPLOADS.run(_extract, path, boundary, max_bytes)


async def _receive(request: Request, file: IO[bytes], limit: int, max_bytes: int) -> None:
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(max_bytes)
            file.write(chunk)
    except ClientDisconnect as error:
        raise ClientLeft("The client disconnected before the request was complete.") from error


def _extract(path: Path, boundary: bytes, max_bytes: int) -> Path:
    """Write the content of the only part to a file beside the body, and return its path."""
    with path.open("rb") as body:
        head = body.read(_MAX_ENVELOPE_BYTES)
        start = head.find(b"\r\n\r\n") + 4
        if not head.startswith(boundary) or start < 4:
            raise InvalidRequest("The form cannot be parsed: send one file.", param="file")
        size = body.seek(0, 2)
        body.seek(max(size - _MAX_ENVELOPE_BYTES, start))
        tail = body.read()
        at = tail.rfind(b"\r\n" + boundary + b"--")
        if at < 0:
            raise InvalidRequest("The form cannot be parsed: its end is missing.", param="file")
        end = size - len(tail) + at
        if end - start > max_bytes:
            raise _too_large(max_bytes)
        body.seek(start)
        target = path.with_name("file")
        with target.open("wb") as file:
            left = end - start
            while left > 0 and (block := body.read(min(left, 1 << 20))):
                file.write(block)
                left -= len(block)
    return target


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The file is larger than {max_bytes // 1024**2} MB. Send a smaller one.")
