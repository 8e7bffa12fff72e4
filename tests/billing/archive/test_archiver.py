"""Archived days: a customer reads the same as before, the books add up at every moment, and no kill loses anything."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from minitoolai.billing import payments as money
from minitoolai.billing.archive.archiver import LEAST_DAYS, ArchiveKeeper, Archiver, ServerAccess
from minitoolai.billing.archive.check import ArchiveCheck
from minitoolai.core.clock import MS_PER_DAY, first_id_at
from minitoolai.core.errors import StoreError
from minitoolai.core.models import Payment
from minitoolai.ledger.types import Credit, Credited
from minitoolai.storage.archive import rows
from minitoolai.storage.archive.files import TABLES
from minitoolai.storage.archive.lock import archive_lock
from minitoolai.storage.object_store import LocalObjectStore
from minitoolai.storage.schema import metadata
from minitoolai.storage.tables import payments
from tests.support.books import NOON_MS, TemporaryBooks, hold
from tests.support.history import close_days
from tests.support.images import PRICE, end_job, queued_job
from tests.support.old_days import (
    FIRST,
    TODAY,
    UNTIL,
    UNTIL_MS,
    TestAccess,
    archive,
    archiver,
    everything_of,
    fill,
    live,
)


def faults(books: TemporaryBooks, folder: Path) -> list[str]:
    check = ArchiveCheck(TestAccess(books), LocalObjectStore(folder))
    asyncio.run(check.run())
    return check.faults


def test_a_customer_reads_the_same_before_and_after(books: TemporaryBooks, tmp_path: Path) -> None:
    accounts = fill(books)
    before = [everything_of(books, tmp_path, account) for account in accounts]
    assert len(before[0]["statement"]) > 5_000
    assert before[2]["requests"]
    assert books.broken() == {}
    count = archive(books, tmp_path)
    assert count == 10 * 40 + len([day for day in range(FIRST, UNTIL) if day % 3 == 0])
    assert live(books) == [UNTIL, UNTIL + 1]
    assert books.broken() == {}
    assert faults(books, tmp_path) == []
    for account, expected in zip(accounts, before, strict=True):
        found = everything_of(books, tmp_path, account)
        for name, value in expected.items():
            assert found[name] == value, (account, name)
    assert books.rows("SELECT count(*) FROM holds") == books.rows("SELECT count(*) FROM generations")


def test_it_is_the_same_in_steps_and_again(books: TemporaryBooks, tmp_path: Path) -> None:
    accounts = fill(books)
    before = [everything_of(books, tmp_path, account) for account in accounts]
    for day in (FIRST + 1, FIRST + 4, UNTIL):
        archive(books, tmp_path, day * MS_PER_DAY)
        assert live(books)[0] == day
        assert books.broken() == {}
    assert archive(books, tmp_path) == 0
    assert faults(books, tmp_path) == []
    assert [everything_of(books, tmp_path, account) for account in accounts] == before


def test_what_is_read_while_days_are_archived_is_the_same(books: TemporaryBooks, tmp_path: Path) -> None:
    """Read everything at every tenth step, so also between the deletion of two pieces."""
    accounts = fill(books, each_day=20, days=3)
    before = everything_of(books, tmp_path, accounts[0])
    steps = 0

    class Reading(TestAccess):
        async def write(self, function: object) -> object:
            nonlocal steps
            result = await super().write(function)  # type: ignore[arg-type]
            steps += 1
            assert books.broken() == {}
            if steps % 5 == 0:
                found = await asyncio.to_thread(everything_of, books, tmp_path, accounts[0])
                assert found == before, steps
            return result

    archive(books, tmp_path, access=Reading(books))
    assert steps > 20


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal."""


@pytest.mark.parametrize("where", ["database", "store"])
def test_a_run_that_ends_at_any_step_loses_nothing_and_counts_nothing_twice(
    books: TemporaryBooks, tmp_path: Path, where: str
) -> None:
    accounts = fill(books, each_day=8, days=3)
    close_days(books.connection, NOON_MS)
    before = [everything_of(books, tmp_path, account) for account in accounts]
    left = 0

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    class Store(LocalObjectStore):
        async def put_file(self, path: str, data: bytes) -> None:
            step()
            await super().put_file(path, data)
            step()

    kills = 0
    for at in range(1, 500):
        left = at % 23 + 1
        access = TestAccess(books, step if where == "database" else lambda: None)
        store = Store(tmp_path) if where == "store" else LocalObjectStore(tmp_path)
        try:
            asyncio.run(archiver(books, store, access=access).archive(UNTIL_MS))
        except Killed:
            kills += 1
            assert books.broken() == {}
            continue
        break
    assert kills > 5
    assert live(books) == []
    assert faults(books, tmp_path) == []
    assert [everything_of(books, tmp_path, account) for account in accounts] == before


def test_every_column_is_archived() -> None:
    for table in TABLES:
        assert rows.COLUMNS[table] == [column.name for column in metadata.tables[table].columns]


def test_the_files_say_what_they_are(books: TemporaryBooks, tmp_path: Path) -> None:
    fill(books, each_day=9, days=2)
    archive(books, tmp_path)
    days = sorted(path.name for path in (tmp_path / "archive").iterdir())
    assert len(days) == 4
    manifests = [json.loads(next((tmp_path / "archive" / day).glob("manifest-*")).read_bytes()) for day in days]
    assert [one["day"] for one in manifests] == days
    assert manifests[0]["previous"] == ""
    assert all(one["sums"]["cost"] == one["sums"]["amount"] + one["sums"]["shortfall"] for one in manifests)
    part = next((tmp_path / "archive" / days[0]).glob("000001-*"))
    header, *lines = gzip.decompress(part.read_bytes()).splitlines()
    assert json.loads(header)["columns"]["holds"] == rows.COLUMNS["holds"]
    assert len(lines) == manifests[0]["parts"][0]["requests"] == 7


# ── what stays ────────────────────────────────────────────────────────────────────────────────────────────────────


def topped_up(books: TemporaryBooks) -> tuple[int, Payment]:
    """Return an account with an old top-up by card of $5, and the payment."""
    account, paid = fill(books, each_day=6, days=2)[0], 5_000_000_000
    old_ms = FIRST * MS_PER_DAY + 1000
    with books.connection.transaction():
        payments.insert_payment(books.connection, 77, account, paid, old_ms)
        payments.set_provider_ref(books.connection, 77, "cs_1", old_ms)
        payment = payments.find_payment(books.connection, 77)
        assert payment is not None
        payment = Payment(77, account, "stripe", "cs_1", "pi_1", paid, paid, 0, 0, 0, 1, "paid", old_ms, old_ms)
        payments.update_payment(books.connection, payment)
        payment = money.transfer_difference(books.connection, books.clock, payment)
    books.connection.execute("UPDATE transfers SET created_ms = ? WHERE external_ref = 'payment:77:1'", (old_ms,))
    archive(books, books.path.parent / "objects")
    return account, payment


def test_a_late_event_of_an_archived_top_up_credits_nothing(books: TemporaryBooks, tmp_path: Path) -> None:
    books.path = tmp_path / "x"
    account, payment = topped_up(books)
    before = books.money(account)
    late = Payment(77, account, "stripe", "cs_1", "pi_1", payment.asked, payment.paid, 0, 0, 0, 1, "paid", 1, 1)
    with books.connection.transaction():
        assert payments.payment_by_ref(books.connection, "cs_1") == payment
        assert money.transfer_difference(books.connection, books.clock, payment) == payment
        # `late` claims that nothing was credited yet; the reference of the old transfer prevents a second credit.
        money.transfer_difference(books.connection, books.clock, late)
        repeated = books.connection.execute("SELECT count(*) FROM transfers WHERE external_ref = 'payment:77:1'")
    assert repeated == [(1,)]
    assert books.money(account) == before
    (result,) = books.apply(Credit(account, 10**7, "payment", f"payment:{account}:{FIRST}", NOON_MS))
    assert isinstance(result, Credited)
    assert result.repeated
    assert books.money(account) == before


def test_a_dispute_after_five_months_finds_its_top_up(books: TemporaryBooks, tmp_path: Path) -> None:
    books.path = tmp_path / "x"
    account, payment = topped_up(books)
    books.clock.forward(150 * 86_400)
    before = books.money(account).posted
    with books.connection.transaction():
        found = payments.payment_by_intent(books.connection, "pi_1")
        assert found == payment
        disputed = Payment(*(getattr(found, name) for name in Payment.__struct_fields__))
        disputed = Payment(
            found.id, account, "stripe", "cs_1", "pi_1", found.asked, found.paid, found.paid, found.moved,
            found.version, found.looks, "paid", found.created_ms, books.clock.now_ms(),
        )  # fmt: skip
        payments.update_payment(books.connection, disputed)
        money.transfer_difference(books.connection, books.clock, disputed)
    assert books.money(account).posted == before - payment.paid
    assert books.broken() == {}


# ── what waits ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_day_with_unfinished_work_waits_and_so_do_those_after_it(books: TemporaryBooks, tmp_path: Path) -> None:
    fill(books)
    close_days(books.connection, (FIRST + 2) * MS_PER_DAY + 4_000_000)
    at_ms = (FIRST + 2) * MS_PER_DAY + 5
    account = books.account(1000)
    books.apply(hold(first_id_at(at_ms) + 900, account, 100, now_ms=at_ms))
    count, stopped = asyncio.run(archiver(books, LocalObjectStore(tmp_path)).archive(UNTIL_MS))
    assert stopped is not None
    assert (stopped.day, stopped.why_not) == (FIRST + 2, "1 unfinished requests")
    assert live(books)[0] == FIRST + 2
    assert count > 0
    assert books.broken() == {}


def test_a_day_with_prompts_or_images_waits_for_their_retention(books: TemporaryBooks, tmp_path: Path) -> None:
    account = books.account(10 * PRICE)
    job = queued_job(books, account)
    end_job(books, account, job)
    books.clock.forward((LEAST_DAYS + 5) * 86_400)
    assert close_days(books.connection, books.clock.now_ms()) == LEAST_DAYS + 5
    run = archiver(books, LocalObjectStore(tmp_path))
    _, stopped = asyncio.run(run.archive(books.clock.now_ms()))
    assert stopped is not None
    assert "prompts" in (stopped.why_not or "")
    assert "MINITOOLAI_IMAGE_RETENTION_DAYS" in (stopped.why_not or "")
    books.connection.execute("UPDATE generations SET request = NULL, result = NULL, webhook_url = NULL")
    count, stopped = asyncio.run(run.archive(books.clock.now_ms()))
    assert (count, stopped) == (1, None)


def test_no_recent_day_is_archived(books: TemporaryBooks, tmp_path: Path) -> None:
    fill(books, each_day=3, days=2)
    close_days(books.connection, NOON_MS)
    run = archiver(books, LocalObjectStore(tmp_path))
    assert run.latest_ms() == (TODAY - LEAST_DAYS) * MS_PER_DAY
    books.clock.ms = (FIRST + LEAST_DAYS + 1) * MS_PER_DAY
    count, _ = asyncio.run(run.archive(NOON_MS))
    assert count > 0
    assert live(books)[0] == FIRST + 1


def test_a_row_that_changes_after_it_was_archived_is_not_deleted(books: TemporaryBooks, tmp_path: Path) -> None:
    fill(books, each_day=6, days=1)
    close_days(books.connection, NOON_MS)
    run: Archiver = archiver(books, LocalObjectStore(tmp_path))

    async def write_only() -> None:
        async for plan in run.plan(UNTIL_MS):
            await run._write_day(plan)
            return

    asyncio.run(write_only())
    books.connection.execute("UPDATE generations SET output_units = output_units + 1 WHERE created_ms < ?", (UNTIL_MS,))
    counts = books.rows("SELECT count(*) FROM generations")
    with pytest.raises(StoreError, match="was changed after it was archived"):
        asyncio.run(run.archive(UNTIL_MS))
    assert books.rows("SELECT count(*) FROM generations") == counts
    books.connection.execute("UPDATE generations SET output_units = output_units - 1 WHERE created_ms < ?", (UNTIL_MS,))
    asyncio.run(run.archive(UNTIL_MS))


# ── tampering ─────────────────────────────────────────────────────────────────────────────────────────────────────


def change_line(path: Path) -> None:
    """Change an amount in a part, and compress it again."""
    data = gzip.decompress(path.read_bytes())
    assert data.count(b'"usage"') > 0
    path.write_bytes(gzip.compress(data.replace(b",150,600,", b",150,601,", 1), mtime=0))


def test_a_changed_file_is_found(books: TemporaryBooks, tmp_path: Path) -> None:
    account = fill(books, each_day=9, days=2)[0]
    archive(books, tmp_path)
    assert faults(books, tmp_path) == []
    parts = sorted((tmp_path / "archive").rglob("0*.gz"))
    whole = parts[0].read_bytes()
    change_line(parts[0])
    found = faults(books, tmp_path)
    assert any(parts[0].name in fault and "SHA-256 differs" in fault for fault in found), found
    with pytest.raises(StoreError, match="changed or damaged"):
        everything_of(books, tmp_path, account)
    parts[0].unlink()
    assert any("there is no object" in fault for fault in faults(books, tmp_path))
    parts[0].write_bytes(whole)
    manifest = next((tmp_path / "archive").rglob("manifest-*"))
    text = manifest.read_text()
    manifest.write_text(text.replace('"requests": 7', '"requests": 6', 1))
    assert any("manifest was changed" in fault for fault in faults(books, tmp_path))
    manifest.write_text(text)
    assert faults(books, tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE opening_balances SET amount = amount + 1",
        "UPDATE archived_budgets SET used = used + 1",
        "UPDATE archived_days SET cost = cost + 1 WHERE day = (SELECT min(day) FROM archived_days)",
        "UPDATE archived_parts SET requests = requests + 1 WHERE part = 1",
        "DELETE FROM archived_days WHERE day = (SELECT min(day) FROM archived_days)",
    ],
)
def test_a_changed_row_about_the_archive_is_found(books: TemporaryBooks, tmp_path: Path, change: str) -> None:
    fill(books, each_day=9, days=2)
    archive(books, tmp_path)
    books.connection.execute("BEGIN")
    books.connection.execute(change)
    try:
        check = ArchiveCheck(_Inside(books), LocalObjectStore(tmp_path))
        asyncio.run(check.run())
        assert check.faults
    finally:
        books.connection.execute("ROLLBACK")


class _Inside(TestAccess):
    """Reads what the open transaction sees."""

    async def read(self, function: object, *arguments: object) -> object:
        return function(self._books.connection, *arguments)  # type: ignore[operator]


# ── in a server ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_archives_by_itself_what_is_older_than_the_setting(books: TemporaryBooks, tmp_path: Path) -> None:
    accounts = fill(books, each_day=6, days=4)
    close_days(books.connection, NOON_MS)
    before = [everything_of(books, tmp_path, account) for account in accounts]

    async def keep(months: int, tries: int = 1) -> int:
        with books.writer() as writer:
            run = archiver(books, LocalObjectStore(tmp_path), access=ServerAccess(books.database, writer))
            keeper = ArchiveKeeper(books.database, run, books.clock, after_months=months)
            async with archive_lock(books.database) as is_ours:
                assert is_ours
                # Another process is at it.
                assert await keeper.archive() == 0
            # PostgreSQL may release the lock a moment later.
            for _ in range(tries):
                if done := await keeper.archive():
                    return done
                await asyncio.sleep(0.05)
            return 0

    assert asyncio.run(keep(2)) == 0
    books.clock.forward(3 * 86_400)
    assert asyncio.run(keep(2, tries=100)) > 0
    assert live(books)[0] == FIRST + 2
    assert books.broken() == {}
    books.clock.forward(-3 * 86_400)
    assert [everything_of(books, tmp_path, account) for account in accounts] == before
