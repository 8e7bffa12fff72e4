"""The audit of closed days that are archived: their rows come from the files, and have to give the hash of the day.

The hash covers columns that an archived line contains, so the same rows give the same hash wherever they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minitoolai.billing.audit_days import CHAIN, DayReader, verify_day
from minitoolai.core.clock import date_of
from minitoolai.core.errors import ObjectMissing, StoreError
from minitoolai.storage.archive import rows
from minitoolai.storage.archive.files import ArchivedRow, Part, part_path
from minitoolai.storage.archive.rows import ArchivedDay
from minitoolai.storage.database import Database, Row
from minitoolai.storage.selling.purses import purse_owners
from minitoolai.storage.tables import audit
from minitoolai.storage.tables.audit import ClosedDay, Findings
from minitoolai.storage.tables.ledger import USAGE_DAYS
from minitoolai.storage.tables.refunds import charges_of_day

#: Returns the content of a file in the object store. Raises StoreError.
GetFile = Callable[[str], bytes]
_COLUMNS = [name.split(".") for name in audit.COLUMNS]


def audit_rows(archived: Iterable[ArchivedRow]) -> list[Row]:
    """Return archived rows with the columns of `rows_of_day`."""
    return [_audit_row({"g": row.generation, "h": row.hold, "t": row.transfer or {}}) for row in archived]


def _audit_row(tables: dict[str, dict[str, Any]]) -> Row:
    return tuple(tables[table].get(name) for table, name in _COLUMNS)


def verify_closed_day(database: Database, get_file: GetFile, kept: ClosedDay) -> tuple[int, Findings]:
    """Read a closed day again, from its rows or files. Return their number, and differences from the audited day."""
    archived = database.read(rows.archived_day, kept.day)
    if archived is None:
        count, found = database.read(verify_day, kept)
        # It may have been archived while it was read.
        archived = database.read(rows.archived_day, kept.day) if found else None
        if archived is None:
            return count, found
    return _verify_archived(database, get_file, kept, archived)


def _verify_archived(
    database: Database, get_file: GetFile, kept: ClosedDay, archived: ArchivedDay
) -> tuple[int, Findings]:
    reader = DayReader(kept.day, database.read(charges_of_day, kept.day), database.read(purse_owners))
    date = date_of(kept.day)
    for entry in database.read(rows.parts_of, kept.day):
        path = part_path(kept.day, entry.part, entry.sha256)
        try:
            data = get_file(path)
        except ObjectMissing as error:
            return reader.rows, {CHAIN: [(date, str(error))]}
        try:
            part = Part(path, data, entry.sha256)
        except StoreError as error:
            return reader.rows, {CHAIN: [(date, str(error))]}
        reader.take_unordered(audit_rows(part.rows()))
    reader.take_external(database.read(audit.external_of_day, kept.day))
    now = reader.closed(database.read(audit.closed_before, kept.day))
    found: Findings = {}
    if now != kept:
        found[CHAIN] = [(date, kept.sums, now.sums)]
    elif (archived.sums.requests, archived.sums.amount) != (kept.sums.requests, kept.sums.cost):
        found[CHAIN] = [(date, kept.sums, archived.sums)]
    if not database.read(reader.agrees):
        found[USAGE_DAYS] = [(date,)]
    return reader.rows, found | reader.wrong_refunds()
