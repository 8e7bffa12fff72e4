"""From an address to a database: `sqlite:///path` or `postgresql://…`."""

from __future__ import annotations

from pathlib import Path

from minitoolai.storage.database import Connection, Database
from minitoolai.storage.sqlite import open_sqlite

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


def open_database(url: str, *, serving: bool) -> Database:
    """The database at this address. `serving` for the process that owns the file."""
    if url.startswith(SQLITE):
        return open_sqlite(Path(url.removeprefix(SQLITE)), serving=serving)
    # 0.1 s that nobody on SQLite pays.
    from minitoolai.storage.postgres.connection import open_postgres

    return open_postgres(url)


def has_tables(database: Database) -> bool:
    """Whether anything was ever migrated here. A SQLite file is not made by asking."""
    if database.name == "sqlite":
        return Path(database.where).exists() and bool(database.read(_tables_of_sqlite)[0][0])
    return bool(database.read(_version_table)[0][0])


def _version_table(connection: Connection) -> list[tuple[bool]]:
    return [(row[0] is not None,) for row in connection.execute("SELECT to_regclass('alembic_version')::text")]


def _tables_of_sqlite(connection: Connection) -> list[tuple[int]]:
    # A first start that was broken off leaves a file with none.
    return [(row[0],) for row in connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'transfers'")]
