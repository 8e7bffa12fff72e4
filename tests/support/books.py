"""A set of books for one test: a real database with every table, a clock that stands still, and short names."""

from __future__ import annotations

import atexit
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest

from minitoolai.billing.archive.reader import ArchiveReader
from minitoolai.core.models import (
    Balance,
    Budget,
    IdempotencyClaim,
    NewGeneration,
    Outcome,
    ServingModel,
    StoredResponse,
)
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import (
    Checkpoint,
    ClaimAnswer,
    Credit,
    Operation,
    PlaceHold,
    Recover,
    Refund,
    Requeue,
    Result,
    Reverse,
    Settle,
)
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.object_store import LocalObjectStore
from minitoolai.storage.opening import migrate, open_database
from minitoolai.storage.schema import metadata
from minitoolai.storage.tables import accounts, ledger
from minitoolai.storage.writer import Writer

NOON_MS = 1_800_000_000_000
LEASE_MS = NOON_MS + 10_000
CHAT = NewGeneration("chat", "gpt-4o-mini", "fake", 150, 600)
DONE = Outcome("succeeded", input_units=3, output_units=5)
_references = itertools.count(1)


class FixedClock:
    """Time that moves when a test says so; identifiers one after the other."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        self.ms = now_ms
        self.steady = 100.0
        self._last_id = 10_000

    def now_ms(self) -> int:
        return self.ms

    def steady_s(self) -> float:
        return self.steady

    def lease_ms(self) -> int:
        return self.ms

    def new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def forward(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)
        self.steady += seconds


@cache
def _template() -> Path:
    """Migrating takes a third of a second; copying the result takes a millisecond."""
    folder = Path(tempfile.mkdtemp(prefix="minitoolai-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    migrate(f"sqlite:///{folder / 'new.db'}")
    return folder / "new.db"


def new_file(folder: Path) -> str:
    """The address of the SQLite file in this folder, made where there is none."""
    path = folder / "minitoolai.db"
    if not path.exists():
        shutil.copy(_template(), path)
    return f"sqlite:///{path}"


class KeptOpen:
    """Sessions that all tests on one database share: the first statements of a new one take ten times as long."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = psycopg.connect(url, autocommit=True)
        self._database = open_database(url, serving=False)

    @property
    def session(self) -> psycopg.Connection[Any]:
        """The session that empties the database; a new one if a test has ended it."""
        if self._session.closed or self._session.broken:
            self._session = psycopg.connect(self.url, autocommit=True)
        return self._session

    def broken(self) -> dict[str, list[Row]]:
        """What the audit says."""

        def audit(connection: Connection) -> dict[str, list[Row]]:
            # Tests count and end the sessions of the program by this name.
            connection.execute("SET application_name = 'tests'")
            return ledger.broken_invariants(connection)

        return self._database.read(audit)

    def close(self) -> None:
        self._session.close()
        self._database.close()


_kept_open: dict[str, KeptOpen] = {}


@contextmanager
def kept_open(url: str) -> Iterator[str]:
    """Keep sessions to this PostgreSQL database for `emptied` and the checks after each test, during the block."""
    _kept_open[url] = KeptOpen(url)
    try:
        yield url
    finally:
        _kept_open.pop(url).close()


def emptied(url: str) -> str:
    """A PostgreSQL database with every table and no row: in a thousandth of what making one takes."""
    names = [table.name for table in reversed(metadata.sorted_tables)]
    kept = _kept_open.get(url)
    with nullcontext(kept.session) if kept else psycopg.connect(url, autocommit=True) as db:
        # Deleting is quicker, but leaves dead rows behind, which slow everything in the end.
        if db.execute("SELECT pg_relation_size('generations') + pg_relation_size('holds') > 300000").fetchone() == (
            True,
        ):
            db.execute(f"TRUNCATE {', '.join(names)}")
        else:
            db.execute("; ".join(f"DELETE FROM {name}" for name in names))
        db.execute("ALTER SEQUENCE transfers_id_seq RESTART")
    return url


class TemporaryBooks:
    """One database, and a connection to it that may write."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.path = Path(url.removeprefix("sqlite:///"))
        self.clock = FixedClock()
        self.database = open_database(url, serving=True)
        self.connection = self.database.connect()
        with self.connection.transaction():
            accounts.ensure_system_accounts(self.connection, NOON_MS)

    def account(self, nano: int = 0) -> int:
        """A new customer with this much in the account."""
        number = next(_references)
        with self.connection.transaction():
            account = accounts.create_account(self.connection, f"customer{number}@example.com", None, NOON_MS)
        if nano:
            self.apply(credit(account, nano))
        return account

    def apply(self, *operations: Operation, decide: ledger.Decide = decide) -> list[Result]:
        """Judge and write one batch, in one transaction."""
        with self.connection.transaction():
            return ledger.apply(self.connection, operations, decide)

    def money(self, account: int) -> Balance:
        return self.database.read(accounts.balance_of, account)

    def rows(self, sql: str, *parameters: object) -> list[Row]:
        return self.connection.execute(sql, parameters)

    def archive_reader(self, folder: Path = Path("no-archive")) -> ArchiveReader:
        """Reader of the days that were archived into this folder; there are none unless the test archives some."""
        return ArchiveReader(self.database, LocalObjectStore(folder))

    def everything(self) -> dict[str, list[Row]]:
        """Every row of the ledger, to see that nothing changed."""
        return {
            t: self.rows(f"SELECT * FROM {t} ORDER BY 1")
            for t in ("accounts", "holds", "generations", "transfers", "refunds", "usage_days", "usage_buckets")
        }

    def broken(self) -> dict[str, list[Row]]:
        """What the audit says."""
        return self.database.read(ledger.broken_invariants)

    @contextmanager
    def writer(self, **options: Any) -> Iterator[Writer]:
        """A running writer on these books."""
        writer = Writer(self.database, options.pop("decide", decide), **options)
        writer.start()
        try:
            yield writer
        finally:
            writer.stop()

    def clear(self) -> None:
        """As if new, on the same connection: for examples by the hundred."""
        with self.connection.transaction():
            for table in reversed(metadata.sorted_tables):
                self.connection.execute(f"DELETE FROM {table.name}")
            accounts.ensure_system_accounts(self.connection, NOON_MS)
        if not self.url.startswith("sqlite"):
            # The comparison reads whole tables, which a writer is kept from; dead rows slow it in the end.
            self.connection.execute("RESET enable_seqscan")
            self.connection.execute("VACUUM")

    def close(self) -> None:
        self.connection.close()
        self.database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind, one after the other."""
    if request.param == "sqlite":
        return new_file(tmp_path)
    return emptied(request.getfixturevalue("postgres_url"))


def _checked(url: str) -> Iterator[TemporaryBooks]:
    fresh = TemporaryBooks(url)
    try:
        yield fresh
        assert _kept_open.get(url, fresh).broken() == {}
    finally:
        fresh.close()


@pytest.fixture
def books(database_url: str) -> Iterator[TemporaryBooks]:
    """Fresh books on either database; whatever the test did to them, they must add up in the end."""
    yield from _checked(database_url)


@pytest.fixture
def sqlite_books(tmp_path: Path) -> Iterator[TemporaryBooks]:
    """The same where SQLite itself is the subject."""
    yield from _checked(new_file(tmp_path))


@pytest.fixture
def postgres_books(postgres_url: str) -> Iterator[TemporaryBooks]:
    """The same where PostgreSQL itself is the subject."""
    yield from _checked(emptied(postgres_url))


# ── operations in few words ───────────────────────────────────────────────────────────────────────────────


def hold(
    hold_id: int,
    account: int,
    base: int = 100,
    *,
    unit: int = 0,
    units: int = 1,
    least: int = 1,
    lease_ms: int | None = LEASE_MS,
    generation: NewGeneration = CHAT,
    queue_limit: int | None = None,
    claim: str | None = None,
    answer: StoredResponse | None = None,
    budget: Budget | None = None,
    team: Budget | None = None,
    now_ms: int = NOON_MS,
    key: str = "key000000001",
) -> PlaceHold:
    head = (hold_id, account, key, generation.kind, base, unit, units, least, lease_ms, now_ms)
    claimed = IdempotencyClaim(f"{account}/{claim}", b"the same", answer=answer) if claim else None
    return PlaceHold(*head, generation, queue_limit, claimed, budget, team)


def settle(
    hold_id: int,
    account: int,
    cost: int,
    outcome: Outcome = DONE,
    *,
    attempt: int | None = None,
    answer: ClaimAnswer | None = None,
) -> Settle:
    return Settle(hold_id, account, cost, NOON_MS + 500, outcome, attempt, answer=answer)


def requeue(
    hold_id: int,
    account: int,
    attempt: int = 1,
    *,
    reason: Any = "failed",
    now_ms: int = LEASE_MS,
    most: int = 3,
    forced: bool = False,
) -> Requeue:
    return Requeue(hold_id, account, attempt, now_ms, reason, most, "broken", "it broke", forced, now_ms)


def checkpoint(
    hold_id: int, account: int, progress: int, lease_ms: int = LEASE_MS, *, serving: ServingModel | None = None
) -> Checkpoint:
    return Checkpoint(hold_id, account, progress, lease_ms, serving)


def recover(hold_id: int, account: int, now_ms: int = LEASE_MS, *, forced: bool = False) -> Recover:
    return Recover(hold_id, account, now_ms, forced, now_ms)


def reverse(account: int, amount: int, reference: str | None = None) -> Reverse:
    return Reverse(account, amount, "refund", reference or f"refund:{next(_references)}", NOON_MS, "a test")


def refund(hold_id: int, account: int, amount: int | None = None, reference: str | None = None) -> Refund:
    return Refund(hold_id, account, amount, reference or f"refund:{hold_id}:{next(_references)}", NOON_MS, "a test")


def credit(account: int, amount: int, reference: str | None = None) -> Credit:
    return Credit(account, amount, "grant", reference or f"grant:{next(_references)}", NOON_MS, "a test")
