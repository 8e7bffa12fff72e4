"""Parse multipart/form-data (RFC 7578) piece by piece, in constant memory for parts of any size.

`MultipartParser` is a push parser without input or output. It yields the headers of each part, then its data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import Message

import msgspec

from minitoolai.core.errors import InvalidRequest, WrongContentType

#: Most bytes of the headers of one part, and of what precedes the first boundary.
MAX_HEADERS = 8 * 1024
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{1,200}")
_END_OF_LINE = b"\r\n"


class PartHead(msgspec.Struct, frozen=True):
    """The name of a part, and its filename if it is a file."""

    name: str
    filename: str | None


class PartData(msgspec.Struct, frozen=True):
    """Some bytes of the current part."""

    data: bytes


def boundary_of(content_type: bytes) -> bytes:
    """Return the boundary. Raise WrongContentType if this is no multipart form, or has no valid boundary."""
    header = Message()
    header["Content-Type"] = content_type.decode("latin-1")
    if header.get_content_type() != "multipart/form-data":
        raise WrongContentType("The body must be a form with a file, sent as Content-Type: multipart/form-data.")
    boundary = header.get_boundary("").encode("latin-1", "replace")
    if not _BOUNDARY.fullmatch(boundary):
        raise WrongContentType(
            "The Content-Type has no valid boundary. Let your HTTP library set this header when you attach the file."
        )
    return boundary


class MultipartParser:
    """Parses one form. `feed` it, then ask `is_complete`."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = _END_OF_LINE + b"--" + boundary
        # The first boundary need not follow an end of line.
        self._buffer = bytearray(_END_OF_LINE)
        self._state = self._before_first
        self.is_complete = False

    def feed(self, data: bytes) -> Iterator[PartHead | PartData]:
        """Yield the events of these bytes. Raise InvalidRequest if the form is malformed."""
        if self.is_complete:
            # RFC 2046 allows an epilogue, which means nothing.
            return
        self._buffer += data
        while not self.is_complete:
            found = self._state()
            if found is None:
                return
            if isinstance(found, PartHead) or found.data:
                yield found

    # Each state consumes bytes and returns an event. None: it needs more bytes.

    def _before_first(self) -> PartHead | PartData | None:
        at = self._buffer.find(self._delimiter)
        if at < 0:
            if len(self._buffer) > MAX_HEADERS:
                raise _malformed("it does not begin with its boundary")
            return None
        del self._buffer[: at + len(self._delimiter)]
        self._state = self._after_delimiter
        return _NOTHING

    def _after_delimiter(self) -> PartHead | PartData | None:
        # Blanks may follow a boundary (RFC 2046, 5.1.1).
        end = self._buffer.find(_END_OF_LINE)
        if self._buffer.startswith(b"--"):
            self.is_complete = True
            self._buffer.clear()
            return _NOTHING
        if end < 0:
            if len(self._buffer) > MAX_HEADERS:
                raise _malformed("a boundary is not followed by an end of line")
            return None
        if self._buffer[:end].strip(b" \t"):
            raise _malformed("a boundary is not followed by an end of line")
        # Keep the end of line: a part may have no headers.
        del self._buffer[:end]
        self._state = self._headers
        return _NOTHING

    def _headers(self) -> PartHead | PartData | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEADERS:
            if len(self._buffer) > MAX_HEADERS:
                raise _malformed(f"the headers of a part are longer than {MAX_HEADERS} bytes, or their end is missing")
            return None
        head = _part_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        self._state = self._data
        return head

    def _data(self) -> PartHead | PartData | None:
        at = self._buffer.find(self._delimiter)
        if at >= 0:
            data = PartData(bytes(self._buffer[:at]))
            del self._buffer[: at + len(self._delimiter)]
            self._state = self._after_delimiter
            return data
        # The end may be the beginning of a delimiter.
        safe = len(self._buffer) - len(self._delimiter)
        if safe <= 0:
            return None
        data = PartData(bytes(self._buffer[:safe]))
        del self._buffer[:safe]
        return data


#: Returned by a state that only moved on.
_NOTHING = PartData(b"")


def _part_head(lines: bytes) -> PartHead:
    disposition = b""
    for line in lines.split(_END_OF_LINE):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            disposition = value.strip()
    header = Message()
    # Names of files come as UTF-8, without any encoding (RFC 7578, 5.1).
    header["Content-Disposition"] = disposition.decode("utf-8", "replace").replace("\n", " ")
    field = header.get_param("name", None, "content-disposition")
    if header.get_content_disposition() != "form-data" or not isinstance(field, str) or not field:
        raise _malformed('each part needs a header Content-Disposition: form-data; name="…"')
    filename = header.get_filename()
    return PartHead(field, filename)


def _malformed(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The form cannot be parsed: {reason}. Let your HTTP library make the multipart body.", code="invalid_form"
    )
