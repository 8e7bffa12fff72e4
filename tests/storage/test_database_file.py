"""One process serves one database file, whatever path leads to it, and notices when it is replaced or deleted."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import requests

from minitoolai.core.errors import ConnectionLost, SettingsError
from minitoolai.storage.opening import open_database
from minitoolai.storage.sqlite import SqliteConnection, exclusive_database
from tests.support import catalogs
from tests.support.ask import post
from tests.support.books import new_file
from tests.support.server import PROGRAM, ServerProcess
from tests.support.waiting import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    new_file(tmp_path)
    return tmp_path / "minitoolai.db"


def test_a_reader_never_creates_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match="cannot open"):
        SqliteConnection(tmp_path / "absent?mode=rwc.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_creates_a_private_file(tmp_path: Path) -> None:
    SqliteConnection(tmp_path / "new.db").close()
    assert (tmp_path / "new.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "what?.db", "so#so.db", "naïve.db"])
def test_a_path_with_characters_that_urls_escape_is_opened(path: Path, name: str) -> None:
    shutil.move(path, path.with_name(name))
    connection = SqliteConnection(path.with_name(name))
    assert connection.execute("SELECT count(*) FROM transfers") == [(0,)]
    connection.close()


@pytest.mark.parametrize("event", ["deleted", "moved", "replaced", "folder moved"])
def test_a_write_to_a_file_that_is_gone_is_refused(path: Path, event: str) -> None:
    database = open_database(f"sqlite:///{path}", serving=True)
    connection = SqliteConnection(path)
    assert database.why_gone() is None
    aside = path.with_name("aside.db")
    if event == "deleted":
        path.unlink()
    elif event == "folder moved":
        path.parent.rename(path.parent.with_name("elsewhere"))
    else:
        path.rename(aside)
        if event == "replaced":
            shutil.copy(aside, path)
    said = "was replaced by another file" if event == "replaced" else "was deleted or moved away"
    assert said in (database.why_gone() or "")
    with pytest.raises(ConnectionLost, match=said), connection.transaction():
        raise AssertionError("the transaction began")
    if event in ("moved", "replaced"):
        aside.rename(path)
        assert database.why_gone() is None
        with connection.transaction():
            connection.execute("DELETE FROM sessions")
    connection.close()
    database.close()


@pytest.mark.parametrize("kind", ["same", "hard link", "symbolic link", "folder link"])
def test_the_lock_is_on_the_file_whatever_its_path(path: Path, tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other"
    if kind == "folder link":
        other.symlink_to(tmp_path)
        other /= path.name
    elif kind == "hard link":
        os.link(path, other)
    elif kind == "symbolic link":
        other.symlink_to(path)
    else:
        other = path
    with (
        exclusive_database(path),
        pytest.raises(SettingsError, match="is already using the database"),
        exclusive_database(other),
    ):
        raise AssertionError("locked twice")
    with exclusive_database(other):
        pass


def test_another_database_is_not_locked(path: Path) -> None:
    with exclusive_database(path), exclusive_database(path.with_name("second.db")):
        assert path.with_name("second.db").stat().st_mode & 0o777 == 0o600
    # Nothing was written to it.
    assert not path.with_name("second.db").exists()


@pytest.mark.acceptance
def test_a_server_whose_database_is_moved_refuses_until_it_is_back(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=catalogs.FAKE) as server:
        account = server.account()
        assert post(account).status_code == 200
        account.settled()
        second = tmp_path / "second"
        second.mkdir()
        shutil.copy(server.data_dir / "secret.key", second)
        os.link(server.data_dir / "minitoolai.db", second / "minitoolai.db")
        refused = subprocess.run(
            [*PROGRAM, "serve", "--port", "0", "--data-dir", str(second)],
            env=server.env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert refused.returncode == 1
        assert "is already using the database" in refused.stderr
        path, aside = server.data_dir / "minitoolai.db", server.data_dir / "aside.db"
        path.rename(aside)
        eventually(lambda: requests.get(server.url + "/readyz", timeout=10).status_code == 503, within_s=10)
        seen: list[str] = []

        def is_refused() -> bool:
            answer = post(account)
            seen.append(f"{answer.status_code} {answer.text[:100]}")
            return answer.status_code == 503

        try:
            eventually(is_refused, within_s=10)
        except AssertionError:
            print(seen, server.log.read_text()[-4_000:])
            raise
        eventually(lambda: "was deleted or moved away" in server.log.read_text(), within_s=15)
        assert not path.exists()
        aside.rename(path)
        eventually(lambda: post(account).status_code == 200, within_s=15)
        assert requests.get(server.url + "/readyz", timeout=10).status_code == 200
        account.settled()
