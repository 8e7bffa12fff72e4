"""Audit and recovery: each invariant, violated by hand, makes `minitoolai audit` exit 1 and name it."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from minitoolai.billing.audit import Auditor, shortfall_limit
from minitoolai.billing.audit_position import AuditPosition
from minitoolai.billing.charging import Bound, Charging
from minitoolai.billing.selling import plans
from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.clock import first_id_at
from minitoolai.core.errors import SettingsError, StoreError
from minitoolai.core.models import Balance, Caller
from minitoolai.core.plans import Windows
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import LedgerState, Operation, Result, Settle, Settled
from minitoolai.settings import Settings
from minitoolai.storage.database import Database
from minitoolai.storage.selling.invoices import INVOICES
from minitoolai.storage.selling.purses import PURSES
from minitoolai.storage.tables.ledger import INVARIANTS, SHORTFALL_LIMIT, broken_invariants
from minitoolai.storage.tables.refunds import REFUNDS
from tests.support.books import (
    CHAT,
    LEASE_MS,
    TemporaryBooks,
    checkpoint,
    emptied,
    hold,
    kept_open,
    new_file,
    refund,
    settle,
)
from tests.support.cli import CATALOG as CATALOG_TEXT
from tests.support.cli import Cli
from tests.support.cluster import Cluster
from tests.support.purchases import new_payment, pay

CATALOG = parse_catalog(CATALOG_TEXT)
#: What somebody did to the file behind our back → the invariants that must then be named.
DEEDS: dict[str, tuple[str, set[str]]] = {
    "a balance one nano-dollar too high": (
        "UPDATE accounts SET posted = posted + 1 WHERE id = A",
        {"posted equals the sum of transfers", "all accounts sum to zero"},
    ),
    "two balances, one too high by what the other is too low": (
        "UPDATE accounts SET posted = posted + CASE id WHEN A THEN 1 ELSE -1 END WHERE id IN (A, B)",
        {"posted equals the sum of transfers"},
    ),
    "held one nano-dollar too low": (
        "UPDATE accounts SET held = held - 1 WHERE id = A",
        {"held equals the sum of pending holds"},
    ),
    "a balance below zero, with its transfer": (
        "INSERT INTO transfers (kind, debit, credit, amount, external_ref, account_version, balance_after, created_ms)"
        " VALUES ('theft', A, 1, 5000, 'theft', 9, 0, 5); UPDATE accounts SET posted = posted - 5000 WHERE id = A",
        {"no account below zero"},
    ),
    "a transfer to a house that is none": (
        "INSERT INTO accounts (id, is_system, created_ms) VALUES (3, 1, 5);"
        "INSERT INTO transfers (kind, debit, credit, amount, external_ref, account_version, balance_after, created_ms)"
        " VALUES ('grant', 2, 3, 50, 'odd', 1, 50, 5)",
        {"all accounts sum to zero"},
    ),
    "a transfer deleted": (
        "DELETE FROM transfers WHERE hold_id = 2",
        {
            "posted equals the sum of transfers",
            "all accounts sum to zero",
            "every posted hold has its transfer, and the reverse",
            "cost of usage equals usage transfers and shortfall",
        },
    ),
    "a settled hold made pending again": (
        "UPDATE holds SET state = 'pending', settled = 0 WHERE id = 2",
        {
            "usage by day equals the sum of its requests",
            "held equals the sum of pending holds",
            "every posted hold has its transfer, and the reverse",
            "the state of a generation fits its hold",
        },
    ),
    "a hold that says it took more than it did": (
        "UPDATE holds SET settled = settled + 1 WHERE id = 2",
        {"every posted hold has its transfer, and the reverse", "usage by day equals the sum of its requests"},
    ),
    "a charge moved to another customer's hold": (
        "UPDATE holds SET account_id = B WHERE id = 2; UPDATE generations SET account_id = B WHERE id = 2",
        {"every posted hold has its transfer, and the reverse", "usage by day equals the sum of its requests"},
    ),
    "a generation ended while its hold is pending": (
        "UPDATE generations SET state = 'succeeded' WHERE id = 1",
        {"the state of a generation fits its hold"},
    ),
    "a generation running after its hold was settled": (
        "UPDATE generations SET state = 'running' WHERE id = 2",
        {"the state of a generation fits its hold"},
    ),
    "a generation of another account than its hold": (
        "UPDATE generations SET account_id = B WHERE id = 1",
        {"the state of a generation fits its hold"},
    ),
    "a generation deleted": ("DELETE FROM generations WHERE id = 1", {"no hold without a generation"}),
    "a cost one nano-dollar too high": (
        "UPDATE generations SET cost = cost + 1 WHERE id = 2",
        {"cost of usage equals usage transfers and shortfall"},
    ),
    "a budget that counted what no hold took": (
        "INSERT INTO key_spending (id, used, created_ms) VALUES ('key000000001/total', 5, 5)",
        {"a budget has counted what its holds promise and took"},
    ),
    "output delivered for nothing": (
        "UPDATE generations SET delivered_bytes = 5, price_output = 600 WHERE id = 1",
        {"what was delivered at a price was charged"},
    ),
    "a day that counted a request twice": (
        "UPDATE usage_days SET requests = requests + 1 WHERE account_id = A",
        {"usage by day equals the sum of its requests"},
    ),
    "a day of an account forgotten": (
        "DELETE FROM usage_days WHERE account_id = A",
        {"usage by day equals the sum of its requests"},
    ),
    "a refund forgotten": ("DELETE FROM refunds WHERE generation_id = 4", {REFUNDS}),
    "a refund larger than its transfer": (
        "UPDATE refunds SET amount = 21, total = 21 WHERE generation_id = 4",
        {REFUNDS},
    ),
    "a refund of more than the charge": ("UPDATE refunds SET total = 51 WHERE generation_id = 4", {REFUNDS}),
    "a refund of another charge": ("UPDATE refunds SET cost = 49 WHERE generation_id = 4", {REFUNDS}),
    "a refund to somebody else": ("UPDATE refunds SET account_id = A WHERE generation_id = 4", {REFUNDS}),
    "a transfer of a refund from elsewhere": (
        "UPDATE transfers SET debit = 2 WHERE kind = 'usage_refund'",
        {REFUNDS},
    ),
    "a window that forgets what was spent": ("DELETE FROM purse_windows WHERE kind = 'week'", {PURSES}),
    "a window that counts too much": ("UPDATE purse_windows SET used = used + 1 WHERE kind = '5h'", {PURSES}),
    "a plan closed with credit in it": ("UPDATE purses SET state = 'closed'", {PURSES}),
    "more credit than the plan gives": ("UPDATE purses SET credit = credit + 1", {PURSES}),
    "credit that expired and is still there": ("UPDATE purses SET expired = 5", {PURSES}),
    "an account that has forgotten its plan": ("UPDATE accounts SET purse_until_ms = NULL", {PURSES}),
    "an account that believes to have a plan": ("UPDATE accounts SET purse_until_ms = 5 WHERE id = A", {PURSES}),
    "a plan that pays for somebody else": (
        "UPDATE purses SET owner_id = A; UPDATE accounts SET purse_until_ms = CASE id WHEN A THEN 5 END",
        {"every posted hold has its transfer, and the reverse"},
    ),
    "a charge of a plan moved to the balance": (
        "UPDATE holds SET purse_id = NULL WHERE id = 6",
        {"every posted hold has its transfer, and the reverse"},
    ),
    "a hold of a plan moved to the balance": (
        "UPDATE holds SET purse_id = NULL WHERE id = 7",
        {"held equals the sum of pending holds"},
    ),
    "an invoice deleted, and a gap left": ("DELETE FROM invoices WHERE number = 1", {INVOICES}),
    "a number that was never given": ("UPDATE invoice_series SET last = 3", {INVOICES}),
    "an invoice numbered twice": ("UPDATE invoices SET number = 4 WHERE number = 2", {INVOICES}),
    "an invoice over more than was paid": ("UPDATE invoices SET total = total + 1 WHERE number = 2", {INVOICES}),
    "a payment credited higher than the ledger says": ("UPDATE payments SET moved = moved - 1", {INVOICES}),
    "a payment that the ledger does not know": ("UPDATE payments SET version = 9", {INVOICES}),
    "a payment without an invoice": (
        "UPDATE payments SET created_ms = created_ms + 1 WHERE paid = 7000000000;"
        "DELETE FROM invoices WHERE number = 2; UPDATE invoice_series SET last = 1",
        {INVOICES},
    ),
    "a shortfall forgotten": (
        "UPDATE holds SET shortfall = 0 WHERE id = 3",
        {"cost of usage equals usage transfers and shortfall"},
    ),
}


def damage(books: TemporaryBooks, deed: str) -> None:
    """Write a valid ledger, then violate it without constraints: `lawless` has none, and SQLite can ignore them."""
    a, b, payer = books.account(1000), books.account(1000), books.account()
    books.apply(hold(1, a, 400), hold(2, a, 60), hold(3, b, 60), settle(2, a, 50), settle(3, b, 70))
    books.apply(hold(4, b, 60), settle(4, b, 50), refund(4, b, 20))
    with books.connection.transaction():
        plan = Plan("pro", "Pro", 100, 150, "month", Windows(five_hours=100, week=120))
        plans.buy(books.connection, books.clock, b, plan, expected_price=100, reference="plan:1")
    for cents in (500, 700):
        pay(books, CATALOG, new_payment(books, payer, cents), cents)
    books.apply(hold(6, b, 60), hold(7, b, 5), settle(6, b, 50))
    assert books.broken() == {}
    if books.database.name == "sqlite":
        books.rows("PRAGMA foreign_keys=OFF")
        books.rows("PRAGMA ignore_check_constraints=ON")
    for statement in deed.split(";"):
        books.rows(re.sub(r"\b[AB]\b", lambda who: str({"A": a, "B": b}[who[0]]), statement))


@pytest.fixture
def damaged(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Create a data folder with one violation. Not the fixture `books`, which checks the ledger at its end."""
    (tmp_path / "data").mkdir()
    books = TemporaryBooks(new_file(tmp_path / "data"))
    damage(books, request.param)
    books.close()
    return tmp_path


@pytest.fixture(scope="module")
def lawless_url(cluster: Cluster) -> Iterator[str]:
    """Create a separate database without its constraints, and return its address."""
    with kept_open(cluster.books()) as url:
        named = "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype IN ('c', 'f')"
        with psycopg.connect(url, autocommit=True) as db:
            for table, constraint in db.execute(f"{named} AND conrelid <> 0").fetchall():
                db.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")  # type: ignore[arg-type]
        yield url


@pytest.fixture
def unchecked(tmp_path: Path) -> Iterator[TemporaryBooks]:
    """Create books that are not checked at the end."""
    books = TemporaryBooks(new_file(tmp_path))
    yield books
    books.close()


@pytest.fixture
def lawless(lawless_url: str) -> Iterator[TemporaryBooks]:
    """Empty the database without constraints. Not the fixture `books`, which checks the ledger at its end."""
    books = TemporaryBooks(emptied(lawless_url))
    yield books
    books.close()


def test_every_invariant_has_a_case_that_violates_it() -> None:
    assert len(INVARIANTS) == 14
    assert set().union(*(named for _, named in DEEDS.values())) == set(INVARIANTS)


@pytest.mark.parametrize(("damaged", "named"), DEEDS.values(), ids=DEEDS, indirect=["damaged"])
def test_a_broken_invariant_makes_the_audit_exit_1_and_name_it(damaged: Path, named: set[str]) -> None:
    said = Cli(damaged).within("audit")
    assert said.status == 1
    lines = said.out.splitlines()
    assert {line.removeprefix("BROKEN: ") for line in lines if line.startswith("BROKEN: ")} == named
    # Each is followed by the rows that break it.
    assert all(lines[place + 1].startswith("  ") for place, line in enumerate(lines) if line.startswith("BROKEN"))


@pytest.mark.parametrize(("deed", "named"), DEEDS.values(), ids=DEEDS)
def test_a_broken_invariant_is_found_on_postgres_too(lawless: TemporaryBooks, deed: str, named: set[str]) -> None:
    damage(lawless, deed)
    assert set(lawless.broken()) == named


@pytest.mark.parametrize(
    "deed",
    [
        "a refund forgotten",
        "a refund larger than its transfer",
        "a refund of another charge",
        "a refund of more than the charge",
        "a window that counts too much",
        "more credit than the plan gives",
        "a number that was never given",
        "an invoice over more than was paid",
        "a payment that the ledger does not know",
    ],
)
@pytest.mark.parametrize("which", ["unchecked", "lawless"])
def test_the_audit_of_each_minute_checks_new_refunds_purses_and_invoices(
    which: str, deed: str, request: pytest.FixtureRequest
) -> None:
    books: TemporaryBooks = request.getfixturevalue(which)
    position = AuditPosition()
    now_ms = books.clock.now_ms()
    assert position.check(books.connection, now_ms) == {}
    damage(books, DEEDS[deed][0])
    found = position.check(books.connection, now_ms)
    assert set(found) == DEEDS[deed][1]
    assert position.check(books.connection, now_ms) == found, "found again, not only once"


def test_the_audit_of_a_broken_postgres_exits_1(lawless: TemporaryBooks, tmp_path: Path) -> None:
    deed, named = DEEDS["a transfer deleted"]
    damage(lawless, deed)
    said = Cli(tmp_path)("audit", MINITOOLAI_DATABASE_URL=lawless.url)
    assert said.status == 1
    assert {line.removeprefix("BROKEN: ") for line in said.out.splitlines() if line.startswith("BROKEN: ")} == named


@pytest.mark.parametrize("damaged", [DEEDS["a transfer deleted"][0]], indirect=True)
def test_doctor_finds_a_violated_invariant_too(damaged: Path) -> None:
    said = Cli(damaged)("doctor")
    assert said.status == 1
    assert "FAULT  database: the ledger does not add up: posted equals the sum of transfers" in said.out


@pytest.mark.parametrize("damaged", [DEEDS["a balance one nano-dollar too high"][0]], indirect=True)
def test_a_running_server_logs_a_violated_invariant_as_critical(
    damaged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> dict[str, object]:
        books = TemporaryBooks(new_file(damaged / "data"))
        with books.writer() as writer:
            auditor = Auditor(books.database, writer, books.clock, audit_every_s=60)
            await auditor.check()
        books.close()
        return dict(auditor.broken)

    with caplog.at_level(logging.CRITICAL):
        assert set(asyncio.run(work())) == {"posted equals the sum of transfers", "all accounts sum to zero"}
    assert "LEDGER INVARIANT VIOLATED: posted equals the sum of transfers" in caplog.text


def test_the_rows_of_a_broken_invariant_are_limited(books: TemporaryBooks) -> None:
    customers = [books.account(100) for _ in range(15)]
    books.rows("UPDATE accounts SET posted = posted + 1 WHERE is_system = 0")
    assert len(broken_invariants(books.connection)["posted equals the sum of transfers"]) == 10
    books.rows("UPDATE accounts SET posted = posted - 1 WHERE is_system = 0")
    assert len(customers) == 15


def test_a_shortfall_above_its_limit_is_a_finding_for_a_day(books: TemporaryBooks) -> None:
    async def found(limit: int | None) -> dict[str, list[Any]]:
        with books.writer() as writer:
            auditor = Auditor(books.database, writer, books.clock, audit_every_s=60, max_shortfall=limit)
            return await auditor.check()

    customer = books.account(1000)
    # Settled at 70 of 60 that were held.
    number = first_id_at(books.clock.now_ms())
    books.apply(hold(number, customer, 60), settle(number, customer, 70))
    engine = books.rows("SELECT engine FROM generations")[0][0]
    assert asyncio.run(found(9)) == {SHORTFALL_LIMIT: [(engine, 10)]}
    assert asyncio.run(found(10)) == asyncio.run(found(None)) == {}
    books.clock.forward(86_401)
    assert asyncio.run(found(9)) == {}


@pytest.mark.parametrize(("text", "limit"), [("", None), ("1.00", 10**9), ("0.000000001", 1)])
def test_the_limit_of_shortfalls_is_a_setting(text: str, limit: int | None) -> None:
    assert shortfall_limit(Settings(max_shortfall=text)) == limit
    with pytest.raises(SettingsError, match="MINITOOLAI_MAX_SHORTFALL"):
        shortfall_limit(Settings(max_shortfall="much"))


def test_old_generations_without_a_size_are_exempt_from_the_check_of_free_output(books: TemporaryBooks) -> None:
    customer = books.account(1000)
    books.apply(hold(1, customer, 60), settle(1, customer, 0))
    books.rows("UPDATE generations SET price_output = 600 WHERE id = 1")
    assert broken_invariants(books.connection) == {}
    books.rows("UPDATE generations SET delivered_bytes = 0 WHERE id = 1")
    assert broken_invariants(books.connection) == {}
    books.rows("UPDATE generations SET delivered_bytes = 1 WHERE id = 1")
    assert list(broken_invariants(books.connection)) == ["what was delivered at a price was charged"]
    books.rows("UPDATE generations SET price_output = 0, price_input = 0 WHERE id = 1")
    assert broken_invariants(books.connection) == {}


# ── recovery ──────────────────────────────────────────────────────────────────────────────────────────────


async def _recover(books: TemporaryBooks, *, force: bool = False) -> int:
    with books.writer() as writer:
        auditor = Auditor(books.database, writer, books.clock, audit_every_s=60)
        return await auditor.recover(force=force)


def test_only_holds_with_expired_leases_are_recovered(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 100), hold(2, account, 100), hold(3, account, 100, lease_ms=None))
    books.apply(checkpoint(1, account, 40, LEASE_MS), checkpoint(2, account, 40, LEASE_MS + 60_000))
    books.clock.ms = LEASE_MS + 1
    assert asyncio.run(_recover(books)) == 1
    assert books.money(account) == Balance(960, 200)
    assert books.rows("SELECT state FROM holds ORDER BY id") == [("posted",), ("pending",), ("pending",)]


def test_a_sweep_before_the_lease_ends_recovers_nothing(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 100))
    books.clock.ms = LEASE_MS - 1
    assert asyncio.run(_recover(books)) == 0


def test_the_only_process_recovers_everything_at_its_start(books: TemporaryBooks) -> None:
    account = books.account(100_000)
    books.apply(*(hold(n, account, 10) for n in range(1, 1301)))
    assert asyncio.run(_recover(books, force=True)) == 1300
    assert books.money(account) == Balance(100_000, 0)


def test_a_process_does_not_recover_holds_of_its_own_runs(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 100), hold(2, account, 100), hold(3, account, 100))
    books.clock.ms = LEASE_MS + 60_000

    async def work() -> None:
        with books.writer() as writer:
            auditor = Auditor(books.database, writer, books.clock, audit_every_s=60, in_flight=lambda: {1, 3})
            assert await auditor.recover() == 1

    asyncio.run(work())
    assert books.rows("SELECT state FROM holds ORDER BY id") == [("pending",), ("voided",), ("pending",)]


class ReadsAtOnce:
    """A database that finishes each read before the event loop runs anything else."""

    is_shared = False

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_async(self, function: Callable[..., Any], *arguments: object) -> Any:
        return self._database.read(function, *arguments)


def test_recovery_waits_until_a_granted_hold_has_its_run(books: TemporaryBooks) -> None:
    account = books.account(1000)
    carried: set[int] = set()
    database: Any = ReadsAtOnce(books.database)

    async def begin(charging: Charging) -> None:
        bound = Bound(base=100, unit=0, units=1, least_units=1)
        carried.add((await charging.reserve(Caller(account, "key000000001"), bound, CHAT)).hold_id)

    async def work() -> None:
        with books.writer() as writer:
            auditor = Auditor(database, writer, books.clock, audit_every_s=60, in_flight=lambda: carried)
            begun = asyncio.create_task(begin(Charging(writer, books.clock)))
            # One turn of the event loop to submit the hold, one to wake the writer's thread.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            # A pause of the process right after the commit, before the event loop has its result.
            while not writer.counts.commits:
                time.sleep(0.001)
            assert not carried
            books.clock.forward(60)
            assert await auditor.recover() == 0
            await begun

    asyncio.run(work())
    assert books.rows("SELECT state FROM holds") == [("pending",)]


def test_recovery_waits_for_a_deferred_charge(books: TemporaryBooks) -> None:
    account, is_full = books.account(1000), threading.Event()
    books.apply(hold(1, account, 100))
    books.clock.ms = LEASE_MS + 1
    is_full.set()

    def fails(state: LedgerState, operation: Operation) -> Result:
        if isinstance(operation, Settle) and is_full.is_set():
            raise StoreError("the disk is full")
        return decide(state, operation)

    async def work() -> None:
        with books.writer(decide=fails) as writer:
            auditor = Auditor(books.database, writer, books.clock, audit_every_s=60)
            charge = writer.submit(settle(1, account, 70))
            assert charge is not None
            # Its run has ended, so that nothing carries the hold; the sweep comes while the charge fails.
            swept = asyncio.create_task(auditor.recover())
            while writer.backlog() != (0, 2):
                await asyncio.sleep(0.01)
            # And once more: this one comes when the charge has been put off already.
            again = asyncio.create_task(auditor.recover())
            while writer.backlog() != (0, 3):
                await asyncio.sleep(0.01)
            is_full.clear()
            assert await asyncio.wait_for(charge, 10) == Settled(70)
            assert await asyncio.gather(swept, again) == [0, 0]

    asyncio.run(asyncio.wait_for(work(), 20))
    assert books.money(account) == Balance(930, 0)


def test_recovery_continues_after_a_failure(books: TemporaryBooks, caplog: pytest.LogCaptureFixture) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 100))
    books.clock.ms = LEASE_MS + 1

    async def work() -> None:
        with books.writer() as writer:
            auditor = Auditor(
                books.database, writer, books.clock, audit_every_s=60, sweep_every_s=0.02, healthy_for_s=0
            )
            books.rows("ALTER TABLE holds RENAME TO elsewhere")
            running = asyncio.create_task(auditor.run())
            for _ in range(200):
                await asyncio.sleep(0.02)
                if "hold recovery or audit failed, will retry" in caplog.text:
                    break
            books.rows("ALTER TABLE elsewhere RENAME TO holds")
            for _ in range(200):
                await asyncio.sleep(0.02)
                if books.money(account).held == 0:
                    break
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(work())
    assert "hold recovery or audit failed, will retry" in caplog.text
    assert books.money(account) == Balance(1000, 0)
