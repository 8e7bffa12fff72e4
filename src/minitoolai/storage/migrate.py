"""Bring a database to the newest schema. Safe to run twice, and beside a server of the same version."""

from __future__ import annotations

import logging
from pathlib import Path

from minitoolai.core.errors import StoreError

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(url: str) -> tuple[str | None, str | None]:
    """Run every migration that has not run; (revision before, revision after). `url` is SQLAlchemy's."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Alembic is imported here: a server that is up to date would pay 0.2 s for it at every start.
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
