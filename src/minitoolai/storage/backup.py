"""A backup as one file: a compressed tar of the rows of one moment, then the pictures. Written and read as a stream.

It holds everything, the server's secret too: whoever has it can be you.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, Literal

import msgspec
from sqlalchemy import Table

from minitoolai.core.errors import StoreError
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.schema import metadata

# (merged from rows) Every row of every table, out and in again, in a form that either database takes.

CHUNK = 2_000


class RowChunk(msgspec.Struct, frozen=True):
    """Some rows of one table. `rows` hold integers, texts, bytes and None, in the order of `columns`."""

    table: str
    columns: list[str]
    rows: list[list[Any]]


def dump(connection: Connection) -> Iterator[RowChunk]:
    """All rows, in an order in which they may be put in again. To be called inside a snapshot."""
    for table in metadata.sorted_tables:
        name, columns = str(table.name), [str(column.name) for column in table.columns]
        keys = [column.name for column in table.primary_key.columns]
        places = [columns.index(key) for key in keys]
        after: list[Any] | None = None
        while rows := _page(connection, name, columns, keys, after):
            yield RowChunk(name, columns, [list(row) for row in rows])
            after = [rows[-1][place] for place in places]


def _page(
    connection: Connection, table: str, columns: list[str], keys: list[str], after: list[Any] | None
) -> list[Row]:
    names, order = ", ".join(columns), ", ".join(keys)
    where = "" if after is None else f" WHERE ({order}) > ({', '.join('?' * len(keys))})"
    return connection.execute(f"SELECT {names} FROM {table}{where} ORDER BY {order} LIMIT {CHUNK}", after or ())


def load(connection: Connection, chunk: RowChunk) -> None:
    """Put rows in, inside a transaction. StoreError for a table or column that this schema does not know."""
    table = metadata.tables.get(chunk.table)
    if table is None or not set(chunk.columns) <= set(table.columns.keys()):
        raise StoreError(f"the backup has rows of {chunk.table!r} that do not fit this program")
    marks = ", ".join("?" * len(chunk.columns))
    connection.execute_many(f"INSERT INTO {chunk.table} ({', '.join(chunk.columns)}) VALUES ({marks})", chunk.rows)


def make_room(connection: Connection) -> None:
    """Empty a database that nobody has used yet; StoreError where somebody has."""
    for table in metadata.sorted_tables:
        where = " WHERE is_system = 0" if table.name == "accounts" else ""
        if connection.execute(f"SELECT 1 FROM {table.name}{where} LIMIT 1"):
            raise StoreError(f"there are rows in {table.name} already; restore into an empty database")
    connection.execute("DELETE FROM accounts")


def tables() -> list[str]:
    """The names of all, in an order in which rows may be put in."""
    return [str(table.name) for table in metadata.sorted_tables]


def count(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Rows of each of these tables."""
    known = [name for name in names if name in metadata.tables]
    return {name: connection.execute(f"SELECT count(*) FROM {name}")[0][0] for name in known}


def customers_money(connection: Connection) -> tuple[int, int]:
    """What all customers have, and what of it is held, in nano-dollars."""
    row = connection.execute("SELECT coalesce(sum(posted), 0), coalesce(sum(held), 0) FROM accounts")[0]
    return row[0], row[1]


def continue_numbers(connection: Connection) -> None:
    """On PostgreSQL: numbers that the database gives out go on behind the largest that was put in."""
    for table in metadata.sorted_tables:
        if not _is_numbered(table):
            continue
        connection.execute(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM"
            f" {table.name}), false)"
        )


def _is_numbered(table: Table) -> bool:
    column = table.autoincrement_column
    return column is not None and column.name == "id" and not column.foreign_keys


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


class BackupTotals(msgspec.Struct, frozen=True):
    """What must be there once all rows are in: rows by table, and what customers have, in nano-dollars."""

    rows: dict[str, int]
    posted: int
    held: int


class End(msgspec.Struct, frozen=True):
    """The last thing in a whole file."""

    pictures: int


Piece = Head | bytes | RowChunk | BackupTotals | tuple[str, bytes] | End


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

    def chunk(self, chunk: RowChunk) -> None:
        """Some rows."""
        self._chunks += 1
        self._add(f"{_ROWS}{self._chunks:06}-{chunk.table}.msgpack", msgspec.msgpack.encode(chunk))

    def books(self, books: BackupTotals) -> None:
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
        return msgspec.msgpack.decode(data, type=RowChunk)
    if name == _BOOKS:
        return msgspec.json.decode(data, type=BackupTotals)
    if name.startswith(_PICTURES):
        return name.removeprefix(_PICTURES), data
    if name == _END:
        return msgspec.json.decode(data, type=End)
    raise StoreError(f"this is no backup of ours: it has a {name[:80]!r}")
