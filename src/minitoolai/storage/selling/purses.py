"""Purses: the credit of plans, and their spending in each window.

A purse is an account with an owner and an end. The ledger holds a request on the open purse of its account or on the
balance (ledger/rules.py). Every operation on a purse locks its owner's account first, so two transactions never wait
for the same purse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from minitoolai.core.clock import random_number
from minitoolai.core.models import Spending
from minitoolai.core.plans import PeriodKind, PlanWindow, Windows, window_at, window_id
from minitoolai.ledger.types import (
    FIRST_CUSTOMER,
    FUNDING,
    AccountState,
    LedgerState,
    NamedWindow,
    OpenPurses,
    Operation,
    PlaceHold,
    PurseState,
)
from minitoolai.storage.database import Connection, Row

#: As shown to the operator if it is violated.
PURSES = "the windows of a plan have counted what its holds promise and took, and a closed purse is empty"
_BUDGET_PREFIX = "purse:"

# ── for the ledger ────────────────────────────────────────────────────────────────────────────────────────

_OPEN = (
    "SELECT p.id, p.owner_id, p.begins_ms, p.ends_ms, p.price, p.credit, p.window_5h, p.window_week, p.window_month,"
    " p.expired, a.posted, a.held, a.version FROM purses p JOIN accounts a ON a.id = p.id"
    " WHERE p.state = 'open' AND p.owner_id IN (…)"
)
_WINDOWS = "SELECT id, used FROM purse_windows WHERE id IN (…)"


#: Forget the remembered purses if there are those of more accounts.
MOST_REMEMBERED = 10_000


def load(connection: Connection, owners: Sequence[int], operations: Sequence[Operation], state: LedgerState) -> None:
    """Load the open purses of these accounts, and their windows that the operations may change.

    What this connection's writer remembers of an account is used if its stamp is still that of the account, which is
    locked. Otherwise two queries read it.
    """
    known: dict[int, OpenPurses] = {}
    unknown = []
    for owner_id in owners:
        remembered = connection.open_purses.pop(owner_id, None)
        stamp = state.accounts[owner_id].purse_stamp
        if remembered is None or stamp is None or remembered.stamp != stamp:
            unknown.append(owner_id)
            remembered = OpenPurses()
        known[owner_id] = remembered
    if unknown:
        for row in sorted(connection.select_by_ids(_OPEN, unknown), key=lambda row: (row[2], row[0])):
            one = known[row[1]]
            one.credit[row[0]] = AccountState(*row[10:])
            one.purses[row[0]] = PurseState(row[1], row[2], row[3], row[4], row[5], Windows(*row[6:9]), row[9])
    for one in known.values():
        state.purses |= one.purses
        state.accounts |= one.credit
        state.windows |= one.windows
    state.open_purses = known
    _load_windows(connection, operations, state)


def _load_windows(connection: Connection, operations: Sequence[Operation], state: LedgerState) -> None:
    """Load the windows in which the operations place or settle holds, unless they are remembered."""
    wanted: dict[str, int] = {}
    seen: dict[int, list[NamedWindow]] = {}
    for operation in operations:
        if isinstance(operation, PlaceHold):
            for purse_id, purse in state.purses_of(operation.account_id):
                if purse.is_open(operation.now_ms):
                    # Most operations of a batch are in the same windows.
                    windows = purse.windows_at(purse_id, operation.now_ms)
                    if seen.get(purse_id) is not windows:
                        seen[purse_id] = windows
                        wanted |= {name: purse_id for name, _, _ in windows if name not in state.windows}
    names = dict(wanted)
    for hold_id, hold in state.holds.items():
        if hold.purse_id in state.purses and hold.state == "pending" and hold_id in state.work:
            at_ms = state.work[hold_id].created_ms
            windows = state.purses[hold.purse_id].windows_at(hold.purse_id, at_ms)
            if seen.get(hold.purse_id) is not windows:
                seen[hold.purse_id] = windows
                names |= {name: hold.purse_id for name, _, _ in windows if name not in state.windows}
    if names:
        found: dict[str, int] = dict(connection.select_by_ids(_WINDOWS, list(names)))
        for name, purse_id in names.items():
            if name in found or name in wanted:
                purse = state.purses[purse_id]
                spending = Spending(found.get(name, 0))
                state.windows[name] = state.open_purses[purse.owner_id].windows[name] = spending
                purse.forget_counted()


def save(connection: Connection, state: LedgerState) -> None:
    """Write the changed windows and purses, and set a new stamp. The accounts are written after this."""
    spent: list[tuple[str, int, str, int]] = []
    ended: list[tuple[int, int, int]] = []
    for owner_id, one in state.open_purses.items():
        has_changed = False
        for purse_id, purse in one.purses.items():
            if purse.dirty:
                purse.dirty = False
                ended.append((purse.ends_ms, purse.expired, purse_id))
                has_changed = True
            has_changed = has_changed or one.credit[purse_id].dirty
        for name, spending in one.windows.items():
            if spending.dirty:
                spending.dirty = False
                purse_id_text, kind, _ = name.split("/")
                spent.append((name, int(purse_id_text), kind, spending.used))
                has_changed = True
        account = state.accounts[owner_id]
        if has_changed:
            account.purse_stamp, account.dirty = random_number(62), True
        one.stamp = account.purse_stamp
    if spent:
        connection.queue_write(
            "INSERT INTO purse_windows (id, purse_id, kind, used) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET used = excluded.used",
            spent,
        )
    if ended:
        connection.queue_write("UPDATE purses SET ends_ms = ?, expired = ? WHERE id = ?", ended)
    if len(connection.open_purses) > MOST_REMEMBERED:
        connection.open_purses.clear()


def remember(connection: Connection, state: LedgerState) -> None:
    """Keep the purses of a batch for the next one. All of it has been written."""
    for owner_id, one in state.open_purses.items():
        for credit in one.credit.values():
            credit.dirty = False
        connection.open_purses[owner_id] = one


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────


class Purse(msgspec.Struct, frozen=True):
    """Purse as stored, with the money in it."""

    id: int
    owner_id: int
    plan: str
    price: int
    credit: int
    window_5h: int | None
    window_week: int | None
    window_month: int | None
    period: PeriodKind
    begins_ms: int
    ends_ms: int
    expired: int
    state: str
    renewal: str
    unpaid_ms: int | None
    reference: str
    created_ms: int
    posted: int = 0
    held: int = 0

    @property
    def available(self) -> int:
        return self.posted - self.held

    @property
    def windows(self) -> Windows:
        """Return the limits of its windows."""
        return Windows(self.window_5h, self.window_week, self.window_month)

    def is_open(self, now_ms: int) -> bool:
        """Return True if it pays for requests now."""
        return self.begins_ms <= now_ms < self.ends_ms


_COLUMNS = (
    "id, owner_id, plan, price, credit, window_5h, window_week, window_month, period, begins_ms, ends_ms, expired,"
    " state, renewal, unpaid_ms, reference, created_ms"
)
_PURSE = (
    f"SELECT {', '.join(f'p.{name}' for name in _COLUMNS.split(', '))}, a.posted, a.held"
    " FROM purses p JOIN accounts a ON a.id = p.id"
)


def lock_owner(connection: Connection, owner_id: int) -> None:
    """Lock what creating a purse needs: the numbering of accounts, then the owner."""
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [FUNDING, owner_id], lock=True)


def insert(connection: Connection, purse: Purse) -> Purse:
    """Insert a purse and its account, which is empty, and return it with its ID. The caller has locked its owner."""
    highest = connection.execute("SELECT max(id) FROM accounts")[0][0] or 0
    purse = msgspec.structs.replace(purse, id=max(highest + 1, FIRST_CUSTOMER))
    connection.execute("INSERT INTO accounts (id, created_ms) VALUES (?, ?)", (purse.id, purse.created_ms))
    marks = ", ".join("?" * len(_COLUMNS.split(", ")))
    values = msgspec.structs.astuple(purse)[:-2]
    connection.execute(f"INSERT INTO purses ({_COLUMNS}) VALUES ({marks})", values)
    remember_end(connection, purse.owner_id)
    return purse


def find(connection: Connection, purse_id: int) -> Purse | None:
    """Return the purse with this ID."""
    rows = connection.execute(f"{_PURSE} WHERE p.id = ?", (purse_id,))
    return Purse(*rows[0]) if rows else None


def by_reference(connection: Connection, reference: str) -> Purse | None:
    """Return the purse that was bought under this reference."""
    rows = connection.execute(f"{_PURSE} WHERE p.reference = ?", (reference,))
    return Purse(*rows[0]) if rows else None


def open_purses(connection: Connection, owner_id: int) -> list[Purse]:
    """Return the purses of an account that are not closed, by beginning."""
    rows = connection.execute(
        f"{_PURSE} WHERE p.owner_id = ? AND p.state = 'open' ORDER BY p.begins_ms, p.id", (owner_id,)
    )
    return [Purse(*row) for row in rows]


def purses_of(connection: Connection, owner_id: int, limit: int) -> list[Purse]:
    """Return the last purses of an account, newest first."""
    rows = connection.execute(f"{_PURSE} WHERE p.owner_id = ? ORDER BY p.id DESC LIMIT ?", (owner_id, limit))
    return [Purse(*row) for row in rows]


def spent_of(connection: Connection, owner_id: int) -> int:
    """Return what all purses of an account have paid for requests so far."""
    rows = connection.execute(
        "SELECT coalesce(sum(p.credit - p.expired - a.posted), 0) FROM purses p JOIN accounts a ON a.id = p.id"
        " WHERE p.owner_id = ?",
        (owner_id,),
    )
    return int(rows[0][0])


def ending(connection: Connection, before_ms: int, limit: int, after: tuple[int, int] = (0, 0)) -> list[Purse]:
    """Return purses that are not closed and end before this time, by end and ID, after one of them."""
    rows = connection.execute(
        f"{_PURSE} WHERE p.state = 'open' AND p.ends_ms < ? AND p.ends_ms >= ? AND (p.ends_ms > ? OR p.id > ?)"
        " ORDER BY p.ends_ms, p.id LIMIT ?",
        (before_ms, after[0], *after, limit),
    )
    return [Purse(*row) for row in rows]


def unannounced(connection: Connection, from_ms: int, until_ms: int, limit: int, after: int = 0) -> list[Purse]:
    """Return purses that end within a time and of which no notice says so, by ID, after one of them."""
    rows = connection.execute(
        f"{_PURSE} WHERE p.state = 'open' AND p.ends_ms > ? AND p.ends_ms <= ? AND p.id > ?"
        " AND NOT EXISTS (SELECT 1 FROM notices n WHERE n.account_id = p.owner_id AND n.type = 'plan.ending'"
        " AND n.subject = CAST(p.id AS TEXT)) ORDER BY p.id LIMIT ?",
        (from_ms, until_ms, after, limit),
    )
    return [Purse(*row) for row in rows]


def set_renewal(connection: Connection, purse_id: int, renewal: str, unpaid_ms: int | None = None) -> None:
    """Set what happens at the end of a purse."""
    connection.execute("UPDATE purses SET renewal = ?, unpaid_ms = ? WHERE id = ?", (renewal, unpaid_ms, purse_id))


def close(connection: Connection, purse: Purse) -> bool:
    """Close a purse that has ended and is empty, and delete its windows. Return False if something is left in it.

    The caller has locked its owner.
    """
    empty = connection.execute("SELECT 1 FROM accounts WHERE id = ? AND posted = 0 AND held = 0", (purse.id,))
    if not empty:
        return False
    connection.execute("UPDATE purses SET state = 'closed' WHERE id = ?", (purse.id,))
    connection.execute("DELETE FROM purse_windows WHERE purse_id = ?", (purse.id,))
    remember_end(connection, purse.owner_id)
    return True


def remember_end(connection: Connection, owner_id: int) -> None:
    """Keep the end of the last open purse with the owner's account, or NULL. Changes its stamp."""
    connection.execute(
        "UPDATE accounts SET purse_until_ms ="
        " (SELECT max(ends_ms) FROM purses WHERE owner_id = ? AND state = 'open'), purse_stamp = ? WHERE id = ?",
        (owner_id, random_number(62), owner_id),
    )


def used_windows(connection: Connection, purse_id: int) -> dict[str, int]:
    """Return the held and charged amount of each window of an open purse, by row ID."""
    return dict(connection.execute("SELECT id, used FROM purse_windows WHERE purse_id = ?", (purse_id,)))


class PlanNow(NamedTuple):
    """The purse that pays for requests now, and what may still be spent in each of its present windows."""

    purse: Purse
    room: dict[PlanWindow, int]


def plan_now(connection: Connection, account_id: int, now_ms: int) -> PlanNow | None:
    """Return the plan that an account has now."""
    purse = next((one for one in open_purses(connection, account_id) if one.is_open(now_ms)), None)
    return None if purse is None else PlanNow(purse, window_room(connection, purse, now_ms))


def wallets(connection: Connection, account_id: int, now_ms: int) -> tuple[int, int]:
    """Return what an account can spend now of its balance, and of its plan's credit within the windows."""
    plan = plan_now(connection, account_id, now_ms)
    rows = connection.execute("SELECT posted - held FROM accounts WHERE id = ?", (account_id,))
    balance = int(rows[0][0]) if rows else 0
    return balance, 0 if plan is None else min([plan.purse.available, *plan.room.values()])


def window_room(connection: Connection, purse: Purse, now_ms: int) -> dict[PlanWindow, int]:
    """Return the present windows of a purse, and what may still be spent in each."""
    used = used_windows(connection, purse.id)
    windows = [(window_at(kind, purse.begins_ms, now_ms), limit) for kind, limit in purse.windows.limits()]
    return {window: limit - used.get(window_id(purse.id, window), 0) for window, limit in windows}


# ── audit ─────────────────────────────────────────────────────────────────────────────────────────────────


def purse_budget(purse_id: int) -> str:
    """Return the name under which closed and archived days keep what a purse paid, beside those of budgets."""
    return f"{_BUDGET_PREFIX}{purse_id}"


def purse_of_budget(name: str) -> int | None:
    """Return the purse that such a name stands for, or None if it is that of a budget."""
    return int(name.removeprefix(_BUDGET_PREFIX)) if name.startswith(_BUDGET_PREFIX) else None


def purse_owners(connection: Connection) -> dict[int, int]:
    """Return purse → owner, of all purses."""
    return dict(connection.execute("SELECT id, owner_id FROM purses"))


_LIMITED = " UNION ALL ".join(
    f"SELECT id, '{kind}' AS kind FROM purses WHERE state = 'open' AND {column} IS NOT NULL"
    for kind, column in (("5h", "window_5h"), ("week", "window_week"), ("month", "window_month"))
)
#: Returns the open purses that violate the invariant.
_WRONG_OPEN = f"""
    SELECT p.id, l.kind, p.credit - p.expired - a.posted + a.held, coalesce(sum(w.used), 0) FROM purses p
        JOIN ({_LIMITED}) AS l ON l.id = p.id JOIN accounts a ON a.id = p.id
        LEFT JOIN purse_windows w ON w.purse_id = p.id AND w.kind = l.kind
        GROUP BY p.id, l.kind, p.credit, p.expired, a.posted, a.held
        HAVING p.credit - p.expired - a.posted + a.held <> coalesce(sum(w.used), 0)
    UNION ALL SELECT p.id, t.kind, p.credit, t.amount FROM purses p
        LEFT JOIN transfers t ON t.credit = p.id AND t.kind <> 'usage' AND t.kind = 'plan_credit'
        WHERE p.state = 'open' AND (t.amount IS NULL OR t.amount <> p.credit OR t.debit <> {FUNDING})
    UNION ALL SELECT a.id, 'without a purse', a.purse_until_ms, 0 FROM accounts a
        WHERE a.purse_until_ms IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM purses p WHERE p.owner_id = a.id AND p.state = 'open')
    UNION ALL SELECT p.id, 'unknown to its owner', p.ends_ms, 0 FROM purses p JOIN accounts a ON a.id = p.owner_id
        WHERE p.state = 'open' AND a.purse_until_ms IS NULL"""
#: Returns the purses that violate the invariant.
WRONG_PURSES = f"""{_WRONG_OPEN}
    UNION ALL SELECT p.id, p.state, a.posted, a.held FROM purses p JOIN accounts a ON a.id = p.id
        WHERE p.state = 'closed' AND (a.posted <> 0 OR a.held <> 0)"""


def wrong_purses(connection: Connection, limit: int) -> list[Row]:
    """Return purses with other sums than their windows, or without their credit, and closed ones with money in them."""
    return connection.execute(f"{WRONG_PURSES} LIMIT {limit}")


def wrong_open_purses(connection: Connection, limit: int) -> list[Row]:
    """Return the same of the open purses: the number of closed ones grows with the history."""
    return connection.execute(f"{_WRONG_OPEN} LIMIT {limit}")
