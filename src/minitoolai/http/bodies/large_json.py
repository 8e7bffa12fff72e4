"""Decode large JSON bodies in steps of a few milliseconds, after counting their contents.

msgspec decodes a whole body in one call that holds the GIL, so even in a thread it would block the event loop. A body
that would take long is split: msgspec gets a run of complete elements or members at a time, and the results are joined.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from minitoolai.core.errors import InvalidRequest, TooComplex
from minitoolai.http.bodies.data_urls import extract_urls, restore_urls, too_much_text

#: Lists, objects and commas per body. Each costs up to a microsecond and a hundred bytes when decoded.
MOST_NODES = 200_000
#: Most of them that are decoded on the event loop: at most 10 ms. Bodies with more are decoded in the body thread.
MOST_NODES_ON_LOOP = 20_000
#: Bytes per body outside of image data URLs.
MOST_TEXT = 4 * 1024 * 1024
#: Levels of nesting. msgspec and the engines recurse.
DEEPEST = 64
#: Decode in one call up to this size if there are only so many lists, objects, commas and colons: at most 20 ms.
ONE_CALL_BYTES = 1024 * 1024
ONE_CALL_MARKS = 20_000
#: Otherwise split into pieces of about this many bytes.
PIECE = 32 * 1024

#: All bytes but those that begin or separate nodes; and all but these and colons.
_NO_NODES = bytes(set(range(256)).difference(b"[{,"))
_NO_MARKS = bytes(set(range(256)).difference(b"[{,:"))

Decode = Callable[[bytes], Any]
_BRACKETS = re.compile(rb"[\[\]{}]")
_NOT_BLANK = re.compile(rb"[^ \t\r\n]")
#: Larger integers fit no double, and take quadratic time to write out again.
_LARGEST_INTEGER = 10**308
_INFINITY = float("inf")


def _parse_float(text: str) -> float:
    """Parse a number. msgspec's own parser takes ten times as long for very small ones, such as 4.9e-324."""
    number = float(text)
    if -_INFINITY < number < _INFINITY:
        return number
    raise ValueError("number out of range")


decode: Decode = msgspec.json.Decoder(float_hook=_parse_float).decode


def decode_large(body: bytes) -> Any:
    """Decode a body like `decode`, in short steps. Raises TooComplex, BodyTooLarge, InvalidRequest, DecodeError."""
    body, urls = extract_urls(body)
    if len(body) > MOST_TEXT:
        raise too_much_text(MOST_TEXT)
    if is_quick(body):
        value = decode(body)
        check_depth(value)
    else:
        value = decode_in_pieces(body)
    _check_integers(value)
    if urls:
        restore_urls(value, urls)
    return value


def decode_in_pieces(body: bytes, size: int = PIECE, decode: Decode = decode) -> Any:
    """Decode a list or object in pieces of about `size` bytes. Raises TooComplex, InvalidRequest, DecodeError."""
    return _PieceDecoder(body, _blank_strings(body, size), size, decode).decode()


def check_depth(value: Any) -> None:
    """Raise InvalidRequest if the value is nested too deeply."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _check_integers(value: Any) -> None:
    """Raise InvalidRequest if the value contains a huge integer."""
    todo = [value] if isinstance(value, dict | list) else []
    while todo:
        parent = todo.pop()
        for child in parent.values() if isinstance(parent, dict) else parent:
            if isinstance(child, dict | list):
                todo.append(child)
            elif isinstance(child, int) and not -_LARGEST_INTEGER <= child <= _LARGEST_INTEGER:
                raise InvalidRequest("an integer in the body has more than 308 digits", code="invalid_json")


def is_quick(body: bytes) -> bool:
    """Return True if one call decodes the body quickly. Marks inside strings count as well: this is an upper bound."""
    if len(body) <= MOST_NODES:
        return True
    return len(body) <= ONE_CALL_BYTES and len(body.translate(None, _NO_MARKS)) <= ONE_CALL_MARKS


def count_nodes(text: bytes) -> int:
    """Return the number of lists, objects and commas, also those inside strings."""
    # To delete all other bytes takes a third of the time of three counts, or less.
    return len(text.translate(None, _NO_NODES))


def _blank_strings(body: bytes, size: int) -> bytes:
    """Return the body with underscores for the content of strings. Raise TooComplex if it has too many nodes."""
    blanked: list[bytes] = []
    nodes = at = 0
    in_string = False
    while at < len(body):
        piece = _next_piece(body, at, size)
        at += len(piece)
        # Without escapes, every quote begins or ends a string: the segments alternate between outside and inside.
        segments = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__").split(b'"')
        nodes += count_nodes(b"".join(segments[in_string::2]))
        if nodes <= MOST_NODES:
            segments[not in_string :: 2] = [b"_" * len(segment) for segment in segments[not in_string :: 2]]
            blanked.append(b'"'.join(segments))
        in_string ^= len(segments) % 2 == 0
    if nodes > MOST_NODES:
        raise TooComplex(
            f"The body has {nodes:,} lists, objects and commas, and may have {MOST_NODES:,}. Split the request."
        )
    return b"".join(blanked)


def _next_piece(body: bytes, at: int, size: int) -> bytes:
    """Return about so many bytes without splitting an escape sequence."""
    piece = body[at : at + size]
    backslashes = len(piece) - len(piece.rstrip(b"\\"))
    return body[at : at + size + 1] if backslashes % 2 else piece


# ── piece by piece ────────────────────────────────────────────────────────────────────────────────────────

_LIST, _OBJECT = b"[{"
_CLOSING = {_LIST: ord("]"), _OBJECT: ord("}")}


class _Container:
    """A list or object that is still open."""

    __slots__ = ("after_comma", "closing", "made", "pending", "previous", "start")

    def __init__(self, bracket: int, start: int, previous: int) -> None:
        self.closing = _CLOSING[bracket]
        #: Position of the opening bracket, and the end of the bracket before it.
        self.start = start
        self.previous = previous
        #: The decoded part. None while the container is small enough to be decoded as part of its parent.
        self.made: list[Any] | dict[str, Any] | None = None
        #: Start of the part not decoded yet; -1 after a child with a `made` of its own, until the next comma.
        self.pending = start + 1
        #: Whether a comma comes before the pending part, which then must not be empty.
        self.after_comma = False


class _PieceDecoder:
    """Decode one body. `blanked` is the body without the content of strings.

    Only brackets are visited one by one. Once `size` bytes have been passed, all open containers are created, and what
    is complete in them is decoded. Between two pieces only blanks, a comma or a key may stand: whatever msgspec refuses
    in one call is refused here, too.
    """

    def __init__(self, body: bytes, blanked: bytes, size: int, decode: Decode) -> None:
        self._body = body
        self._blanked = blanked
        self._size = size
        self._decode = decode
        self._stack: list[_Container] = []
        #: Everything before this position is decoded.
        self._decoded = 0
        #: End of the last bracket. From here to the next bracket, all commas belong to the innermost container.
        self._previous = 0

    def decode(self) -> Any:
        """Decode the whole body."""
        outermost: _Container | None = None
        for match in _BRACKETS.finditer(self._blanked):
            at = match.start()
            bracket = self._blanked[at]
            self._advance(at)
            if bracket not in _CLOSING:
                outermost = self._close(bracket, at)
            elif outermost is None:
                self._open(bracket, at)
            else:
                raise _malformed()
            self._previous = at + 1
        if outermost is None:
            raise (
                _malformed() if self._stack else InvalidRequest("The body must be a JSON object.", code="invalid_json")
            )
        self._check_blank(self._previous, len(self._body))
        return outermost.made

    def _advance(self, at: int) -> None:
        """Handle everything between the previous bracket and the one at this position."""
        if not self._stack:
            self._check_blank(self._previous, at)
            return
        if self._stack[-1].pending < 0:
            self._skip_comma(self._stack[-1], at)
        if at - self._decoded >= self._size:
            self._decode_up_to(at)

    def _open(self, bracket: int, at: int) -> None:
        if len(self._stack) == DEEPEST:
            raise _too_deep()
        if self._stack and self._stack[-1].pending < 0:
            raise _malformed()
        self._stack.append(_Container(bracket, at, self._previous))

    def _skip_comma(self, container: _Container, end: int) -> None:
        """Continue after a child that has a `made` of its own: only blanks and one comma may follow."""
        comma = self._blanked.find(b",", self._previous, end)
        self._check_blank(self._previous, end if comma < 0 else comma)
        if comma >= 0:
            container.pending = self._decoded = comma + 1
            container.after_comma = True

    def _decode_up_to(self, end: int) -> None:
        """Decode the complete elements of the innermost container before the bracket at `end`."""
        container = self._stack[-1]
        start = self._previous
        while end - self._decoded >= self._size:
            target = self._decoded + self._size
            comma = self._blanked.rfind(b",", max(start, container.pending), target)
            if comma < 0:
                comma = self._blanked.find(b",", max(start, container.pending, target), end)
            if comma < 0:
                return
            self._make_containers()
            self._decode_pending(container, comma)
            container.pending = self._decoded = comma + 1
            container.after_comma = True

    def _close(self, bracket: int, at: int) -> _Container | None:
        """Return the container if it is the outermost one."""
        container = self._stack.pop() if self._stack else None
        if container is None or bracket != container.closing:
            raise _malformed()
        if container.made is not None:
            if container.pending >= 0:
                self._decode_pending(container, at)
            self._decoded = at + 1
            if self._stack:
                self._stack[-1].pending = -1
        elif not self._stack:
            container.made = self._decode(self._body[container.start : at + 1])
        return None if self._stack else container

    def _make_containers(self) -> None:
        """Create all open containers, each inside its parent."""
        parent: _Container | None = None
        for child in self._stack:
            if child.made is None:
                child.made = [] if child.closing == _CLOSING[_LIST] else {}
                if parent is not None:
                    self._insert(parent, child)
            parent = child

    def _insert(self, parent: _Container, child: _Container) -> None:
        """Decode what is pending in the parent before the child, and add the child."""
        comma = self._blanked.rfind(b",", max(child.previous, parent.pending), child.start)
        if comma >= 0:
            self._decode_pending(parent, comma)
        elif child.previous > parent.pending:
            # There is no comma between the child and the bracket before it.
            raise _malformed()
        start = comma + 1 if comma >= 0 else parent.pending
        if isinstance(parent.made, dict):
            parent.made[self._parse_key(start, child.start)] = child.made
        else:
            assert parent.made is not None
            self._check_blank(start, child.start)
            parent.made.append(child.made)

    def _decode_pending(self, container: _Container, end: int) -> None:
        """Decode the pending elements or members up to `end`, the position of a comma or closing bracket."""
        piece = self._body[container.pending : end]
        if isinstance(container.made, dict):
            members = self._decode(b"{%b}" % piece)
            container.made.update(members)
            is_empty = not members
        else:
            assert container.made is not None
            elements = self._decode(b"[%b]" % piece)
            container.made.extend(elements)
            is_empty = not elements
        if is_empty and (container.after_comma or self._blanked[end : end + 1] == b","):
            raise _malformed()

    def _parse_key(self, start: int, end: int) -> str:
        """Parse what comes before the value of a member: a string and a colon."""
        member: dict[str, Any] = self._decode(b"{%b[]}" % self._body[start:end])
        if not member:
            raise _malformed()
        return next(iter(member))

    def _check_blank(self, start: int, end: int) -> None:
        if _NOT_BLANK.search(self._body, start, end):
            raise _malformed()


def _malformed() -> InvalidRequest:
    return InvalidRequest("The body is not JSON: it is malformed or incomplete.", code="invalid_json")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested more than {DEEPEST} levels deep.", code="invalid_json")
