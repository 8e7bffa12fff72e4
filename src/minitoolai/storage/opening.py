"""From an address to a database: `sqlite:///path` or `postgresql://…`."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from minitoolai.core.errors import StoreError
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.sqlite import open_sqlite

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection as SqlConnection
    from sqlalchemy.engine import Engine

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


# (merged from migrate) Bring a database to the newest schema. Safe to run twice, at once, and beside a server of the same version.

MIGRATIONS = Path(__file__).parent / "migrations"
#: Whoever migrates a PostgreSQL database holds this lock; the number means "minitool".
ADVISORY_LOCK = 0x6D696E69746F6F6C


def migrate(url: str, to: str | None = None) -> tuple[str | None, str | None]:
    """Run every migration that has not run, up to the newest or to `to`; (revision before, revision after)."""
    revision = revision_of(url)
    if revision is not None and revision == (to or newest()):
        return revision, revision
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Imported here: every command and every start on a database that is up to date would pay for it.
    from sqlalchemy.exc import SQLAlchemyError

    engine, where = _engine(url)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                # Freed with the connection. Whoever waits here finds everything done.
                connection.exec_driver_sql(f"SELECT pg_advisory_lock({ADVISORY_LOCK})")
                connection.commit()
            return _upgrade(connection, to)
    except SQLAlchemyError as error:
        # The driver's own words; SQLAlchemy's go on for five lines.
        raise StoreError(f"cannot migrate {where}: {getattr(error, 'orig', error)}") from error
    finally:
        engine.dispose()


def _engine(url: str) -> tuple[Engine, str]:
    """A connection for Alembic, and where it leads."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    if url.startswith(SQLITE):
        return create_engine(url), url.removeprefix(SQLITE)
    import psycopg

    from minitoolai.storage.postgres.session import place

    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool), place(url)


def _upgrade(connection: SqlConnection, to: str | None) -> tuple[str | None, str | None]:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    before = MigrationContext.configure(connection).get_current_revision()
    wanted = to or ScriptDirectory.from_config(config).get_current_head()
    if wanted is not None and before != wanted:
        config.attributes["connection"] = connection
        command.upgrade(config, wanted)
        connection.commit()
    return before, wanted


def newest() -> str:
    """The last revision; each file's name begins with its own (a test compares)."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def revision_of(url: str) -> str | None:
    """Where a database stands; None where only Alembic can tell, in its own words."""
    if not url.startswith(SQLITE):
        return _revision_on_postgres(url)
    path = Path(url.removeprefix(SQLITE))
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error:
        return None
    return str(rows[0][0]) if len(rows) == 1 else None


def _revision_on_postgres(url: str) -> str | None:
    """The same there; ConnectionLost where the server is away."""
    from minitoolai.storage.postgres.connection import PostgresConnection

    with closing(PostgresConnection(url, read_only=True)) as connection:
        if connection.execute("SELECT to_regclass('alembic_version')::text") == [(None,)]:
            return None
        rows = connection.execute("SELECT version_num FROM alembic_version")
    return str(rows[0][0]) if len(rows) == 1 else None


# (merged from durability) Settings of a PostgreSQL server under which a COMMIT may be lost, or its files with it.

#: Setting → what a crash of that machine does where it is off.
RISKS = {
    "fsync": "a crash of that machine can destroy the whole database",
    "full_page_writes": "a crash of that machine can leave torn pages that nothing repairs",
    "synchronous_commit": "other programs' commits can be lost; our sessions turn it on for themselves",
}


def weak_settings(connection: Connection) -> dict[str, str]:
    """Those that are off on the server, with what that risks."""
    rows = connection.execute(
        "SELECT name FROM pg_settings WHERE reset_val = 'off'"
        " AND name IN ('fsync', 'full_page_writes', 'synchronous_commit') ORDER BY name"
    )
    return {row[0]: RISKS[row[0]] for row in rows}
