"""Send a file while it is made: part by part, at the pace of the client, in constant memory.

A part is read and encoded in a thread, its database connection is released, and only then is it sent. The next part is
read once the client has taken this one. So a slow client holds no connection, no snapshot and no thread. If it leaves,
no further part is read.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice

from starlette.responses import Response, StreamingResponse

from minitoolai.core.threads import EXPORTS

#: Lines encoded together: about two milliseconds, during which other Python code waits.
LINES = 200
CSV = "text/csv"
#: The parts of a file, in order.
Parts = AsyncGenerator[bytes, None]


async def export_response(parts: Parts, headers: Mapping[str, str], media_type: str, *, is_head: bool) -> Response:
    """Return a response that sends these parts. An error before the first part is raised here, as for any page.

    A later error breaks the connection off, so that no client takes half a file for a whole one.
    """
    if is_head:
        await parts.aclose()
        return Response(b"", 200, headers, media_type)
    first = await anext(parts, b"")
    return StreamingResponse(_all_of(first, parts), 200, headers, media_type)


async def _all_of(first: bytes, parts: Parts) -> AsyncIterator[bytes]:
    async with aclosing(parts):
        if first:
            yield first
        async for part in parts:
            yield part


async def with_byte_order_mark(parts: Parts) -> Parts:
    """Yield UTF-8 with a byte order mark. Without it, Excel takes a file for the code page of its system."""
    async with aclosing(parts):
        mark = codecs.BOM_UTF8
        async for part in parts:
            yield mark + part
            mark = b""


def csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    """Return rows as lines of CSV in UTF-8."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


async def csv_parts(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Parts:
    """Yield a header line and the rows as CSV. The rows are made and encoded off the event loop."""
    yield csv_lines([columns])
    remaining = iter(rows)
    while part := await EXPORTS.run(_encode_some, remaining):
        yield part


def _encode_some(rows: Iterator[Sequence[object]]) -> bytes:
    return csv_lines(islice(rows, LINES))
