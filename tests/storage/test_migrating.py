"""A server is migrated by a child process, so that it does not keep Alembic in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from minitoolai.core.errors import StoreError
from minitoolai.storage.migrating import migrate_apart
from minitoolai.storage.opening import current_revision, migrate, newest_revision
from tests.support.cluster import Cluster


def test_a_new_and_an_old_database_become_the_newest(tmp_path: Path) -> None:
    for name in ("new", "old"):
        url = f"sqlite:///{tmp_path / name}.db"
        if name == "old":
            migrate(url, to="0010")
        migrate_apart(url)
        assert current_revision(url) == newest_revision()
        assert (tmp_path / f"{name}.db").stat().st_mode & 0o777 == 0o600


def test_a_postgres_database_too(cluster: Cluster) -> None:
    name = cluster.create()
    migrate_apart(cluster.url(name))
    assert current_revision(cluster.url(name)) == newest_revision()
    cluster.drop(name)


def test_the_libraries_stay_in_the_child(tmp_path: Path) -> None:
    program = (
        "import sys; from minitoolai.storage.migrating import migrate_apart; migrate_apart(sys.argv[1]);"
        " sys.exit(any(name in sys.modules for name in ('alembic', 'sqlalchemy', 'mako')))"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{tmp_path / 'new.db'}"]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_refusal_of_the_child_is_raised_in_its_words(tmp_path: Path) -> None:
    path = tmp_path / "wrong.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match=r"cannot migrate .*wrong\.db: file is not a database"):
        migrate_apart(f"sqlite:///{path}")


def test_a_server_that_is_away_is_reported_without_the_password() -> None:
    with pytest.raises(StoreError, match=r"cannot reach PostgreSQL") as refusal:
        migrate_apart("postgresql://books:not-for-logs@127.0.0.1:9/books")
    assert "not-for-logs" not in str(refusal.value)
