"""A backup as one file: a compressed tar of the rows of one moment, then the pictures. Written and read as a stream.

It holds everything, the server's secret too: whoever has it can be you.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from typing import IO, Literal

import msgspec

from minitoolai.core.errors import StoreError
from minitoolai.storage.rows import Chunk

FORMAT = 1
_HEAD, _BOOKS, _END = "head.json", "books.json", "end.json"
_SECRETS, _ROWS, _PICTURES = "secrets/", "rows/", "pictures/"


class Head(msgspec.Struct, frozen=True):
    """What the file says of itself at its beginning."""

    format: int
    version: str
    #: Of the schema.
    revision: str
    database: str
    created_ms: int
    #: Names the server's secret without telling it.
    secret_id: str


class Books(msgspec.Struct, frozen=True):
    """What must be there once all rows are in: rows by table, and what customers have, in nano-dollars."""

    rows: dict[str, int]
    posted: int
    held: int


class End(msgspec.Struct, frozen=True):
    """The last thing in a whole file."""

    pictures: int


Piece = Head | bytes | Chunk | Books | tuple[str, bytes] | End


class ArchiveWriter:
    """Takes the pieces in their order: head, secret, chunks, books, pictures, end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._gzip = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=3, mtime=0)
        self._tar = tarfile.open(fileobj=self._gzip, mode="w|")  # noqa: SIM115 - closed by `end`
        self._chunks = 0
        self._secrets = 0
        self._pictures = 0

    def head(self, head: Head) -> None:
        """First."""
        self._add(_HEAD, msgspec.json.encode(head))

    def secret(self, secret: bytes) -> None:
        """One that lies in the data folder: the current one first, then those of before."""
        self._secrets += 1
        self._add(f"{_SECRETS}{self._secrets:03}.key", secret)

    def chunk(self, chunk: Chunk) -> None:
        """Some rows."""
        self._chunks += 1
        self._add(f"{_ROWS}{self._chunks:06}-{chunk.table}.msgpack", msgspec.msgpack.encode(chunk))

    def books(self, books: Books) -> None:
        """After the last rows."""
        self._add(_BOOKS, msgspec.json.encode(books))

    def picture(self, key: str, png: bytes) -> None:
        """One object of the store."""
        self._pictures += 1
        self._add(_PICTURES + key, png)

    def end(self) -> int:
        """Close the archive, not the file; how many pictures it has."""
        self._add(_END, msgspec.json.encode(End(self._pictures)))
        self._tar.close()
        self._gzip.close()
        return self._pictures

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o600
        self._tar.addfile(member, io.BytesIO(data))


def pieces(file: IO[bytes]) -> Iterator[Piece]:
    """What is in the file, in its order. StoreError where it is no backup, or ends before its end."""
    kind: Literal["nothing", "head", "end"] = "nothing"
    try:
        with tarfile.open(fileobj=file, mode="r|gz") as tar:
            for member in tar:
                opened = tar.extractfile(member)
                piece = _piece(member.name, opened.read() if opened else b"")
                if kind == "nothing" and not isinstance(piece, Head):
                    raise StoreError("this is no backup of ours: it does not begin as one")
                kind = "end" if isinstance(piece, End) else "head"
                yield piece
    except (tarfile.TarError, EOFError, OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"the backup cannot be read to its end: {error}") from error
    if kind != "end":
        raise StoreError("the backup ends before its end; take another")


def _piece(name: str, data: bytes) -> Piece:
    if name == _HEAD:
        head = msgspec.json.decode(data, type=Head)
        if head.format != FORMAT:
            raise StoreError(f"this backup is of another make ({head.format}, and this program reads {FORMAT})")
        return head
    if name.startswith(_SECRETS):
        return data
    if name.startswith(_ROWS):
        return msgspec.msgpack.decode(data, type=Chunk)
    if name == _BOOKS:
        return msgspec.json.decode(data, type=Books)
    if name.startswith(_PICTURES):
        return name.removeprefix(_PICTURES), data
    if name == _END:
        return msgspec.json.decode(data, type=End)
    raise StoreError(f"this is no backup of ours: it has a {name[:80]!r}")
