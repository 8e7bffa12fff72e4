"""Backup format: a compressed tar file with the rows of one snapshot, then the images, written and read as a stream.

It contains everything, including the server's secret keys, so it must be protected like them.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec

from minitoolai.core.errors import StoreError
from minitoolai.storage.database import Connection, Row

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

#: Rows per chunk.
CHUNK = 2_000


class RowChunk(msgspec.Struct, frozen=True):
    """Some rows of one table. `rows` hold integers, strings, bytes and None, in the order of `columns`."""

    table: str
    columns: list[str]
    rows: list[list[Any]]


def _schema() -> MetaData:
    """Return the tables. SQLAlchemy is imported only here, because commands that make no backup must start fast."""
    from minitoolai.storage.schema import metadata

    return metadata


def dump_rows(connection: Connection, *, chunk_rows: int = CHUNK) -> Iterator[RowChunk]:
    """Yield all rows, in an order that satisfies foreign keys on restore. Call it inside a snapshot."""
    for table in _schema().sorted_tables:
        name, columns = str(table.name), [str(column.name) for column in table.columns]
        keys = [column.name for column in table.primary_key.columns]
        positions = [columns.index(key) for key in keys]
        after: list[Any] | None = None
        while rows := _page(connection, name, columns, keys, after, chunk_rows):
            yield RowChunk(name, columns, [list(row) for row in rows])
            after = [rows[-1][position] for position in positions]


def _page(
    connection: Connection, table: str, columns: list[str], keys: list[str], after: list[Any] | None, limit: int
) -> list[Row]:
    """Return the next rows by primary key (keyset pagination)."""
    names, order = ", ".join(columns), ", ".join(keys)
    where = "" if after is None else f" WHERE ({order}) > ({', '.join('?' * len(keys))})"
    return connection.execute(f"SELECT {names} FROM {table}{where} ORDER BY {order} LIMIT {limit}", after or ())


def insert_rows(connection: Connection, chunk: RowChunk) -> None:
    """Insert rows, inside a transaction. Raise StoreError for a table or column that this schema does not have."""
    table = _schema().tables.get(chunk.table)
    if table is None or not set(chunk.columns) <= set(table.columns.keys()):
        raise StoreError(f"the backup has rows of table {chunk.table!r} that do not fit the schema of this version")
    placeholders = ", ".join("?" * len(chunk.columns))
    connection.execute_many(
        f"INSERT INTO {chunk.table} ({', '.join(chunk.columns)}) VALUES ({placeholders})", chunk.rows
    )


def clear_seed_rows(connection: Connection) -> None:
    """Delete the rows that a start creates in a new database. Raise StoreError if it has any other rows."""
    connection.execute("DELETE FROM installation")
    for table in _schema().sorted_tables:
        where = " WHERE is_system = 0" if table.name == "accounts" else ""
        if connection.execute(f"SELECT 1 FROM {table.name}{where} LIMIT 1"):
            raise StoreError(f"table {table.name} already has rows; restore into an empty database")
    connection.execute("DELETE FROM accounts")


def table_names() -> list[str]:
    """Return the names of all tables, in an order that satisfies foreign keys."""
    return [str(table.name) for table in _schema().sorted_tables]


def count_rows(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Return the number of rows in each of these tables."""
    tables = _schema().tables
    known = [name for name in names if name in tables]
    return {name: connection.execute(f"SELECT count(*) FROM {name}")[0][0] for name in known}


def customer_totals(connection: Connection) -> tuple[int, int]:
    """Return the posted and held amounts of all customers together, in nano-dollars."""
    row = connection.execute("SELECT coalesce(sum(posted), 0), coalesce(sum(held), 0) FROM accounts")[0]
    return row[0], row[1]


def reset_sequences(connection: Connection) -> None:
    """Set PostgreSQL sequences to continue after the largest restored ID."""
    for table in _schema().sorted_tables:
        if not _has_sequence(table):
            continue
        connection.execute(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM"
            f" {table.name}), false)"
        )


def _has_sequence(table: Table) -> bool:
    column = table.autoincrement_column
    return column is not None and column.name == "id" and not column.foreign_keys


# ── file format ───────────────────────────────────────────────────────────────────────────────────────────────────

FORMAT = 1
_HEADER, _TOTALS, _FOOTER = "head.json", "books.json", "end.json"
_SECRETS, _CERTIFICATES, _ROWS, _IMAGES, _ARCHIVE = "secrets/", "certificates/", "rows/", "pictures/", "archive/"


class BackupHeader(msgspec.Struct, frozen=True):
    """First entry of the file: format, versions and origin."""

    format: int
    version: str
    #: Schema revision.
    revision: str
    database: str
    created_ms: int
    #: Identifies the server's secret key without revealing it.
    secret_id: str


class BackupTotals(msgspec.Struct, frozen=True):
    """Expected totals after the rows are restored: rows by table, and customers' money in nano-dollars."""

    rows: dict[str, int]
    posted: int
    held: int


class ArchiveFile(msgspec.Struct, frozen=True):
    """A file of an archived day, with its path in the object store."""

    path: str
    data: bytes


class BackupFooter(msgspec.Struct, frozen=True):
    """Last entry of a complete file: number of images, and of files of archived days."""

    pictures: int
    archived: int = 0


class BackupFile(msgspec.Struct, frozen=True):
    """A file of the data folder: the certificate that signs images, or its key."""

    name: str
    data: bytes


BackupPart = (
    BackupHeader | bytes | BackupFile | RowChunk | BackupTotals | tuple[str, bytes] | ArchiveFile | BackupFooter
)


class BackupWriter:
    """Write a backup in order: header, secrets, certificate, row chunks, totals, archived days, images, footer."""

    def __init__(self, file: IO[bytes]) -> None:
        self._gzip = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=3, mtime=0)
        self._tar = tarfile.open(fileobj=self._gzip, mode="w|")  # noqa: SIM115 - closed by `finish`
        self._chunks = 0
        self._secrets = 0
        self._images = 0
        self._archived = 0

    def write_header(self, header: BackupHeader) -> None:
        """Write the header."""
        self._add(_HEADER, msgspec.json.encode(header))

    def write_secret(self, secret: bytes) -> None:
        """Write one secret key of the data folder: the current one first, then the previous ones."""
        self._secrets += 1
        self._add(f"{_SECRETS}{self._secrets:03}.key", secret)

    def write_file(self, file: BackupFile) -> None:
        """Write a file of the data folder, before the rows."""
        self._add(_CERTIFICATES + file.name, file.data)

    def write_rows(self, chunk: RowChunk) -> None:
        """Write some rows."""
        self._chunks += 1
        self._add(f"{_ROWS}{self._chunks:06}-{chunk.table}.msgpack", msgspec.msgpack.encode(chunk))

    def write_totals(self, totals: BackupTotals) -> None:
        """Write the totals, after the last rows."""
        self._add(_TOTALS, msgspec.json.encode(totals))

    def write_archive_file(self, path: str, data: bytes) -> None:
        """Write one file of an archived day. Its path begins with the folder that marks it here as well."""
        self._archived += 1
        self._add(path, data)

    def write_image(self, key: str, png: bytes) -> None:
        """Write one object of the store."""
        self._images += 1
        self._add(_IMAGES + key, png)

    def finish(self) -> int:
        """Write the footer, close the archive but not the file, and return the number of images."""
        self._add(_FOOTER, msgspec.json.encode(BackupFooter(self._images, self._archived)))
        self._tar.close()
        self._gzip.close()
        return self._images

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o600
        self._tar.addfile(member, io.BytesIO(data))


def read_parts(file: IO[bytes]) -> Iterator[BackupPart]:
    """Yield the parts of a backup in order. Raise StoreError if the file is not a backup or is truncated."""
    position: Literal["start", "middle", "end"] = "start"
    try:
        with tarfile.open(fileobj=file, mode="r|gz") as tar:
            for member in tar:
                opened = tar.extractfile(member)
                part = _decode_part(member.name, opened.read() if opened else b"")
                if position == "start" and not isinstance(part, BackupHeader):
                    raise StoreError("this file is not a MiniToolAI backup: it does not start with a header")
                position = "end" if isinstance(part, BackupFooter) else "middle"
                yield part
    except (tarfile.TarError, EOFError, OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"the backup is damaged and cannot be read completely: {error}") from error
    if position != "end":
        raise StoreError("the backup is truncated; use another one")


def _decode_part(name: str, data: bytes) -> BackupPart:
    if name == _HEADER:
        header = msgspec.json.decode(data, type=BackupHeader)
        if header.format != FORMAT:
            raise StoreError(f"this backup has format {header.format}, but this version reads format {FORMAT}")
        return header
    if name.startswith(_SECRETS):
        return data
    if name.startswith(_CERTIFICATES):
        return BackupFile(name.removeprefix(_CERTIFICATES), data)
    if name.startswith(_ROWS):
        return msgspec.msgpack.decode(data, type=RowChunk)
    if name == _TOTALS:
        return msgspec.json.decode(data, type=BackupTotals)
    if name.startswith(_ARCHIVE):
        return ArchiveFile(name, data)
    if name.startswith(_IMAGES):
        return name.removeprefix(_IMAGES), data
    if name == _FOOTER:
        return msgspec.json.decode(data, type=BackupFooter)
    raise StoreError(f"this file is not a MiniToolAI backup: it contains {name[:80]!r}")
