"""Rows about archived days, and the rows that are archived. Plain functions of a connection.

An archived day is complete once its row in `archived_days` exists: rows of its parts that were written before a crash
mean nothing and are replaced. From then on readers take the whole day from its files, also while its rows are still
being deleted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import StoreError
from minitoolai.core.models import split_budget_ids
from minitoolai.storage.archive.files import Line, PartEntry, Sums, encode_line, line_digest, manifest_path, part_path
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.selling.purses import purse_budget

GENERATION = (
    "id", "account_id", "key_id", "kind", "model", "engine", "served_model", "state", "price_input", "price_output",
    "input_units", "output_units", "cached_units", "estimated", "cost", "request", "result", "seed", "attempts",
    "purchase", "attempt", "lease_until_ms", "error_code", "created_ms", "first_token_ms", "finished_ms", "size",
    "turn", "failures", "worker", "step", "error", "webhook_url", "delivered_bytes", "price_split", "losses",
)  # fmt: skip
HOLD = (
    "id", "account_id", "key_id", "kind", "amount", "progress", "state", "settled", "shortfall", "lease_until_ms",
    "budget_id", "budget_ms", "purse_id",
)  # fmt: skip
TRANSFER = (
    "id", "kind", "debit", "credit", "amount", "hold_id", "external_ref", "account_version", "balance_after", "reason",
    "created_ms",
)  # fmt: skip
COLUMNS = {"generations": list(GENERATION), "holds": list(HOLD), "transfers": list(TRANSFER)}

_ALL = ", ".join(
    f"{alias}.{name}" for alias, names in (("g", GENERATION), ("h", HOLD), ("t", TRANSFER)) for name in names
)
_WITH_HOLD, _WITH_TRANSFER = len(GENERATION), len(GENERATION) + len(HOLD)
_ID, _CREATED_MS = GENERATION.index("id"), GENERATION.index("created_ms")
_ACCOUNT, _BUDGET, _SETTLED = (HOLD.index(name) for name in ("account_id", "budget_id", "settled"))
_DEBIT, _CREDIT, _AMOUNT = (TRANSFER.index(name) for name in ("debit", "credit", "amount"))


class ArchivedDay(msgspec.Struct, frozen=True):
    """An archived day: its sums, the SHA-256 of its manifest, and when its rows were deleted, if they were."""

    day: int
    sums: Sums
    manifest: str
    removed_ms: int | None


class AccountPart(msgspec.Struct, frozen=True):
    """A file with rows of one account: when they began, and which of the account's transfers they have."""

    day: int
    part: int
    sha256: str
    first_ms: int
    last_ms: int
    first_version: int | None
    last_version: int | None

    @property
    def path(self) -> str:
        """Return the path of the file in the object store."""
        return part_path(self.day, self.part, self.sha256)


class DayState(msgspec.Struct, frozen=True):
    """What an account has in a day, and what of it keeps the day from being archived."""

    requests: int = 0
    pending: int = 0
    prompts: int = 0
    images: int = 0
    messages: int = 0

    def __add__(self, other: DayState) -> DayState:
        return DayState(*map(sum, zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)))


# ── what can be archived ──────────────────────────────────────────────────────────────────────────────────────────


def first_times(connection: Connection, after: int, from_ms: int, limit: int) -> list[tuple[int, int | None]]:
    """Return the next accounts, each with the time of its first generation that began at this time or later."""
    rows = connection.execute(
        "SELECT a.id, (SELECT min(g.created_ms) FROM generations g WHERE g.account_id = a.id AND g.created_ms >= ?)"
        " FROM accounts a WHERE a.id > ? ORDER BY a.id LIMIT ?",
        (from_ms, after, limit),
    )
    return [(row[0], row[1]) for row in rows]


def activity(connection: Connection, after: int, from_ms: int, until_ms: int, limit: int) -> list[tuple[int, bool]]:
    """Return the next accounts, and whether each has a generation that began in this time."""
    rows = connection.execute(
        "SELECT a.id, EXISTS (SELECT 1 FROM generations g WHERE g.account_id = a.id AND g.created_ms >= ?"
        " AND g.created_ms < ?) FROM accounts a WHERE a.id > ? ORDER BY a.id LIMIT ?",
        (from_ms, until_ms, after, limit),
    )
    return [(row[0], bool(row[1])) for row in rows]


def day_state(connection: Connection, account_id: int, from_ms: int, until_ms: int) -> DayState:
    """Return what an account has in this time."""
    counts = connection.execute(
        "SELECT count(*), coalesce(sum(CASE WHEN h.state = 'pending' THEN 1 ELSE 0 END), 0),"
        " coalesce(sum(CASE WHEN g.request IS NULL AND g.webhook_url IS NULL THEN 0 ELSE 1 END), 0),"
        " coalesce(sum(CASE WHEN g.result IS NULL THEN 0 ELSE 1 END), 0)"
        " FROM generations g JOIN holds h ON h.id = g.id"
        " WHERE g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ?",
        (account_id, from_ms, until_ms),
    )[0]
    messages = connection.execute(
        "SELECT count(*) FROM outbox o JOIN generations g ON g.id = o.generation_id"
        " WHERE o.account_id = ? AND g.created_ms >= ? AND g.created_ms < ?",
        (account_id, from_ms, until_ms),
    )[0]
    return DayState(*map(int, (*counts, *messages)))


def has_older_claims(connection: Connection, until_ms: int) -> bool:
    """Return True if an Idempotency-Key that was claimed before this time is still stored: it refers to its hold."""
    return bool(connection.execute("SELECT 1 FROM idempotency_keys WHERE created_ms < ? LIMIT 1", (until_ms,)))


def read_lines(
    connection: Connection, account_id: int, after: tuple[int, int], until_ms: int, limit: int
) -> list[Line]:
    """Return the next generations of an account with their holds and transfers, by time (keyset pagination)."""
    after_ms, after_id = after
    rows = connection.execute(
        f"SELECT {_ALL} FROM (SELECT * FROM generations WHERE account_id = ? AND created_ms >= ? AND created_ms < ?"
        " AND (created_ms > ? OR id > ?) ORDER BY created_ms, id LIMIT ?) g"
        " JOIN holds h ON h.id = g.id LEFT JOIN transfers t ON t.hold_id = h.id ORDER BY g.created_ms, g.id",
        (account_id, after_ms, until_ms, after_ms, after_id, limit),
    )
    return [_line(row) for row in rows]


def _line(row: Row) -> Line:
    transfer = row[_WITH_TRANSFER:]
    return row[:_WITH_HOLD], row[_WITH_HOLD:_WITH_TRANSFER], None if transfer[0] is None else transfer


def place_of(line: Line) -> tuple[int, int]:
    """Return time and ID of the generation in a line."""
    return line[0][_CREATED_MS], line[0][_ID]


# ── writing a day ─────────────────────────────────────────────────────────────────────────────────────────────────


def insert_part(connection: Connection, day: int, entry: PartEntry, accounts: Sequence[tuple[int, ...]]) -> None:
    """Insert a part. `accounts`: account, first and last time, first and last version of each account in it."""
    connection.execute(
        "INSERT INTO archived_parts (day, part, sha256, bytes, requests) VALUES (?, ?, ?, ?, ?)",
        (day, entry.part, entry.sha256, entry.bytes, entry.requests),
    )
    connection.execute_many(
        "INSERT INTO archived_accounts (day, part, account_id, first_ms, last_ms, first_version, last_version)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(day, entry.part, *account) for account in accounts],
    )


def delete_part(connection: Connection, day: int, part: int) -> None:
    """Delete a part of a day that was not completed."""
    connection.execute("DELETE FROM archived_accounts WHERE day = ? AND part = ?", (day, part))
    connection.execute("DELETE FROM archived_parts WHERE day = ? AND part = ?", (day, part))


def parts_of(connection: Connection, day: int) -> list[PartEntry]:
    """Return the parts of a day, in order."""
    rows = connection.execute(
        "SELECT part, sha256, bytes, requests FROM archived_parts WHERE day = ? ORDER BY part", (day,)
    )
    return [PartEntry(*row) for row in rows]


def paths_of(connection: Connection, day: ArchivedDay) -> list[str]:
    """Return the paths of the files of an archived day: its parts and its manifest."""
    parts = [part_path(day.day, entry.part, entry.sha256) for entry in parts_of(connection, day.day)]
    return [*parts, manifest_path(day.day, day.manifest)]


def insert_day(connection: Connection, day: int, sums: Sums, manifest: str, now_ms: int) -> None:
    """Complete a day: from this commit on, readers take it from its files."""
    connection.execute(
        "INSERT INTO archived_days (day, requests, paid, cost, amount, shortfall, manifest, archived_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (day, *sums.values(), manifest, now_ms),
    )


def remove(connection: Connection, archived: Mapping[int, bytes]) -> int:
    """Delete these generations with their holds and transfers, and return how many were still there.

    `archived`: ID → digest of its line. Raise StoreError, so that nothing is deleted, if a row was changed since. The
    opening balances change in the same transaction, so the books add up at every moment.
    """
    present = connection.select_by_ids("SELECT id FROM holds WHERE id IN (…)", archived, lock=True)
    rows = connection.select_by_ids(
        f"SELECT {_ALL} FROM holds h JOIN generations g ON g.id = h.id LEFT JOIN transfers t ON t.hold_id = h.id"
        " WHERE h.id IN (…)",
        [row[0] for row in present],
    )
    openings: Counter[int] = Counter()
    budgets: Counter[str] = Counter()
    for line in map(_line, rows):
        generation, held, transfer = line
        if line_digest(encode_line(line)) != archived[generation[_ID]]:
            raise StoreError(
                f"generation {generation[_ID]} was changed after it was archived, so it was not deleted; "
                "see docs/howto/archive.md"
            )
        if transfer is not None:
            openings[transfer[_DEBIT]] -= transfer[_AMOUNT]
            openings[transfer[_CREDIT]] += transfer[_AMOUNT]
            if transfer[_DEBIT] != held[_ACCOUNT]:
                budgets[purse_budget(transfer[_DEBIT])] += transfer[_AMOUNT]
        for budget_id in split_budget_ids(held[_BUDGET]):
            budgets[budget_id] += held[_SETTLED]
    if len(rows) != len(present):
        raise StoreError("an archived hold has no generation any more, so nothing was deleted; run minitoolai audit")
    keys = [(row[0],) for row in present]
    connection.execute_many("DELETE FROM transfers WHERE hold_id = ?", keys)
    connection.execute_many("DELETE FROM generations WHERE id = ?", keys)
    connection.execute_many("DELETE FROM holds WHERE id = ?", keys)
    connection.execute_many(
        "INSERT INTO opening_balances (account_id, amount) VALUES (?, ?)"
        " ON CONFLICT (account_id) DO UPDATE SET amount = opening_balances.amount + excluded.amount",
        sorted(openings.items()),
    )
    connection.execute_many(
        "INSERT INTO archived_budgets (budget_id, used) VALUES (?, ?)"
        " ON CONFLICT (budget_id) DO UPDATE SET used = archived_budgets.used + excluded.used",
        sorted(budgets.items()),
    )
    return len(keys)


def mark_removed(connection: Connection, day: int, now_ms: int) -> None:
    """Record that no row of the day is left."""
    connection.execute("UPDATE archived_days SET removed_ms = ? WHERE day = ?", (now_ms, day))


# ── reading archived days ─────────────────────────────────────────────────────────────────────────────────────────


_DAYS = "SELECT day, manifest, removed_ms, requests, paid, cost, amount, shortfall FROM archived_days"


def _archived_day(row: Row) -> ArchivedDay:
    return ArchivedDay(row[0], Sums(*row[3:]), row[1], row[2])


def archived_days(connection: Connection) -> list[ArchivedDay]:
    """Return all archived days, oldest first."""
    return [_archived_day(row) for row in connection.execute(f"{_DAYS} ORDER BY day")]


def archived_day(connection: Connection, day: int) -> ArchivedDay | None:
    """Return a day, if it is archived."""
    rows = connection.execute(f"{_DAYS} WHERE day = ?", (day,))
    return _archived_day(rows[0]) if rows else None


def rows_left(connection: Connection) -> int:
    """Return the number of generations of archived days that are not deleted yet."""
    return sum(
        connection.execute(
            "SELECT count(*) FROM generations WHERE created_ms >= ? AND created_ms < ?",
            (one.day * MS_PER_DAY, (one.day + 1) * MS_PER_DAY),
        )[0][0]
        for one in archived_days(connection)
        if one.removed_ms is None
    )


def archived_until_ms(connection: Connection) -> int:
    """Return the time before which every generation is archived, or 0."""
    last = connection.execute("SELECT max(day) FROM archived_days")[0][0]
    return 0 if last is None else (last + 1) * MS_PER_DAY


_PARTS = (
    "SELECT a.day, a.part, p.sha256, a.first_ms, a.last_ms, a.first_version, a.last_version FROM archived_accounts a"
    " JOIN archived_parts p ON p.day = a.day AND p.part = a.part JOIN archived_days d ON d.day = a.day"
    " WHERE a.account_id = ?"
)


def parts_with_versions(
    connection: Connection, account_id: int, lowest: int, below: int, limit: int
) -> list[AccountPart]:
    """Return the first parts that end at this version or later and may have versions under `below`."""
    rows = connection.execute(
        f"{_PARTS} AND a.last_version >= ? ORDER BY a.last_version LIMIT ?", (account_id, lowest, limit)
    )
    parts = [AccountPart(*row) for row in rows]
    return [part for part in parts if part.first_version is not None and part.first_version < below]


def parts_before(connection: Connection, account_id: int, before: tuple[int, int], limit: int) -> list[AccountPart]:
    """Return the last parts of an account before a day and part, newest first (keyset pagination)."""
    rows = connection.execute(
        f"{_PARTS} AND (a.day, a.part) < (?, ?) ORDER BY a.day DESC, a.part DESC LIMIT ?", (account_id, *before, limit)
    )
    return [AccountPart(*row) for row in rows]


def parts_after(connection: Connection, account_id: int, after: tuple[int, int], limit: int) -> list[AccountPart]:
    """Return the first parts of an account after a day and part, oldest first (keyset pagination)."""
    rows = connection.execute(
        f"{_PARTS} AND (a.day, a.part) > (?, ?) ORDER BY a.day, a.part LIMIT ?", (account_id, *after, limit)
    )
    return [AccountPart(*row) for row in rows]


def openings(connection: Connection) -> tuple[dict[int, int], dict[str, int]]:
    """Return the opening balance of each account, and what archived holds took of each budget."""
    balances = connection.execute("SELECT account_id, amount FROM opening_balances")
    budgets = connection.execute("SELECT budget_id, used FROM archived_budgets")
    return {row[0]: row[1] for row in balances}, {row[0]: row[1] for row in budgets}
