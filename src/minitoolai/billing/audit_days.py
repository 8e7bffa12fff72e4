"""Closed days: each is checked once, and its sums are kept, chained by a hash.

A day can be closed an hour after its end, once no hold of it or of an earlier day is pending, all its rows satisfy the
invariants, and `usage_days` equals them. From then on nothing changes it: a generation never changes after its hold is
settled, and a new one belongs to the day on which it begins. The hash of a day covers every such column of its
generations, holds and transfers, its credits and reversals, its sums, and the hash of the day before. So a row that is
changed later differs from its own day's hash, and a hash that is changed differs from that of the next day. A closed
day can be archived (billing/archive/archiver.py): its hash is then compared with the files (billing/audit_archive.py).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from minitoolai.core.catalog.prices import APART, decode_parts, nano_of
from minitoolai.core.clock import ID_SLACK_MS, MS_PER_DAY, date_of
from minitoolai.core.models import split_budget_ids
from minitoolai.ledger.types import FIRST_CUSTOMER
from minitoolai.storage.archive.rows import archived_days, openings, rows_left
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.selling.purses import purse_budget, purse_owners
from minitoolai.storage.tables import audit
from minitoolai.storage.tables.audit import COLUMNS, FAR_DAY, BucketKey, CellKey, CellSums, ClosedDay, DaySums, Findings
from minitoolai.storage.tables.ledger import USAGE_DAYS
from minitoolai.storage.tables.refunds import REFUNDS, charges_of_day
from minitoolai.storage.tables.reports import oldest_pending_ms

#: A day is not closed before this long after its end. An hour, as for IDs: a clock may be wrong by less.
CLOSE_AFTER_MS = ID_SLACK_MS
#: As shown to the operator if it is violated.
CHAIN = "a closed day has the rows that were audited"
OUTSIDE = "every generation belongs to a closed or an open day"
#: Generations in one read.
PAGE = 1_000
_encode = msgspec.msgpack.Encoder().encode


class DayReader:
    """Check each row of one day, and add up what the day needs to be closed.

    The rows come from the database in pages, in the order of their IDs, or from files, in any order.
    """

    def __init__(
        self,
        day: int,
        refunded: Mapping[int, tuple[int, int]] | None = None,
        owners: Mapping[int, int] | None = None,
    ) -> None:
        """`refunded`: account and charge of the day's refunded generations, as their refunds say.

        `owners`: purse → its owner.
        """
        self.day = day
        self._owners = owners or {}
        self.cells: dict[CellKey, CellSums] = {}
        self.buckets: dict[BucketKey, tuple[int, int]] = {}
        #: What the day's holds took of each budget and of each purse (`purse_budget`).
        self.budgets: dict[str, int] = {}
        #: IDs of rows that violate an invariant or are not settled.
        self.wrong: list[tuple[object, ...]] = []
        #: Refunded generations that were not read yet, or that have another account or charge.
        self.uncharged = dict(refunded or {})
        #: Rows of `usage_days` that differ from the generations.
        self.different: list[tuple[object, ...]] = []
        self.rows = 0
        self._external = 0
        self._digest, self._external_digest = hashlib.sha256(), hashlib.sha256()
        #: Each begins with its ID.
        self._unordered: list[bytes] = []

    def pages(self, connection: Connection, ids: tuple[int, int]) -> Iterator[int]:
        """Read the rows with these IDs, a page in each step, then the external money. Yield the number of rows."""
        low, high = ids
        while (end := audit.end_of_piece(connection, low, high, PAGE)) is not None:
            rows = audit.rows_of_day(connection, self.day, low, end)
            self._digest.update(b"".join(self._take(rows)))
            low = end + 1
            yield len(rows)
        self.take_external(audit.external_of_day(connection, self.day))

    def take_unordered(self, rows: Sequence[Row]) -> None:
        """Add rows with the columns of `rows_of_day` in any order: about 80 bytes of memory for each."""
        self._unordered += self._take(rows)

    def take_external(self, rows: Sequence[Row]) -> None:
        """Add the rows of `external_of_day`."""
        for row in rows:
            self._external_digest.update(_encode(row))
            self._external += row[4] if row[2] < FIRST_CUSTOMER else -row[4]

    def _take(self, rows: Sequence[Row]) -> list[bytes]:
        """Add these rows, and return the ID and the SHA-256 of each, which sort by ID."""
        self.rows += len(rows)
        cells, digests = self.cells, []
        for row in rows:
            digests.append((row[0] + 2**63).to_bytes(8) + hashlib.sha256(_encode(row)).digest())
            settled = row[_SETTLED]
            if not self._is_settled(row):
                self.wrong.append((row[0], row[_STATE], row[_HOLD_STATE], settled, row[_AMOUNT]))
                continue
            if self.uncharged.get(row[0]) == (row[1], settled):
                del self.uncharged[row[0]]
            key = (row[1], self.day, row[_KIND], row[_MODEL], row[2])
            old = cells.get(key, (0, 0, 0, 0, 0))
            cells[key] = (
                old[0] + 1,
                old[1] + row[_INPUT],
                old[2] + row[_OUTPUT],
                old[3] + settled,
                old[4] + (row[_PURCHASE] or 0),
            )
            if row[_SPLIT] is not None:
                self._add_split(key, row[_SPLIT])
            for budget_id in split_budget_ids(row[_BUDGET]):
                self.budgets[budget_id] = self.budgets.get(budget_id, 0) + settled
            if row[_DEBIT] is not None and row[_DEBIT] != row[1]:
                purse = purse_budget(row[_DEBIT])
                self.budgets[purse] = self.budgets.get(purse, 0) + settled
        return digests

    def _is_settled(self, row: Row) -> bool:
        """Return True if generation, hold and transfer are final and agree with each other."""
        account, settled = row[1], row[_SETTLED]
        if row[_HOLD_STATE] not in ("posted", "voided") or row[_STATE] in ("queued", "running"):
            return False
        if row[_HOLD_ACCOUNT] != account or row[_COST] != settled + row[_SHORTFALL]:
            return False
        if row[_HOLD_STATE] == "voided":
            return row[_AMOUNT] is None and bool(settled == 0)
        return bool(row[_AMOUNT] == settled and account in (row[_DEBIT], self._owners.get(row[_DEBIT])))

    def _add_split(self, key: CellKey, split: str) -> None:
        for part in decode_parts(split):
            if part.bucket in APART:
                units, cost = self.buckets.get((*key, part.bucket), (0, 0))
                self.buckets[*key, part.bucket] = units + part.units, cost + nano_of(part)

    def agrees(self, connection: Connection) -> bool:
        """Return True if both tables of usage have the sums of the rows."""
        cells = audit.usage_table(connection, self.day, self.day + 1)
        return cells == self.cells and audit.bucket_table(connection, self.day) == self.buckets

    def wrong_refunds(self) -> Findings:
        """Return the refunds of generations that the day does not have, or not with this account and charge."""
        rows: list[Row] = [(date_of(self.day), name, *charge) for name, charge in sorted(self.uncharged.items())]
        return {REFUNDS: rows[: audit.ROWS_EACH]} if rows else {}

    def closed(self, before: bytes) -> ClosedDay:
        """Return the day as it is to be kept, after the hash of the day before (empty for the first)."""
        requests, input_units, output_units, cost, purchase = map(sum, zip((0,) * 5, *self.cells.values(), strict=True))
        sums = DaySums(requests, input_units, output_units, cost, purchase, self._external)
        head = _encode((self.day, *msgspec.structs.astuple(sums)))
        rows = self._digest.copy()
        rows.update(b"".join(sorted(self._unordered)))
        whole = before + head + rows.digest() + self._external_digest.digest()
        return ClosedDay(self.day, sums, hashlib.sha256(whole).digest())


_KIND, _MODEL, _STATE = COLUMNS["g.kind"], COLUMNS["g.model"], COLUMNS["g.state"]
_INPUT, _OUTPUT, _PURCHASE = COLUMNS["g.input_units"], COLUMNS["g.output_units"], COLUMNS["g.purchase"]
_SPLIT = COLUMNS["g.price_split"]
_COST, _SETTLED, _SHORTFALL = COLUMNS["g.cost"], COLUMNS["h.settled"], COLUMNS["h.shortfall"]
_HOLD_ACCOUNT, _HOLD_STATE, _BUDGET = COLUMNS["h.account_id"], COLUMNS["h.state"], COLUMNS["h.budget_id"]
_DEBIT, _AMOUNT = COLUMNS["t.debit"], COLUMNS["t.amount"]


def next_closable(connection: Connection, now_ms: int) -> tuple[int, bytes] | None:
    """Return the first day that is not closed, and the hash before it, or None if it cannot be closed yet."""
    last = audit.last_closed(connection)
    day = last.day + 1 if last is not None else audit.first_day(connection)
    if day is None:
        return None
    end_ms = (day + 1) * MS_PER_DAY
    pending_ms = oldest_pending_ms(connection)
    if now_ms < end_ms + CLOSE_AFTER_MS or (pending_ms is not None and pending_ms < end_ms):
        return None
    return day, last.hash if last is not None else b""


def read_day(connection: Connection, day: int, *, pause: bool = False) -> DayReader:
    """Read one day and check it. With `pause`, wait after each page as long as it took, to leave the processor free."""
    table = _merge(audit.usage_table(connection, day, day + 1), audit.bucket_table(connection, day))
    owners = purse_owners(connection)
    # A clock that was set puts IDs far from their day: look at all of them, before anything is called wrong.
    for ids in (audit.ids_of_day(day), audit.ALL_IDS):
        reader, began_s = DayReader(day, owners=owners), time.monotonic()
        for _ in reader.pages(connection, ids):
            if pause:
                time.sleep(time.monotonic() - began_s)
                began_s = time.monotonic()
        counted = _merge(reader.cells, reader.buckets)
        if not reader.wrong and counted == table:
            break
    different = (key for key in counted.keys() | table.keys() if counted.get(key) != table.get(key))
    reader.different = [(*key, table.get(key), counted.get(key)) for key in sorted(different, key=repr)]
    return reader


def _merge(
    cells: dict[CellKey, CellSums], buckets: dict[BucketKey, tuple[int, int]]
) -> dict[tuple[object, ...], tuple[int, ...]]:
    """Return the rows of both tables of usage."""
    merged: dict[tuple[object, ...], tuple[int, ...]] = dict(cells.items())
    merged.update(buckets.items())
    return merged


def verify_day(connection: Connection, kept: ClosedDay) -> tuple[int, Findings]:
    """Read a closed day again. Return the number of its rows, and the differences from the audited day."""
    before = audit.closed_before(connection, kept.day)
    refunded = charges_of_day(connection, kept.day)
    owners = purse_owners(connection)
    reader = DayReader(kept.day, refunded, owners)
    for ids in (audit.ids_of_day(kept.day), audit.ALL_IDS):
        reader = DayReader(kept.day, refunded, owners)
        for _ in reader.pages(connection, ids):
            pass
        if (now := reader.closed(before)) == kept:
            break
    found: Findings = {} if now == kept else {CHAIN: [(date_of(kept.day), kept.sums, now.sums)]}
    if not reader.agrees(connection):
        found[USAGE_DAYS] = [(date_of(kept.day),)]
    return reader.rows, found | reader.wrong_refunds()


def rows_outside(connection: Connection) -> Findings:
    """Count all generations and holds, and compare with those of the days. Call it when all days are checked."""
    with connection.snapshot():
        last = audit.last_closed(connection)
        archived = {one.day for one in archived_days(connection)}
        closed = sum(one.sums.requests for one in audit.closed_days(connection) if one.day not in archived)
        # Of the day that is being archived, some are left.
        closed += rows_left(connection)
        table = audit.usage_table(connection, last.day + 1 if last is not None else 0, FAR_DAY)
        expected = closed + sum(sums[0] for sums in table.values()) + len(audit.pending_ids(connection))
        generations, holds = audit.counts(connection)
    return {} if generations == holds == expected else {OUTSIDE: [(generations, holds, expected)]}


def budgets_before(connection: Connection, day: int) -> dict[str, int]:
    """Return the spending of budgets in the closed days before this one: of rows, and of archived days.

    The caller holds the lock of the archive, so that no row is archived meanwhile.
    """
    _, budgets = openings(connection)
    for closed in audit.closed_days(connection):
        if closed.day < day:
            for name, amount in read_day(connection, closed.day).budgets.items():
                budgets[name] = budgets.get(name, 0) + amount
    return budgets
