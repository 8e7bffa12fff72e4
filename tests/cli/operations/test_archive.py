"""`minitoolai archive`: killed for real at any step, alone and beside a server; SQLite files that shrink."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitoolai.billing import payments
from minitoolai.core.clock import MS_PER_DAY, SystemClock, date_of
from minitoolai.storage.archive.rows import archived_days
from minitoolai.storage.sqlite import SqliteConnection
from minitoolai.storage.tables import users
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.browse import Visitor, new_user
from tests.support.cli import CATALOG
from tests.support.cluster import Cluster
from tests.support.history import close_days, seed_history
from tests.support.server import PROGRAM, ServerProcess

EMAIL = "old@example.com"
REQUESTS = 3_000
#: Runs the command, and kills itself at the given write of the database or the store: before it, or after it.
KILLED = """
import os, signal, sys
from minitoolai.cli import main
from minitoolai.cli.operations import archive
from minitoolai.storage.object_store import LocalObjectStore

at, steps = int(sys.argv[1]), 0

def step():
    global steps
    steps += 1
    if steps == at:
        os.kill(os.getpid(), signal.SIGKILL)

def watched(function):
    async def call(*arguments):
        step()
        result = await function(*arguments)
        step()
        return result
    return call

archive._Access.write = watched(archive._Access.write)
LocalObjectStore.put_file = watched(LocalObjectStore.put_file)
main.main(sys.argv[2:])
"""


@pytest.fixture(params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with an account that has a history of 60 days."""
    env = {"MINITOOLAI_TRIES_FACTOR": "1000"}
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        env["MINITOOLAI_DATABASE_URL"] = cluster.books()
    with ServerProcess(tmp_path, catalog=CATALOG, env=env) as running:
        yield running


def fill(server: ServerProcess, requests: int = REQUESTS, days: int = 20) -> int:
    """Give the account a history that ended 40 days ago, and close its days."""
    account_id: int = server.read(lambda c: users.find_user(c, EMAIL))[0].account_id
    server.write(lambda c: payments.grant(c, SystemClock(), account_id, 10**9, reason="test"))
    end_ms = SystemClock().now_ms() - 40 * MS_PER_DAY
    with server.connect() as connection:
        seed_history(connection, account_id, requests, first_ms=end_ms - days * MS_PER_DAY, until_ms=end_ms)
        close_days(connection, SystemClock().now_ms())
    return account_id


def before_date() -> str:
    return date_of(SystemClock().now_ms() // MS_PER_DAY - 38)


def left(server: ServerProcess) -> int:
    count: int = server.read(lambda c: c.execute("SELECT count(*) FROM generations"))[0][0]
    return count


def shown(member: Visitor, page: str) -> bytes:
    """Return a file, or the table of a page: around it are tokens that differ each time."""
    content = member.open(page).content
    table = re.search(rb"<table.*?</table>", content, re.DOTALL)
    return table[0] if table else content


def test_a_statement_over_http_is_the_same_after_many_kills(server: ServerProcess) -> None:
    member = new_user(server, EMAIL)
    fill(server, 90, days=2)
    pages = ("/balance/statement.csv", "/usage/usage.csv?days=90", "/balance", "/usage/requests")
    before = {page: shown(member, page) for page in pages}
    exported = server.command("account", "export", EMAIL).stdout
    assert before[pages[0]].count(b"\n") > 80
    dry = server.command("archive", "--before", before_date(), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "90 generations of 3 days would be archived" in dry.stdout
    assert left(server) == 90
    kills = 0
    for at in range(1, 100):
        command = [sys.executable, "-c", KILLED, str(at * 5 % 17 + 1), "archive", "--before", before_date()]
        done = subprocess.run(
            [*command, "--data-dir", str(server.data_dir)],
            env=server.env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert server.read(broken_invariants) == {}
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        kills += 1
    assert kills > 5
    assert left(server) == 0
    found = server.command("archive", "--verify")
    assert (found.returncode, found.stdout) == (0, "3 archived days are as they were written\n"), found.stdout
    for page in pages:
        assert shown(member, page) == before[page], page
    assert server.command("account", "export", EMAIL).stdout == exported
    assert server.command("usage", "rebuild").stdout == "usage by day agrees with the generations\n"
    full = server.command("audit", "--full")
    assert (full.returncode, "closed days, 90 generations read\n" in full.stdout) == (0, True), full.stdout


def test_a_backup_holds_the_archived_days(server: ServerProcess, tmp_path: Path) -> None:
    new_user(server, EMAIL)
    fill(server, 50, days=1)
    exported = server.command("account", "export", EMAIL).stdout
    assert server.command("archive", "--before", before_date()).returncode == 0
    file = str(tmp_path / "b.tar.gz")
    assert server.command("backup", "--no-pictures", file).returncode == 0
    env = {name: value for name, value in server.env.items() if name != "MINITOOLAI_DATABASE_URL"}
    for command in (("restore", file), ("archive", "--verify"), ("audit", "--full")):
        done = subprocess.run(
            [*PROGRAM, *command, "--data-dir", str(tmp_path / "new")],
            env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    command = [*PROGRAM, "account", "export", EMAIL, "--data-dir", str(tmp_path / "new")]
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout == exported


def test_a_changed_file_makes_verify_fail(server: ServerProcess) -> None:
    new_user(server, EMAIL)
    fill(server, 50, days=1)
    assert server.command("archive", "--before", before_date()).returncode == 0
    part = next((server.data_dir / "objects" / "archive").rglob("0*.gz"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    found = server.command("archive", "--verify")
    assert found.returncode == 1
    assert f"BROKEN: {part.parent.name}: the archived file" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--before", "yesterday"), "write it like 2026-06-01"),
        (("--before", "2199-01-01"), "is too recent"),
        (("--verify", "--dry-run"), "--dry-run goes with --before"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    with ServerProcess(tmp_path, catalog=CATALOG) as server:
        done = server.command("archive", *arguments)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_new_sqlite_file_shrinks_by_itself(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=CATALOG, is_new=True) as server:
        new_user(server, EMAIL)
        fill(server, 12_000)
    file = server.data_dir / "minitoolai.db"
    before = file.stat().st_size
    done = server.command("archive", "--before", before_date())
    assert done.returncode == 0, done.stderr
    assert "--vacuum" not in done.stdout
    assert file.stat().st_size < before * 0.5, (before, file.stat().st_size)
    assert server.command("audit").returncode == 0


def test_an_old_sqlite_file_shrinks_by_vacuum_only_and_the_command_says_so(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=CATALOG) as server:
        new_user(server, EMAIL)
        fill(server, 8_000)
        assert "stop minitoolai serve first" in server.command("archive", "--vacuum").stderr
    file = server.data_dir / "minitoolai.db"
    as_before_this_version(file)
    before = file.stat().st_size
    done = server.command("archive", "--before", before_date())
    assert "minitoolai archive --vacuum" in done.stdout
    assert file.stat().st_size >= before
    done = server.command("archive", "--vacuum")
    assert done.returncode == 0, done.stderr
    assert file.stat().st_size < before * 0.5
    connection = SqliteConnection(file)
    assert connection.execute("PRAGMA auto_vacuum") == [(2,)]
    connection.close()
    assert server.command("audit").returncode == 0


def as_before_this_version(file: Path) -> None:
    import sqlite3

    db = sqlite3.connect(file)
    db.execute("PRAGMA auto_vacuum = NONE")
    db.execute("VACUUM")
    db.close()


def test_a_second_run_is_refused_while_one_is_at_work(server: ServerProcess) -> None:
    new_user(server, EMAIL)
    fill(server, 3_000)
    command = [sys.executable, "-m", "minitoolai", "archive", "--before", before_date(), "--data-dir"]
    first = subprocess.Popen([*command, str(server.data_dir)], env=server.env, stdout=subprocess.PIPE, text=True)
    try:
        give_up_s = time.monotonic() + 30
        while not server.read(archived_days):
            assert time.monotonic() < give_up_s
            time.sleep(0.05)
        second = server.command("archive", "--before", before_date())
        assert second.returncode == 1
        assert "another process is archiving" in second.stderr
        assert first.communicate(timeout=120)[0] == f"{3_000:,} generations were archived\n"
    finally:
        first.kill()
    assert left(server) == 0
