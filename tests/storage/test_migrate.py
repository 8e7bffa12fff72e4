"""Migrations make exactly the tables that the code describes, and running them again changes nothing."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from minitoolai.core.errors import StoreError
from minitoolai.storage.migrate import MIGRATIONS, migrate
from minitoolai.storage.schema import metadata

Shape = dict[str, tuple[str, frozenset[str]]]


def _shape(path: Path) -> Shape:
    """Each table and index: its kind, and the parts of its definition without order, spaces and quotes."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    shape = {}
    for name, kind, sql in rows:
        shape[name] = (kind, frozenset(_parts(re.sub(r"[\s\"]+", " ", sql))))
    return shape


def _parts(sql: str) -> Iterator[str]:
    """What stands between the outermost parentheses, at each comma there; and what stands before and after them.

    ALTER TABLE writes a new column behind the last part, on the same line.
    """
    depth, part = 0, ""
    for character in sql:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if (character, depth) in ((",", 1), ("(", 1), (")", 0)):
            yield part.strip()
            part = ""
        else:
            part += character
    yield part.strip()


def test_migrations_make_the_tables_that_the_code_describes(tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path / 'migrated.db'}")
    engine = create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    metadata.create_all(engine)
    engine.dispose()
    migrated = _shape(tmp_path / "migrated.db")
    assert migrated.pop("alembic_version")
    assert migrated == _shape(tmp_path / "created.db")


def test_alembic_itself_sees_no_difference(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    migrate(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_second_migration_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    before, newest = migrate(f"sqlite:///{path}")
    assert before is None
    content = path.read_bytes()
    assert migrate(f"sqlite:///{path}") == (newest, newest)
    assert path.read_bytes() == content


def test_the_revisions_are_one_line_without_forks() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1


def test_each_revision_is_the_beginning_of_its_files_name() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    for revision in ScriptDirectory.from_config(config).walk_revisions():
        assert Path(revision.path).name.startswith(f"{revision.revision}_")


def test_a_database_that_is_up_to_date_costs_no_import_of_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    migrate(url)
    program = (
        "import sys; from minitoolai.storage.migrate import migrate; migrate(sys.argv[1]);"
        " sys.exit(any(name in sys.modules for name in ('alembic', 'sqlalchemy')))"
    )
    assert subprocess.run([sys.executable, "-c", program, url], check=False).returncode == 0


def test_a_file_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "rubbish.db"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(StoreError, match=r"cannot migrate .*rubbish.db: file is not a database"):
        migrate(f"sqlite:///{path}")
