"""A PostgreSQL server of our own for the tests: private folder, local socket and a free port, gone afterwards.

`initdb` refuses root, so where the tests run as root the server runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from tests.support.programs import program

if TYPE_CHECKING:
    from tests.support.machines import Machine

USER = "books"
#: Bytes that a server may need.
ROOM = 2 << 30
_PR_SET_PDEATHSIG = 1
_numbers = itertools.count(1)


def binary(name: str) -> str:
    """A program of PostgreSQL's: on the path, or where Debian keeps the newest version."""
    found = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4].partition(".")[0])
    )
    return shutil.which(name) or (str(found[-1]) if found else program(name))


class Cluster:
    """One server. `start` after `stop` or `kill` brings back the same data on the same port."""

    def __init__(
        self, *, on_disk: bool = False, machine: Machine | None = None, copy_of: Cluster | None = None
    ) -> None:
        """Create the files. `machine`: run there instead of on loopback; `copy_of`: a standby of this server."""
        self.machine = machine
        self.host = machine.address if machine else "127.0.0.1"
        self.settings: dict[str, str] = {}
        # Memory outlives every process, so that a kill is as bad there; a measurement wants the disk.
        memory = Path("/dev/shm")
        has_room = not on_disk and memory.is_dir() and shutil.disk_usage(memory).free > ROOM
        self.folder = Path(tempfile.mkdtemp(prefix="minitoolai-pg-", dir=memory if has_room else "/tmp"))
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            owner = _somebody()
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self._as = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        command = [binary("initdb"), "-D", str(self.data), "-U", USER, "--auth=trust", "-E", "UTF8", "--locale=C"]
        if copy_of is not None:
            command = [binary("pg_basebackup"), "-D", str(self.data), "-R", "-X", "stream", "-c", "fast"]
            command += ["-d", f"host={copy_of.folder} port={copy_of.port} user={USER} application_name=standby"]
        subprocess.run(command, cwd=self.folder, timeout=120, check=True, stdout=subprocess.DEVNULL, **self._as)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> Cluster:
        """Start and wait until it answers. `fsync` stays on: a commit here is a commit.

        Not from a passing thread: the server dies with the thread that started it.
        """
        settings = {
            "port": self.port,
            "listen_addresses": self.host,
            "unix_socket_directories": self.folder,
            "max_connections": 200,
            "shared_buffers": "64MB",
            "fsync": "on",
            "log_min_messages": "error",
            "deadlock_timeout": "200ms",
            "log_lock_waits": "off",
            **self.settings,
        }
        arguments = [argument for key, value in settings.items() for argument in ("-c", f"{key}={value}")]
        on_machine = self.machine.here() if self.machine else nullcontext()
        with (self.folder / "server.log").open("ab") as log, on_machine:
            self._process = subprocess.Popen(
                [binary("postgres"), "-D", str(self.data), *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_the_tests,  # noqa: PLW1509 - a function of one system call
                **self._as,
            )
        give_up_s = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.local("postgres"), connect_timeout=5).close()
                return self
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                assert time.monotonic() < give_up_s, "PostgreSQL did not start within a minute"
                time.sleep(0.05)

    @property
    def pid(self) -> int:
        """The process ID of the server, the parent of all its processes."""
        assert self._process is not None
        return self._process.pid

    def local(self, database: str) -> str:
        """The address of a database here for this test, whichever machine the server runs on."""
        return f"postgresql://{USER}@/{database}?host={self.folder}&port={self.port}"

    def url(self, database: str, *, port: int | None = None) -> str:
        """The address of a database here; `port` of something that stands before it."""
        return f"postgresql://{USER}:not-asked-for@{self.host}:{port or self.port}/{database}"

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: everybody out at once, and a clean end. SIGQUIT: as if the power had gone."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        """Stop for good."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ── databases ─────────────────────────────────────────────────────────────────────────────────────────

    def create(self, template: str = "template1") -> str:
        """The name of a new database, a copy of `template`."""
        name = f"books{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    @cached_property
    def with_tables(self) -> str:
        """The name of a database with every table and no row: to be copied, never opened."""
        from minitoolai.storage.opening import migrate

        name = self.create()
        migrate(self.local(name))
        return name

    def books(self) -> str:
        """The address of a new database with every table: a copy, in a tenth of what migrating takes."""
        return self.url(self.create(self.with_tables))

    def drop(self, name: str) -> None:
        """Remove it, whoever is still connected."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """One statement, as the owner of the server."""
        with psycopg.connect(self.local("postgres"), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def running_cluster(*, on_disk: bool = False) -> Iterator[Cluster]:
    """A server for the block; its files in memory where there is room, unless the disk is wanted."""
    made = Cluster(on_disk=on_disk)
    try:
        yield made.start()
    finally:
        made.remove()


@cache
def _somebody() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError("this machine has neither a user postgres nor nobody to run PostgreSQL as")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _die_with_the_tests() -> None:
    """Even where the tests are killed, no server stays behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
