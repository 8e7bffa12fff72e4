"""Migrations make exactly the tables that the code describes, and running them again changes nothing."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, create_engine
from sqlalchemy.event import listen, remove
from sqlalchemy.pool import Pool

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import StoreError
from minitoolai.storage.archive.rows import GENERATION, read_lines
from minitoolai.storage.database import Connection
from minitoolai.storage.opening import MIGRATIONS, migrate, newest_revision, open_database
from minitoolai.storage.schema import metadata
from minitoolai.storage.tables import accounts, users
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.cluster import Cluster
from tests.support.history import close_days

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


@pytest.fixture
def new_postgres(cluster: Cluster) -> Iterator[str]:
    """The address of a database without a table."""
    name = cluster.create()
    yield cluster.url(name)
    cluster.drop(name)


def _differences(url: str) -> list[object]:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    return list(found)


def test_alembic_itself_sees_no_difference(tmp_path: Path, new_postgres: str) -> None:
    for url in (f"sqlite:///{tmp_path / 'new.db'}", new_postgres):
        migrate(url)
        assert _differences(url) == []


def test_both_databases_have_the_same_checks_and_indexes(tmp_path: Path, new_postgres: str) -> None:
    migrate(f"sqlite:///{tmp_path / 'new.db'}")
    migrate(new_postgres)
    ours = {name for name in _shape(tmp_path / "new.db") if name.startswith(("ix_", "uq_"))}
    checks = {str(c.name) for t in metadata.sorted_tables for c in t.constraints if isinstance(c, CheckConstraint)}
    with psycopg.connect(new_postgres) as db:
        indexes = {row[0] for row in db.execute("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")}
        found = {
            row[0] for row in db.execute("SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0")
        }
    assert ours <= indexes
    assert found == checks


def test_eight_processes_that_migrate_at_once_migrate_once(new_postgres: str) -> None:
    program = "import sys; from minitoolai.storage.opening import migrate; print(migrate(sys.argv[1])[0])"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, new_postgres], stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    before = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert before.count("None") == 1


def test_a_server_that_is_away_is_said_without_the_password(cluster: Cluster) -> None:
    with pytest.raises(StoreError, match=r"cannot reach PostgreSQL at 127\.0\.0\.1:9/books: ") as refusal:
        migrate("postgresql://books:not-for-logs@127.0.0.1:9/books")
    assert "not-for-logs" not in str(refusal.value)


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
        "import sys; from minitoolai.storage.opening import migrate; migrate(sys.argv[1]);"
        " sys.exit(any(name in sys.modules for name in ('alembic', 'sqlalchemy')))"
    )
    assert subprocess.run([sys.executable, "-c", program, url], check=False).returncode == 0


def _of_before_cheaper_checks(path: Path) -> str:
    """A database of revision 0010 with a hold in it; its address."""
    migrate(f"sqlite:///{path}", to="0010")
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO accounts (id, created_ms) VALUES (7, 1)")
        db.execute("INSERT INTO holds (id, account_id, key_id, kind, amount) VALUES (1, 7, 'k', 'chat', 5)")
        db.commit()
    return f"sqlite:///{path}"


def _check_that_its_states_are_known(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT state FROM holds").fetchall() == [("pending",)]
        with pytest.raises(sqlite3.IntegrityError, match="ck_holds_state_known"):
            db.execute("UPDATE holds SET state = 'lost'")


def test_checks_are_written_anew_around_the_rows_that_are_there(tmp_path: Path) -> None:
    url = _of_before_cheaper_checks(tmp_path / "old.db")
    assert " IN (" in str(_shape(tmp_path / "old.db")["holds"])
    migrate(url)
    assert " IN (" not in str(_shape(tmp_path / "old.db")["holds"])
    _check_that_its_states_are_known(tmp_path / "old.db")


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_database_of_before_usage_days_and_archive_is_upgraded(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """Its settled generations are in usage by day, its books add up, and its days can be closed."""
    if kind == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        url = cluster.url(cluster.create())
    else:
        url = f"sqlite:///{tmp_path / 'old.db'}"
    migrate(url, to="0014")
    with closing(open_database(url, serving=True)) as database, closing(database.connect()) as connection:
        with connection.transaction():
            accounts.ensure_system_accounts(connection, 1)
            connection.execute("INSERT INTO accounts (id, posted, held, created_ms) VALUES (1001, 91, 5, 1)")
            connection.execute(
                "INSERT INTO transfers (kind, debit, credit, amount, external_ref, account_version, balance_after,"
                " created_ms) VALUES ('grant', 2, 1001, 100, 'g', 1, 100, 1)"
            )
            _insert_old_work(connection, 7, 3, "posted", 9)
            _insert_old_work(connection, 8, 3 * MS_PER_DAY, "pending", 0)
            connection.execute(
                "INSERT INTO transfers (kind, debit, credit, amount, hold_id, account_version, balance_after,"
                " created_ms) VALUES ('usage', 1001, 1, 9, 7, 2, 91, 4)"
            )
        assert migrate(url) == ("0014", newest_revision())
        assert database.read(broken_invariants) == {}
        assert database.read(lambda c: c.execute("SELECT * FROM usage_days")) == [
            (1001, 0, "chat", "m", "k", 1, 3, 6, 9, 0)
        ]
        assert close_days(connection, 100 * MS_PER_DAY) == 3
        (line,) = database.read(read_lines, 1001, (0, -1), MS_PER_DAY, 9)
        assert line[0][GENERATION.index("price_split")] is None


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_users_of_before_teams_own_their_account_and_stay_signed_in(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    if kind == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        url = cluster.url(cluster.create())
    else:
        url = f"sqlite:///{tmp_path / 'old.db'}"
    migrate(url, to="0027")
    with closing(open_database(url, serving=True)) as database, closing(database.connect()) as connection:
        with connection.transaction():
            for number, deleted in ((1000, None), (1001, 5)):
                connection.execute("INSERT INTO accounts (id, created_ms) VALUES (?, 1)", (number,))
                connection.execute(
                    "INSERT INTO users (email, account_id, created_ms, deleted_ms) VALUES (?, ?, 1, ?)",
                    (f"u{number}@example.com", number, deleted),
                )
                connection.execute(
                    "INSERT INTO api_keys (id, account_id, name, secret_hmac, created_ms) VALUES (?, ?, '', ?, 1)",
                    (f"k{number}", number, b"h"),
                )
            connection.execute(
                "INSERT INTO sessions (secret_hash, account_id, created_ms, seen_ms, expires_ms)"
                " VALUES (?, 1000, 1, 5, 99)",
                (b"s",),
            )
        migrate(url)
        found = database.read(users.find_session, b"s", 10, 50)
        assert found is not None
        assert (found[0].account_id, found[0].user_id, found[0].role) == (1000, 1000, "owner")
        rows = database.read(lambda c: c.execute("SELECT account_id, user_id, role FROM members"))
        assert rows == [(1000, 1000, "owner")]
        keys = database.read(lambda c: c.execute("SELECT id, member_id FROM api_keys ORDER BY id"))
        assert keys == [("k1000", 1000), ("k1001", None)]


def _insert_old_work(connection: Connection, number: int, at_ms: int, state: str, cost: int) -> None:
    connection.execute(
        "INSERT INTO holds (id, account_id, key_id, kind, amount, state, settled)"
        " VALUES (?, 1001, 'k', 'chat', ?, ?, ?)",
        (number, 5 if state == "pending" else cost, state, cost),
    )
    connection.execute(
        "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
        " input_units, output_units, cost, created_ms) VALUES (?, 1001, 'k', 'chat', 'm', 'e', ?, 1, 1, 3, 6, ?, ?)",
        (number, "running" if state == "pending" else "succeeded", cost, at_ms),
    )


def test_a_sqlite_that_protects_its_schema_keeps_the_old_words(tmp_path: Path) -> None:
    url = _of_before_cheaper_checks(tmp_path / "old.db")

    def protect(connection: sqlite3.Connection, _: object) -> None:
        writable = ["OFF"]

        def judge(action: int, table: str | None, value: str | None, *_: object) -> int:
            if action == sqlite3.SQLITE_PRAGMA and table == "writable_schema" and value is not None:
                writable.append(value)
            # ALTER TABLE updates this table as well, and stays allowed.
            is_edit = action == sqlite3.SQLITE_UPDATE and table == "sqlite_master" and writable[-1] == "ON"
            return sqlite3.SQLITE_DENY if is_edit else sqlite3.SQLITE_OK

        connection.set_authorizer(judge)

    listen(Pool, "connect", protect)
    try:
        assert migrate(url) == ("0010", newest_revision())
    finally:
        remove(Pool, "connect", protect)
    assert " IN (" in str(_shape(tmp_path / "old.db")["holds"])
    _check_that_its_states_are_known(tmp_path / "old.db")


def test_a_file_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "rubbish.db"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(StoreError, match=r"cannot migrate .*rubbish.db: file is not a database"):
        migrate(f"sqlite:///{path}")
