"""Read request bodies within the limits of their route.

A body over its limit is refused as soon as that is known, mostly from Content-Length alone. A large body within its
limit, or one with many nodes, is decoded and checked in the body thread, so that the event loop keeps serving others.

There is only one body thread, so that the CPU time and memory spent on large bodies stay bounded. Python runs one
thread at a time, so work given to this thread must consist of short steps (about 20 ms at most), or it blocks the event
loop after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from minitoolai.core.errors import BodyTooLarge, ClientLeft, WrongContentType
from minitoolai.http.asgi import Receive, Scope, headers_by_name
from minitoolai.http.bodies.content_encoding import coding_of, unpack
from minitoolai.http.bodies.data_urls import TextCounter
from minitoolai.http.bodies.large_json import MOST_NODES_ON_LOOP
from minitoolai.http.validation import is_small

T = TypeVar("T")
Message = MutableMapping[str, Any]

KB = 1024
MB = 1024 * KB
#: The largest limit of any route.
LARGEST_BODY = 20 * MB

_thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")


class BodyLimits(msgspec.Struct, frozen=True):
    """How many bytes the body of a route may have: in total, and outside of image data URLs."""

    total: int
    text: int

    def check_announced(self, length: bytes) -> None:
        """Raise BodyTooLarge if the value of a Content-Length header is over the limit."""
        # int() refuses strings of more than 4,300 digits; the first 20 are enough here.
        if length.isdigit() and int(length[:20]) > self.total:
            raise self.exceeded()

    def exceeded(self) -> BodyTooLarge:
        """Return the error for a body over the total limit."""
        limit = f"{self.total // MB} MB" if self.total >= MB else f"{self.total // KB} kB"
        return BodyTooLarge(f"The body is larger than {limit}. Send a smaller request.")


async def read_parsed(parse: Callable[[bytes], T], scope: Scope, receive: Receive, limits: BodyLimits) -> T:
    """Read a JSON body and return `parse(body)`. Raises BodyTooLarge, WrongContentType, ClientLeft."""
    headers = headers_by_name(scope)
    kind = headers.get(b"content-type", b"")
    if kind != b"application/json" and not _is_json(kind):
        raise WrongContentType("The body must be JSON, sent with the header Content-Type: application/json.")
    length = headers.get(b"content-length")
    if length is not None:
        limits.check_announced(length)
    if b"content-encoding" in headers and (coding := coding_of(headers[b"content-encoding"])) is not None:
        return await _read_packed(parse, coding, receive, limits)
    message = await receive()
    body: bytes = message.get("body", b"")
    if body and len(body) <= MOST_NODES_ON_LOOP and not message.get("more_body"):
        # The usual case: a small body in one message.
        if len(body) > limits.total:
            raise limits.exceeded()
        return parse(body)
    body = await _read_rest(message, receive, limits)
    return parse(body) if is_small(body) else await run_in_body_thread(parse, body)


async def _read_packed(parse: Callable[[bytes], T], coding: str, receive: Receive, limits: BodyLimits) -> T:
    """Read a packed body, and return `parse` of the unpacked one. The limits apply to both."""
    packed = await _read_rest(await receive(), receive, limits)
    body = await run_in_body_thread(unpack, packed, coding, limits.total)
    if body is None:
        raise limits.exceeded()
    TextCounter(limits.text).check([body], len(body))
    return parse(body) if is_small(body) else await run_in_body_thread(parse, body)


async def read_body(scope: Scope, receive: Receive, limits: BodyLimits) -> bytes:
    """Read the whole body. Raises BodyTooLarge, ClientLeft."""
    limits.check_announced(headers_by_name(scope).get(b"content-length", b""))
    return await _read_rest(await receive(), receive, limits)


async def _read_rest(message: Message, receive: Receive, limits: BodyLimits) -> bytes:
    """Read the whole body, given its first message."""
    parts: list[bytes] = []
    size = 0
    text = TextCounter(limits.text)
    while True:
        if message["type"] == "http.disconnect":
            raise ClientLeft("The client disconnected before its request was complete.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limits.total:
            raise limits.exceeded()
        text.check(parts, size)
        if not message.get("more_body"):
            break
        message = await receive()
    # bytes.join() releases the GIL from one megabyte on, so the event loop runs meanwhile.
    return b"".join(parts) if size <= MB else await run_in_body_thread(b"".join, parts)


def _is_json(content_type: bytes) -> bool:
    kind = content_type.partition(b";")[0].strip().lower()
    return kind == b"application/json" or kind.endswith(b"+json")


async def run_in_body_thread(work: Callable[..., T], *arguments: object) -> T:
    """Run `work(*arguments)` in the body thread and return its result."""
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: work(*arguments))
