"""The audit reports nothing while days are archived, and finds changes in the archived files afterwards."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minitoolai.billing.audit_archive import verify_closed_day
from minitoolai.billing.audit_days import CHAIN, OUTSIDE, budgets_before, rows_outside
from minitoolai.billing.audit_position import CLOSED_DAY, check_books
from minitoolai.billing.corrections import refund_charge
from minitoolai.core.clock import MS_PER_DAY, date_of, first_id_at
from minitoolai.core.errors import InvalidRequest, StoreError
from minitoolai.ledger.types import UnknownAccountOrHold
from minitoolai.storage.archive.files import part_path, sha256
from minitoolai.storage.archive.rows import archived_days, parts_of
from minitoolai.storage.object_store import LocalObjectStore
from minitoolai.storage.tables import audit, usage_days
from minitoolai.storage.tables.ledger import USAGE_DAYS
from minitoolai.storage.tables.refunds import REFUNDS
from tests.support.books import NOON_MS, TemporaryBooks, hold, new_file, refund, settle
from tests.support.cli import Cli
from tests.support.history import close_days
from tests.support.old_days import BUDGET, FIRST, UNTIL, UNTIL_MS, TestAccess, archive, archiver, everything_of, fill


def get_file(folder: Path) -> Callable[[str], bytes]:
    store = LocalObjectStore(folder)
    return lambda path: asyncio.run(store.get_file(path))


def found_in_full(books: TemporaryBooks, folder: Path) -> dict[str, list[audit.Row]]:
    """What `audit --full` finds."""
    found = check_books(books.connection, books.clock.now_ms())
    for closed in audit.closed_days(books.connection):
        for name, those in verify_closed_day(books.database, get_file(folder), closed)[1].items():
            found.setdefault(name, []).extend(those)
    return found | rows_outside(books.connection)


def test_the_full_audit_finds_nothing_while_days_are_archived(books: TemporaryBooks, tmp_path: Path) -> None:
    fill(books, each_day=20, days=3)
    close_days(books.connection, NOON_MS)
    kept = books.rows("SELECT * FROM usage_days ORDER BY 1, 2, 3, 4, 5")
    partly = steps = 0

    class Auditing(TestAccess):
        async def write(self, function: Callable[[Any], Any]) -> Any:
            nonlocal partly, steps
            result = await super().write(function)
            steps += 1
            assert rows_outside(books.connection) == {}
            assert usage_days.wrong_days(books.connection, accounts[0], 0, 2**30) == []
            assert budgets_before(books.connection, UNTIL) == audit.closed_budgets(books.connection)
            is_partly = any(one.removed_ms is None for one in archived_days(books.connection))
            partly += is_partly
            if is_partly and partly % 3 == 0:
                assert await asyncio.to_thread(found_in_full, books, tmp_path) == {}
            return result

    accounts = [row[0] for row in books.rows("SELECT id FROM accounts WHERE is_system = 0")]
    archive(books, tmp_path, access=Auditing(books))
    assert partly >= 6
    assert len(archived_days(books.connection)) == 5
    assert found_in_full(books, tmp_path) == {}
    assert books.rows("SELECT * FROM usage_days ORDER BY 1, 2, 3, 4, 5") == kept
    assert audit.closed_budgets(books.connection)[BUDGET.id] > 0


def test_a_day_that_the_audit_has_not_closed_is_not_archived(books: TemporaryBooks, tmp_path: Path) -> None:
    fill(books, each_day=6, days=3)
    # Two days are closed.
    close_days(books.connection, (FIRST + 2) * MS_PER_DAY + 4_000_000)
    count, stopped = asyncio.run(archiver(books, LocalObjectStore(tmp_path)).archive(UNTIL_MS))
    assert count > 0
    assert stopped is not None
    assert stopped.day == FIRST + 2
    assert (stopped.why_not or "").startswith("not closed by the audit yet")
    assert len(archived_days(books.connection)) == 2


def test_a_row_that_changed_after_its_day_was_closed_is_not_archived(books: TemporaryBooks, tmp_path: Path) -> None:
    fill(books, each_day=6, days=2)
    close_days(books.connection, NOON_MS)
    change = f"UPDATE generations SET output_units = output_units {{}} 1 WHERE created_ms / {MS_PER_DAY} = {FIRST}"
    books.rows(change.format("+"))
    with pytest.raises(StoreError, match="differ from those that the audit has closed"):
        archive(books, tmp_path)
    assert archived_days(books.connection) == []
    books.rows(change.format("-"))
    archive(books, tmp_path)
    assert found_in_full(books, tmp_path) == {}


def forge(books: TemporaryBooks, folder: Path) -> None:
    """Change a row in a file, and the digest of the file in the database."""
    entry = parts_of(books.connection, FIRST)[0]
    old = folder / part_path(FIRST, entry.part, entry.sha256)
    data = gzip.decompress(old.read_bytes()).replace(b",150,600,", b",150,601,", 1)
    forged = gzip.compress(data, mtime=0)
    (folder / part_path(FIRST, entry.part, sha256(forged))).write_bytes(forged)
    books.rows("UPDATE archived_parts SET sha256 = ? WHERE day = ? AND part = ?", sha256(forged), FIRST, entry.part)


def lose(books: TemporaryBooks, folder: Path) -> None:
    entry = parts_of(books.connection, FIRST)[0]
    (folder / part_path(FIRST, entry.part, entry.sha256)).unlink()


def damage(books: TemporaryBooks, folder: Path) -> None:
    entry = parts_of(books.connection, FIRST)[0]
    path = folder / part_path(FIRST, entry.part, entry.sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def add_sums(books: TemporaryBooks, folder: Path) -> None:
    books.rows(f"UPDATE archived_days SET requests = requests + 1, amount = amount + 1 WHERE day = {FIRST}")


@pytest.mark.parametrize("change", [forge, lose, damage, add_sums])
def test_a_changed_archive_breaks_the_chain(
    books: TemporaryBooks, tmp_path: Path, change: Callable[[TemporaryBooks, Path], None]
) -> None:
    fill(books, each_day=6, days=2)
    archive(books, tmp_path)
    kept = {table: books.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("archived_parts", "archived_days")}
    change(books, tmp_path)
    found = found_in_full(books, tmp_path)
    assert set(found) == {CHAIN}
    assert [row[0] for row in found[CHAIN]] == [date_of(FIRST)]
    assert set(books.broken()) == ({USAGE_DAYS} if change is add_sums else set())
    for table, rows in kept.items():
        books.rows(f"DELETE FROM {table}")
        for row in rows:
            books.rows(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)


def test_changed_usage_of_an_archived_day_is_found(books: TemporaryBooks, tmp_path: Path) -> None:
    fill(books, each_day=6, days=2)
    archive(books, tmp_path)
    change = f"UPDATE usage_days SET cost = cost {{}} 1, requests = requests {{}} 1 WHERE day = {FIRST}"
    books.rows(change.format("+", "+"))
    assert set(books.broken()) == {USAGE_DAYS}
    found = found_in_full(books, tmp_path)
    assert {CLOSED_DAY, USAGE_DAYS} <= set(found)
    assert [row[0] for row in found[USAGE_DAYS]] == [date_of(FIRST)]
    books.rows(change.format("-", "-"))
    assert found_in_full(books, tmp_path) == {}


def test_a_row_in_an_archived_day_is_found(books: TemporaryBooks, tmp_path: Path) -> None:
    account = fill(books, each_day=6, days=2)[0]
    archive(books, tmp_path)
    at_ms = FIRST * MS_PER_DAY + 5
    number = first_id_at(at_ms) + 999
    # By a process with a wrong clock: balances and usage agree, the closed day does not.
    books.apply(hold(number, account, 5, now_ms=at_ms), settle(number, account, 3))
    assert set(rows_outside(books.connection)) == {OUTSIDE}
    assert CLOSED_DAY in check_books(books.connection, NOON_MS)
    assert set(books.broken()) == {USAGE_DAYS}
    for table, column in (("transfers", "hold_id"), ("generations", "id"), ("holds", "id")):
        books.rows(f"DELETE FROM {table} WHERE {column} = {number}")
    books.rows(f"UPDATE accounts SET posted = posted + 3 WHERE id = {account}")
    cell = f"account_id = {account} AND day = {FIRST} AND kind = 'chat' AND key_id = 'key000000001'"
    books.rows(f"UPDATE usage_days SET requests = requests - 1, cost = cost - 3 WHERE {cell}")


def test_archived_days_cannot_be_opened_again_nor_rebuilt(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    books, cli = TemporaryBooks(new_file(tmp_path / "data")), Cli(tmp_path)
    fill(books)
    archive(books, tmp_path / "data" / "objects")
    kept = books.rows("SELECT * FROM usage_days ORDER BY 1, 2, 3, 4, 5")
    budgets = audit.closed_budgets(books.connection)
    said = cli.within("audit", "--reopen", date_of(UNTIL - 1))
    assert said.status == 1
    assert f"the first that can be opened is {date_of(UNTIL)}" in said.err
    assert cli.within("usage", "rebuild").out == "usage by day agrees with the generations\n"
    assert books.rows("SELECT * FROM usage_days ORDER BY 1, 2, 3, 4, 5") == kept
    assert cli.within("audit", "--full").status == 0
    assert cli.within("audit", "--reopen", date_of(UNTIL)).status == 0
    assert audit.closed_budgets(books.connection)[BUDGET.id] < budgets[BUDGET.id]
    close_days(books.connection, NOON_MS)
    assert audit.closed_budgets(books.connection) == budgets
    assert found_in_full(books, tmp_path / "data" / "objects") == {}
    books.close()


def test_a_refund_outlives_its_archived_charge_and_is_audited_with_the_file(
    books: TemporaryBooks, tmp_path: Path
) -> None:
    fill(books, each_day=20, days=3)
    charged = books.rows("SELECT id, account_id, settled FROM holds WHERE settled > 1 ORDER BY id")
    (number, account, cost), (other, _, _) = charged[0], charged[-1]
    given = msgspec.structs.replace(refund(number, account, cost - 1), now_ms=NOON_MS)
    books.apply(given)
    close_days(books.connection, NOON_MS)
    reader = books.archive_reader(tmp_path)
    before = everything_of(books, tmp_path, account)
    archive(books, tmp_path)
    assert books.rows("SELECT count(*) FROM holds WHERE id = ?", number) == [(0,)]
    assert everything_of(books, tmp_path, account) == before
    generation = asyncio.run(reader.find_generation(number, account))
    assert generation is not None
    assert (generation.cost, generation.refunded) == (cost, cost - 1)
    assert found_in_full(books, tmp_path) == {}
    # What is left of it stays: the charge is in a file.
    assert books.apply(refund(number, account, 1)) == [UnknownAccountOrHold()]
    with pytest.raises(InvalidRequest, match="If it is archived"):
        refund_charge(books.connection, books.clock, None, other, None, reason="", once="x")
    # A charge that the file does not have is found, though both tables agree.
    books.rows("UPDATE refunds SET cost = cost + 5 WHERE generation_id = ?", number)
    assert set(found_in_full(books, tmp_path)) == {REFUNDS}
    books.rows("UPDATE refunds SET cost = cost - 5 WHERE generation_id = ?", number)
