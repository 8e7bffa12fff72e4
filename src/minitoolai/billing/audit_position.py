"""The incremental audit: check new rows, and all balances, against sums of the rows checked before.

Generations of *closed* days (billing/audit_days.py) are known by their sums in `usage_days`. Of the other days, a
position keeps the sums of everything below an ID under which all holds are settled. Each check reads what came above
it, then compares the sums with the balances. A wrong position, or one that a process with a wrong clock went around,
can only cause a finding, never hide one in the totals: a finding is reported only if a position that reads
everything again agrees.
"""

from __future__ import annotations

from typing import TypeVar

from minitoolai.core.clock import MS_PER_DAY, first_id_at
from minitoolai.ledger.types import FUNDING, REVENUE
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.selling.invoices import INVOICES, wrong_invoices, wrong_invoices_since
from minitoolai.storage.selling.purses import PURSES, purse_of_budget, purse_owners, wrong_open_purses, wrong_purses
from minitoolai.storage.tables import audit
from minitoolai.storage.tables.audit import FAR_DAY, CellKey, CellSums, Findings, Flows
from minitoolai.storage.tables.ledger import (
    BUDGETS,
    HELD,
    HIGHEST_ID,
    INVARIANTS,
    LOWEST_ID,
    NOT_NEGATIVE,
    POSTED,
    SUM_ZERO,
    USAGE_DAYS,
)
from minitoolai.storage.tables.refunds import REFUNDS, wrong_refunds, wrong_refunds_since

K = TypeVar("K", int, str)
CLOSED_DAY = "a closed day has the sums that were audited"
#: Holds are placed at most this long after their IDs were made, by processes with different clocks.
SETTLING_MS = 600_000
#: Generations in one snapshot.
PIECE = 20_000


class _Sums:
    """Sums of the holds of open days, by day."""

    def __init__(self) -> None:
        self.cells: dict[int, dict[CellKey, CellSums]] = {}
        self.flows: dict[int, Flows] = {}
        self.budgets: dict[int, dict[str, int]] = {}

    def add(self, connection: Connection, low: int, high: int, from_day: int) -> None:
        """Add the holds with these IDs that began on this day or later."""
        for key, sums in audit.usage_cells(connection, low, high, from_day).items():
            cells = self.cells.setdefault(key[1], {})
            cells[key] = _plus(cells.get(key), sums)
        for day, flows in audit.usage_flows(connection, low, high, from_day).items():
            _add_all(self.flows.setdefault(day, {}), flows)
        for day, budgets in audit.budget_sums(connection, low, high, from_day).items():
            _add_all(self.budgets.setdefault(day, {}), budgets)

    def forget_before(self, day: int) -> None:
        """Drop the days before this one, which are closed now."""
        by_day: tuple[dict[int, object], ...] = (self.cells, self.flows, self.budgets)  # type: ignore[assignment]
        for sums in by_day:
            for old in [known for known in sums if known < day]:
                del sums[old]


class AuditPosition:
    """How far the books were checked, and the sums of everything before."""

    def __init__(self, *, from_first_id: bool = False, piece: int = PIECE) -> None:
        #: Generations of days before this one are closed.
        self.open_day = 0
        #: Holds below this ID are in the sums, if they are of open days.
        self._next_id = LOWEST_ID
        self._from_first_id = from_first_id
        self._piece = piece
        self._sums = _Sums()
        self._closed_flows: Flows | None = None
        #: Refunds and invoices before this time were checked. None: none were.
        self._documents_ms: int | None = None

    @property
    def low(self) -> int:
        """Return the first ID that the next check reads."""
        return self._next_id

    def check(self, connection: Connection, now_ms: int) -> Findings:
        """Check new rows and all balances. Every piece of the rows, and the balances, have a short snapshot each."""
        found: Findings = {}
        if self._closed_flows is None:
            rows = audit.changed_sums(connection)
            _note(found, {CLOSED_DAY: rows[: audit.ROWS_EACH]} if rows else {})
        self._follow_closed_days(connection)
        target = min([first_id_at(now_ms - SETTLING_MS), *audit.pending_ids(connection)])
        while (end := audit.end_of_piece(connection, self._next_id, target - 1, self._piece)) is not None:
            with connection.snapshot():
                _note(found, audit.violations(connection, self._next_id, end))
                self._sums.add(connection, self._next_id, end, self.open_day)
            self._next_id = end + 1
        with connection.snapshot():
            self._follow_closed_days(connection)
            _note(found, audit.violations(connection, self._next_id, HIGHEST_ID))
            fresh = _Sums()
            fresh.add(connection, self._next_id, HIGHEST_ID, self.open_day)
            _note(found, self._compare(connection, fresh))
        # Not in the snapshot, in which PostgreSQL reads whole tables. Each of these queries agrees with itself.
        _note(found, self._check_documents(connection, now_ms))
        return {name: found[name] for name in (*INVARIANTS, CLOSED_DAY) if name in found}

    def _check_documents(self, connection: Connection, now_ms: int) -> Findings:
        """Check refunds, purses and invoices: all of them first, later only those since the last check."""
        since_ms, self._documents_ms = self._documents_ms, now_ms - SETTLING_MS
        limit = audit.ROWS_EACH
        if since_ms is None:
            found = {
                REFUNDS: wrong_refunds(connection, limit),
                PURSES: wrong_purses(connection, limit),
                INVOICES: wrong_invoices(connection, limit),
            }
        else:
            found = {
                REFUNDS: wrong_refunds_since(connection, since_ms),
                PURSES: wrong_open_purses(connection, limit),
                INVOICES: wrong_invoices_since(connection, since_ms),
            }
        return {name: rows for name, rows in found.items() if rows}

    def _follow_closed_days(self, connection: Connection) -> None:
        """Read the sums of closed days, if this was not done or one more is closed."""
        last = audit.last_closed(connection)
        open_day = last.day + 1 if last is not None else 0
        if self._closed_flows is not None and open_day == self.open_day:
            return
        if open_day < self.open_day:
            # Days were opened again.
            self._next_id, self._sums = LOWEST_ID, _Sums()
        self.open_day = open_day
        self._sums.forget_before(open_day)
        if open_day and not self._from_first_id:
            self._next_id = max(self._next_id, audit.ids_of_day(open_day)[0])
        flows = audit.external_flows(connection, 0, open_day * MS_PER_DAY)
        for account, cost in audit.usage_until(connection, open_day).items():
            _add_all(flows, {account: -cost, REVENUE: cost})
        # Of that, purses paid a part in place of their owners.
        owners = purse_owners(connection)
        for name, amount in audit.closed_budgets(connection).items():
            if (purse := purse_of_budget(name)) is not None and purse in owners:
                _add_all(flows, {purse: -amount, owners[purse]: amount})
        self._closed_flows = flows

    def _compare(self, connection: Connection, fresh: _Sums) -> Findings:
        assert self._closed_flows is not None
        flows = dict(self._closed_flows)
        _add_all(flows, audit.external_flows(connection, self.open_day * MS_PER_DAY, FAR_DAY * MS_PER_DAY))
        cells: dict[CellKey, CellSums] = {}
        budgets = audit.closed_budgets(connection)
        for sums in (self._sums, fresh):
            for more in sums.flows.values():
                _add_all(flows, more)
            for counted in sums.budgets.values():
                _add_all(budgets, counted)
            for by_key in sums.cells.values():
                for key, one in by_key.items():
                    cells[key] = _plus(cells.get(key), one)
        balances, pending = audit.balances(connection), audit.pending_amounts(connection)
        customers = sum(posted for _, posted, _ in balances)
        houses = flows.get(REVENUE, 0) + flows.get(FUNDING, 0)
        table = audit.usage_table(connection, self.open_day, FAR_DAY)
        wrong = {key for key in cells.keys() | table.keys() if cells.get(key) != table.get(key)}
        found: dict[str, list[Row]] = {
            POSTED: [(a, posted, flows.get(a, 0)) for a, posted, _ in balances if posted != flows.get(a, 0)],
            HELD: [(a, held, pending.get(a, 0)) for a, _, held in balances if held != pending.get(a, 0)],
            NOT_NEGATIVE: [(a, posted, held) for a, posted, held in balances if posted < held or held < 0],
            SUM_ZERO: [(customers, houses)] if customers + houses else [],
            BUDGETS: [
                (name, used, budgets.get(name, 0))
                for name, used in audit.budget_totals(connection).items()
                if used != budgets.get(name, 0)
            ],
            USAGE_DAYS: [(*key, table.get(key), cells.get(key)) for key in sorted(wrong)],
        }
        return {name: rows[: audit.ROWS_EACH] for name, rows in found.items() if rows}


def check_books(connection: Connection, now_ms: int) -> Findings:
    """Check all open days and all balances, from their first row. Closed days are known by their sums."""
    found = AuditPosition().check(connection, now_ms)
    # A clock that was set can have put rows of open days among the IDs of closed ones.
    return AuditPosition(from_first_id=True).check(connection, now_ms) if found else found


def check_from(position: AuditPosition, connection: Connection, *, now_ms: int) -> tuple[AuditPosition, Findings]:
    """Check the rows since a position. If something is found, check all open days, and return a new position."""
    found = position.check(connection, now_ms)
    if not found:
        return position, found
    return AuditPosition(), check_books(connection, now_ms)


def _plus(one: CellSums | None, other: CellSums) -> CellSums:
    if one is None:
        return other
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3], one[4] + other[4])


def _add_all(sums: dict[K, int], more: dict[K, int]) -> None:
    for key, amount in more.items():
        sums[key] = sums.get(key, 0) + amount


def _note(found: Findings, more: Findings) -> None:
    for name, rows in more.items():
        found[name] = [*found.get(name, []), *rows][: audit.ROWS_EACH]
