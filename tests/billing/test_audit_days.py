"""The incremental audit: it finds what the whole one finds, and the chain of closed days finds what came later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitoolai.billing.audit import Auditor
from minitoolai.billing.audit_days import CHAIN, CLOSE_AFTER_MS, OUTSIDE, rows_outside, verify_day
from minitoolai.billing.audit_position import CLOSED_DAY, AuditPosition, check_books, check_from
from minitoolai.core.clock import MS_PER_DAY, date_of, first_id_at
from minitoolai.core.models import Budget
from minitoolai.storage.tables import audit
from minitoolai.storage.tables.ledger import USAGE_DAYS
from tests.support.books import NOON_MS, TemporaryBooks, credit, hold, new_file, settle
from tests.support.cli import Cli
from tests.support.history import RandomWork

FIRST_DAY = NOON_MS // MS_PER_DAY


def close_days(books: TemporaryBooks) -> int:
    async def work() -> int:
        with books.writer() as writer:
            return await Auditor(books.database, writer, books.clock, audit_every_s=60).close_days()

    return asyncio.run(work())


def found(books: TemporaryBooks) -> set[str]:
    return set(check_books(books.connection, books.clock.now_ms()))


def found_by_chain(books: TemporaryBooks) -> dict[int, set[str]]:
    days = {closed.day: verify_day(books.connection, closed)[1] for closed in audit.closed_days(books.connection)}
    return {day: set(those) for day, those in days.items() if those}


def work_for_days(books: TemporaryBooks, days: int, *, first_id: int | None = None) -> RandomWork:
    """Forty pieces of work a day, all settled, and the days closed that can be."""
    work = RandomWork(books, random.Random(days), first_id=first_id)
    for _ in range(days * 40):
        books.clock.forward(86_400 / 40)
        work.step()
    work.close()
    books.apply(credit(work.accounts[0], 77))
    close_days(books)
    return work


@pytest.mark.parametrize("first_id", [None, 0], ids=["IDs with time", "IDs without time"])
def test_days_are_closed_in_order_and_the_audit_stays_empty(books: TemporaryBooks, first_id: int | None) -> None:
    work, position, closed = RandomWork(books, random.Random(4), first_id=first_id), AuditPosition(), 0
    for number in range(240):
        books.clock.forward(86_400 / 40)
        work.step()
        if number % 7 == 0:
            closed += close_days(books)
            position, wrong = check_from(position, books.connection, now_ms=books.clock.now_ms())
            assert wrong == books.broken() == {}
    work.close()
    closed += close_days(books)
    days = audit.closed_days(books.connection)
    assert [one.day for one in days] == list(range(FIRST_DAY, FIRST_DAY + closed))
    assert closed == 6
    assert found(books) == set()
    assert found_by_chain(books) == {}
    assert rows_outside(books.connection) == {}


def test_a_day_is_closed_an_hour_after_its_end_and_not_while_a_hold_of_it_is_pending(books: TemporaryBooks) -> None:
    account = books.account(1000)
    number = first_id_at(NOON_MS)
    books.apply(hold(number, account, 60), hold(number + 1, account, 60, lease_ms=None), settle(number, account, 50))
    end_ms = (FIRST_DAY + 1) * MS_PER_DAY
    books.clock.ms = end_ms + 30 * CLOSE_AFTER_MS
    assert close_days(books) == 0
    books.apply(settle(number + 1, account, 10))
    books.clock.ms = end_ms + CLOSE_AFTER_MS - 1
    assert close_days(books) == 0
    books.clock.ms += 1
    assert close_days(books) == 1
    (closed,) = audit.closed_days(books.connection)
    assert (closed.sums.requests, closed.sums.cost, closed.sums.external) == (2, 60, 1000)
    # An empty day has a link too, so that nothing can be put there unnoticed.
    books.clock.ms += 2 * MS_PER_DAY
    assert close_days(books) == 2
    assert found(books) == set()


#: Changes of one row of a closed day that leave all sums and balances as they are.
HISTORICAL = {
    "the model of a generation": "UPDATE generations SET model = 'x' WHERE id = {id}",
    "the units of a generation": "UPDATE generations SET input_units = input_units + 1 WHERE id = {id}",
    "the price of a generation": "UPDATE generations SET price_output = 5 WHERE id = {id}",
    "the upstream cost of a generation": "UPDATE generations SET purchase = 1234 WHERE id = {id}",
    "the amount of a hold": "UPDATE holds SET amount = amount + 1 WHERE id = {id}",
    "the balance after a transfer": "UPDATE transfers SET balance_after = balance_after + 1 WHERE hold_id = {id}",
    "the reason of a credit": "UPDATE transfers SET reason = 'x' WHERE kind = 'grant'",
}


@pytest.mark.parametrize("first_id", [None, 0], ids=["IDs with time", "IDs without time"])
@pytest.mark.parametrize("change", HISTORICAL)
def test_a_changed_row_of_a_closed_day_breaks_the_chain(
    books: TemporaryBooks, change: str, first_id: int | None
) -> None:
    work_for_days(books, 3, first_id=first_id)
    day = FIRST_DAY if "credit" in change else FIRST_DAY + 1
    (row,) = books.rows(
        "SELECT min(t.hold_id) FROM transfers t JOIN generations g ON g.id = t.hold_id"
        f" WHERE g.created_ms >= {day * MS_PER_DAY}"
    )
    undo = {table: books.rows(f"SELECT * FROM {table} ORDER BY 1") for table in ("transfers", "generations", "holds")}
    books.rows(HISTORICAL[change].format(id=row[0]))
    assert found(books) == set()
    broken = found_by_chain(books)
    assert set(broken) == {day}
    assert CHAIN in broken[day]
    _restore(books, undo)
    assert found_by_chain(books) == {}


def _restore(books: TemporaryBooks, tables: dict[str, list[audit.Row]]) -> None:
    columns = {
        "transfers": "id, reason, balance_after",
        "generations": "id, model, input_units, price_output, purchase",
    }
    columns["holds"] = "id, amount"
    for table, rows in tables.items():
        names = [row[0] for row in books.rows(*_names(books, table))]
        wanted = columns[table].split(", ")
        assignments = ", ".join(f"{name} = ?" for name in wanted[1:])
        for row in rows:
            values = dict(zip(names, row, strict=True))
            books.rows(f"UPDATE {table} SET {assignments} WHERE id = ?", *(values[n] for n in (*wanted[1:], "id")))


def _names(books: TemporaryBooks, table: str) -> tuple[str, str]:
    if books.database.name == "sqlite":
        return "SELECT name FROM pragma_table_info(?)", table
    return "SELECT attname FROM pg_attribute WHERE attrelid = ?::regclass AND attnum > 0 ORDER BY attnum", table


@pytest.mark.parametrize("how", ["deleted", "added"])
def test_a_row_that_is_deleted_from_or_added_to_a_closed_day_breaks_the_chain(books: TemporaryBooks, how: str) -> None:
    work_for_days(books, 3)
    day = FIRST_DAY + 1
    (free,) = books.rows(
        "SELECT min(g.id) FROM generations g JOIN holds h ON h.id = g.id WHERE h.state = 'voided' AND h.kind = 'chat'"
        f" AND g.created_ms >= {day * MS_PER_DAY}"
    )
    backup = books.rows(f"SELECT * FROM generations WHERE id = {free[0]}")[0]
    if how == "deleted":
        books.rows(f"DELETE FROM generations WHERE id = {free[0]}")
        assert set(rows_outside(books.connection)) == {OUTSIDE}
        marks = ", ".join("?" * len(backup))
        assert CHAIN in found_by_chain(books)[day]
        books.rows(f"INSERT INTO generations VALUES ({marks})", *backup)
    else:
        added = first_id_at(day * MS_PER_DAY) + 99
        account = backup[1]
        books.apply(hold(added, account, 5, now_ms=day * MS_PER_DAY + 5), settle(added, account, 3))
        # It was settled in order, but by a process with a wrong clock: balances agree, the closed day does not.
        assert found(books) == {CLOSED_DAY}
        assert found_by_chain(books) == {day: {CHAIN}}
        assert set(rows_outside(books.connection)) == {OUTSIDE}
        with books.connection.transaction():
            assert audit.reopen(books.connection, day, {}) == 2
        assert close_days(books) == 2
    assert found(books) == set()
    assert found_by_chain(books) == {}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE usage_days SET requests = requests + 1 WHERE day = {day}",
        "UPDATE audited_days SET cost = cost + 1 WHERE day = {day}",
        "DELETE FROM audited_days WHERE day = {day}",
    ],
)
def test_a_changed_daily_total_is_found(books: TemporaryBooks, change: str) -> None:
    work_for_days(books, 3)
    kept = books.rows("SELECT * FROM usage_days"), books.rows("SELECT * FROM audited_days")
    books.rows(change.format(day=FIRST_DAY + 1))
    assert CLOSED_DAY in found(books)
    assert found_by_chain(books) != {}
    for table, rows in zip(("usage_days", "audited_days"), kept, strict=True):
        books.rows(f"DELETE FROM {table}")
        for row in rows:
            books.rows(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)
    assert found(books) == set()


def test_a_changed_hash_is_found_in_its_day_and_in_the_next(books: TemporaryBooks) -> None:
    work_for_days(books, 4)
    books.rows(f"UPDATE audited_days SET hash = ? WHERE day = {FIRST_DAY + 1}", b"x" * 32)
    assert found_by_chain(books) == {FIRST_DAY + 1: {CHAIN}, FIRST_DAY + 2: {CHAIN}}
    assert found(books) == set()


def test_a_changed_row_of_an_open_day_is_found_by_the_next_full_check_of_the_server(books: TemporaryBooks) -> None:
    work = work_for_days(books, 2)
    today = books.clock.now_ms() // MS_PER_DAY * MS_PER_DAY
    number = first_id_at(today) + 5
    books.apply(hold(number, work.accounts[0], 60, now_ms=today), settle(number, work.accounts[0], 50))

    async def check_twice() -> list[set[str]]:
        with books.writer() as writer:
            auditor = Auditor(books.database, writer, books.clock, audit_every_s=60)
            assert await auditor.check() == {}
            books.rows(f"UPDATE generations SET input_units = input_units + 1 WHERE id = {number}")
            books.clock.steady += 3601
            return [set(await auditor.check()), found(books)]

    assert asyncio.run(check_twice()) == [{USAGE_DAYS}, {USAGE_DAYS}]
    books.rows(f"UPDATE generations SET input_units = input_units - 1 WHERE id = {number}")


def test_a_check_reads_what_is_new_and_no_history(books: TemporaryBooks) -> None:
    work = work_for_days(books, 3)
    position = AuditPosition(piece=7)
    assert position.check(books.connection, books.clock.now_ms()) == {}
    assert position.open_day == FIRST_DAY + 3
    # Everything is settled and older than ten minutes.
    low = position.low
    assert low > first_id_at(books.clock.now_ms() - MS_PER_DAY)
    # A row of the open day that was read is not read again, only its sums are known.
    changed = f"WHERE id < {low} AND created_ms >= {(FIRST_DAY + 3) * MS_PER_DAY}"
    books.rows(f"UPDATE generations SET input_units = input_units + 1 {changed}")
    for _ in range(20):
        books.clock.forward(600)
        work.step()
    work.close()
    assert position.check(books.connection, books.clock.now_ms()) == {}
    assert position.low > low
    assert found(books) == {USAGE_DAYS}
    books.rows(f"UPDATE generations SET input_units = input_units - 1 {changed}")
    # What is new is read.
    books.apply(hold(position.low + 2**40, work.accounts[0], 60, now_ms=books.clock.now_ms()))
    books.rows(f"UPDATE generations SET state = 'succeeded' WHERE id >= {position.low}")
    assert set(position.check(books.connection, books.clock.now_ms())) == {"the state of a generation fits its hold"}
    books.rows(f"UPDATE generations SET state = 'running' WHERE id = {position.low + 2**40}")


def test_budgets_are_compared_across_closed_days(books: TemporaryBooks) -> None:
    account, budget = books.account(1000), Budget("family", total=900)
    for day in range(3):
        at_ms = NOON_MS + day * MS_PER_DAY
        number = first_id_at(at_ms)
        books.apply(hold(number, account, 60, budget=budget, now_ms=at_ms), settle(number, account, 50))
    books.clock.ms = NOON_MS + 2 * MS_PER_DAY
    assert close_days(books) == 2
    assert books.rows("SELECT * FROM audited_budgets") == [("family", 100)]
    assert found(books) == set()
    books.rows("UPDATE key_spending SET used = used + 1 WHERE id = 'family/total'")
    assert found(books) == {"a budget has counted what its holds promise and took"}
    books.rows("UPDATE key_spending SET used = used - 1 WHERE id = 'family/total'")


# ── the commands ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[tuple[TemporaryBooks, Cli]]:
    """Books with three closed days in a data folder, and the commands beside them."""
    (tmp_path / "data").mkdir()
    books = TemporaryBooks(new_file(tmp_path / "data"))
    work_for_days(books, 4)
    yield books, Cli(tmp_path)
    books.close()


def test_the_full_audit_goes_on_where_it_was_interrupted(installed: tuple[TemporaryBooks, Cli]) -> None:
    books, cli = installed
    said = cli.within("audit", "--full")
    assert said.status == 0
    assert "4 closed days," in said.out
    last = audit.closed_days(books.connection)[-1]
    assert f"closed until {date_of(last.day)}, hash {last.hash.hex()}" in said.out
    with books.connection.transaction():
        audit.set_full_audit_place(books.connection, FIRST_DAY + 1)
    again = cli.within("audit", "--full")
    assert f"going on after {date_of(FIRST_DAY + 1)}" in again.out
    assert audit.full_audit_place(books.connection) is None


def test_a_changed_day_is_named_by_the_full_audit_until_it_is_reopened(
    installed: tuple[TemporaryBooks, Cli],
) -> None:
    books, cli = installed
    books.rows(f"UPDATE generations SET price_output = 7 WHERE created_ms / {MS_PER_DAY} = {FIRST_DAY + 1}")
    assert cli.within("audit").status == 0
    said = cli.within("audit", "--full")
    assert said.status == 1
    assert f"BROKEN: {CHAIN}\n  {date_of(FIRST_DAY + 1)}" in said.out
    assert "must be a date" in cli.within("audit", "--reopen", "yesterday").err
    assert cli.within("audit", "--reopen", date_of(FIRST_DAY + 1)).out.startswith("opened 3 days")
    assert close_days(books) == 3
    assert cli.within("audit", "--full").status == 0


def test_usage_by_day_is_rebuilt_by_a_command(installed: tuple[TemporaryBooks, Cli]) -> None:
    books, cli = installed
    kept = books.rows("SELECT * FROM usage_days ORDER BY 1, 2, 3, 4, 5")
    books.rows(f"DELETE FROM usage_days WHERE day = {FIRST_DAY + 1}")
    assert cli.within("audit").status == 1
    assert f"rebuilt {date_of(FIRST_DAY + 1)} of account" in cli.within("usage", "rebuild").out
    assert books.rows("SELECT * FROM usage_days ORDER BY 1, 2, 3, 4, 5") == kept
    assert cli.within("usage", "rebuild").out == "usage by day agrees with the generations\n"
    assert cli.within("audit").status == 0
