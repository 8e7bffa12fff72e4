"""Bring a database to the newest schema. Safe to run twice, and beside a server of the same version."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from minitoolai.core.errors import StoreError

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(url: str) -> tuple[str | None, str | None]:
    """Run every migration that has not run; (revision before, revision after). `url` is SQLAlchemy's."""
    revision = _revision(url)
    if revision is not None and revision == _newest():
        return revision, revision
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Imported here: every command and every start on a database that is up to date would pay for it.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            before = MigrationContext.configure(connection).get_current_revision()
            newest = ScriptDirectory.from_config(config).get_current_head()
            if before != newest:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
            return before, newest
    except SQLAlchemyError as error:
        # The driver's own words; SQLAlchemy's go on for five lines.
        raise StoreError(f"cannot migrate {engine.url.database}: {getattr(error, 'orig', error)}") from error
    finally:
        engine.dispose()


def _newest() -> str:
    """The last revision; each file's name begins with its own (a test compares)."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _revision(url: str) -> str | None:
    """Where a SQLite file stands; None where only Alembic can tell, in its own words."""
    path = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error:
        return None
    return str(rows[0][0]) if len(rows) == 1 else None
