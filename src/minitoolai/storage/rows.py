"""Every row of every table, out and in again, in a form that either database takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from sqlalchemy import Table

from minitoolai.core.errors import StoreError
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.schema import metadata

CHUNK = 2_000


class Chunk(msgspec.Struct, frozen=True):
    """Some rows of one table. `rows` hold integers, texts, bytes and None, in the order of `columns`."""

    table: str
    columns: list[str]
    rows: list[list[Any]]


def dump(connection: Connection) -> Iterator[Chunk]:
    """All rows, in an order in which they may be put in again. To be called inside a snapshot."""
    for table in metadata.sorted_tables:
        name, columns = str(table.name), [str(column.name) for column in table.columns]
        keys = [column.name for column in table.primary_key.columns]
        places = [columns.index(key) for key in keys]
        after: list[Any] | None = None
        while rows := _page(connection, name, columns, keys, after):
            yield Chunk(name, columns, [list(row) for row in rows])
            after = [rows[-1][place] for place in places]


def _page(
    connection: Connection, table: str, columns: list[str], keys: list[str], after: list[Any] | None
) -> list[Row]:
    names, order = ", ".join(columns), ", ".join(keys)
    where = "" if after is None else f" WHERE ({order}) > ({', '.join('?' * len(keys))})"
    return connection.execute(f"SELECT {names} FROM {table}{where} ORDER BY {order} LIMIT {CHUNK}", after or ())


def load(connection: Connection, chunk: Chunk) -> None:
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
