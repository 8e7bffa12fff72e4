"""Open a database by its address (`sqlite:///path` or `postgresql://…`) and migrate it to the newest schema."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from minitoolai.core.errors import StoreError
from minitoolai.core.private_files import create_private_file
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.sqlite import NEW_FILE, open_sqlite

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection as SqlConnection
    from sqlalchemy.engine import Engine

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


def open_database(url: str, *, serving: bool) -> Database:
    """Return the database at this address. Pass `serving` in the process that owns a SQLite file."""
    if url.startswith(SQLITE):
        return open_sqlite(Path(url.removeprefix(SQLITE)), serving=serving)
    # Imported only where needed: psycopg takes 0.1 s.
    from minitoolai.storage.postgres.connection import open_postgres

    return open_postgres(url)


def has_tables(database: Database) -> bool:
    """Return True if the database was ever migrated. Does not create a missing SQLite file."""
    if database.name == "sqlite":
        return Path(database.where).exists() and bool(database.read(_tables_of_sqlite)[0][0])
    return bool(database.read(_version_table)[0][0])


def has_table(database: Database, name: str) -> bool:
    """Return True if the database has this table. Does not create a missing SQLite file."""
    if database.name == "sqlite":
        if not Path(database.where).exists():
            return False
        query = f"SELECT name FROM sqlite_master WHERE type = 'table' AND name = '{name}'"
    else:
        query = f"SELECT to_regclass('{name}')::text"
    rows = database.read(lambda connection: connection.execute(query))
    return bool(rows) and rows[0][0] is not None


def _version_table(connection: Connection) -> list[tuple[bool]]:
    return [(row[0] is not None,) for row in connection.execute("SELECT to_regclass('alembic_version')::text")]


def _tables_of_sqlite(connection: Connection) -> list[tuple[int]]:
    # An interrupted first start leaves a file without tables.
    return [(row[0],) for row in connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'transfers'")]


# ── migrations ────────────────────────────────────────────────────────────────────────────────────────────

MIGRATIONS = Path(__file__).parent / "migrations"
#: Advisory lock held while migrating a PostgreSQL database; the number spells "minitool".
ADVISORY_LOCK = 0x6D696E69746F6F6C


def migrate(url: str, to: str | None = None) -> tuple[str | None, str | None]:
    """Run the missing migrations, up to `to` or the newest, and return (revision before, revision after).

    Safe to run twice, concurrently, and beside a running server of the same version.
    """
    revision = current_revision(url)
    if revision is not None and revision == (to or newest_revision()):
        return revision, revision
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Imported late: a start on an up-to-date database does not need it.
    from sqlalchemy.exc import SQLAlchemyError

    engine, where = _engine(url)
    if url.startswith(SQLITE):
        create_private_file(Path(where))
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite" and not Path(where).stat().st_size:
                connection.exec_driver_sql(f"PRAGMA {NEW_FILE}")
            if engine.dialect.name == "postgresql":
                # Released with the connection. A process that waited for it then finds every migration done.
                connection.exec_driver_sql(f"SELECT pg_advisory_lock({ADVISORY_LOCK})")
                connection.commit()
            return _upgrade(connection, to)
    except SQLAlchemyError as error:
        # Show the driver's message only; SQLAlchemy's has five lines.
        raise StoreError(f"cannot migrate {where}: {getattr(error, 'orig', error)}") from error
    finally:
        engine.dispose()


def _engine(url: str) -> tuple[Engine, str]:
    """Return an engine for Alembic and the location to show in messages."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    if url.startswith(SQLITE):
        return create_engine(url), url.removeprefix(SQLITE)
    from minitoolai.storage.postgres.session import display_address, open_session

    return create_engine(
        "postgresql+psycopg://", creator=lambda: open_session(url), poolclass=NullPool
    ), display_address(url)


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


def newest_revision() -> str:
    """Return the newest revision, read from the file names (a test checks that they match the files' contents)."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def current_revision(url: str) -> str | None:
    """Return the schema revision of a database, or None if it has none or only Alembic can tell."""
    if not url.startswith(SQLITE):
        return _revision_on_postgres(url)
    path = Path(url.removeprefix(SQLITE))
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as database:
            rows = database.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error:
        return None
    return str(rows[0][0]) if len(rows) == 1 else None


def _revision_on_postgres(url: str) -> str | None:
    """Return the schema revision of a PostgreSQL database. Raise ConnectionLost if the server is unavailable."""
    from minitoolai.storage.postgres.connection import PostgresConnection

    with closing(PostgresConnection(url, read_only=True)) as connection:
        if connection.execute("SELECT to_regclass('alembic_version')::text") == [(None,)]:
            return None
        rows = connection.execute("SELECT version_num FROM alembic_version")
    return str(rows[0][0]) if len(rows) == 1 else None


# ── durability of a PostgreSQL server ─────────────────────────────────────────────────────────────────────

#: Server setting → what can happen when the machine crashes while the setting is off.
RISKS = {
    "fsync": "a crash of that machine can destroy the whole database",
    "full_page_writes": "a crash of that machine can leave torn pages that nothing repairs",
    "synchronous_commit": "commits of other programs can be lost; minitoolai turns it on in its own sessions",
}


def unsafe_settings(connection: Connection) -> dict[str, str]:
    """Return the durability settings that are off on the server, with the risk of each."""
    rows = connection.execute(
        "SELECT name FROM pg_settings WHERE reset_val = 'off'"
        " AND name IN ('fsync', 'full_page_writes', 'synchronous_commit') ORDER BY name"
    )
    return {row[0]: RISKS[row[0]] for row in rows}
