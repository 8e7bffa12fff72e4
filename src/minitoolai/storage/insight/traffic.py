"""Traffic by day, account, model and engine: requests, failures, money and times.

Requests never write this table. A background task (billing/traffic.py) adds the generations that have ended, a piece
at a time in the order of their IDs, together with the ID up to which they are counted. Dashboards read the table, so
their time does not depend on the number of generations. Account 0 has the sums of all accounts, so that most of them do
not depend on the number of customers either.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.storage.database import Connection, Row

#: The row of `installation` with the last ID that is counted.
_PLACE = "traffic_counted_to"
_KEYS = "account_id, day, kind, model, engine"
#: Stands for all accounts together.
ALL = 0
_SUMS = (
    "requests, failures, cost, purchase, known, timed, duration_ms, streamed, first_token_ms, streamed_tokens,"
    " streaming_ms"
)
_ADDED = ", ".join(f"sum({name})" for name in _SUMS.split(", "))
#: A generation is a chat whose speed is known: it has a first token, and ended later.
_IS_STREAM = "g.state = 'succeeded' AND g.kind = 'chat' AND g.finished_ms > g.created_ms + g.first_token_ms"
#: Before every ID.
START = -(2**63 - 1)

#: What the lines of a report stand for.
Dimension = Literal["model", "engine", "account_id", "kind"]


class Piece(msgspec.Struct, frozen=True):
    """The sums of some generations: those with IDs above `after` and up to `until`."""

    after: int
    until: int
    rows: list[Row]


class RefundSums(NamedTuple):
    """A sum of refunds. `known`: of generations with a known upstream cost."""

    amount: int
    known: int

    def plus(self, other: RefundSums) -> RefundSums:
        """Return the sum of both."""
        return RefundSums(self.amount + other.amount, self.known + other.known)


class Traffic(msgspec.Struct, frozen=True):
    """Sums of requests. Times are sums too: of the `timed` that succeeded, of the `streamed` with a first token.

    `cost` is what customers paid, `known` the part of it with a known upstream cost, and `purchase` that cost. The
    table has them before refunds.
    """

    requests: int = 0
    failures: int = 0
    cost: int = 0
    purchase: int = 0
    known: int = 0
    timed: int = 0
    duration_ms: int = 0
    streamed: int = 0
    first_token_ms: int = 0
    #: Output tokens of streamed chats, and the time from their first token to their end.
    streamed_tokens: int = 0
    streaming_ms: int = 0
    #: The refunds that `less` deducted from `cost`.
    refunded: int = 0

    @property
    def margin(self) -> int | None:
        """Return the margin on the revenue with a known upstream cost. None if no upstream cost is known."""
        return self.known - self.purchase if self.known or self.purchase else None

    @property
    def unknown(self) -> int:
        """Return the revenue without a known upstream cost, and therefore without a margin."""
        return self.cost - self.known

    def less(self, refund: RefundSums) -> Traffic:
        """Return these sums after a refund."""
        return msgspec.structs.replace(
            self,
            cost=self.cost - refund.amount,
            known=self.known - refund.known,
            refunded=self.refunded + refund.amount,
        )

    @property
    def mean_ms(self) -> int | None:
        """Return the mean time from request to end."""
        return round(self.duration_ms / self.timed) if self.timed else None

    @property
    def mean_first_ms(self) -> int | None:
        """Return the mean time to the first token."""
        return round(self.first_token_ms / self.streamed) if self.streamed else None

    @property
    def tokens_per_s(self) -> float | None:
        """Return the mean speed of streamed chats after their first token."""
        return self.streamed_tokens * 1000 / self.streaming_ms if self.streaming_ms else None

    @property
    def uptime(self) -> float | None:
        """Return the share of requests that did not fail."""
        return 1 - self.failures / self.requests if self.requests else None


def add_up(parts: Iterable[Traffic]) -> Traffic:
    """Return the sum of these."""
    names = Traffic.__struct_fields__
    sums = dict.fromkeys(names, 0)
    for part in parts:
        for name in names:
            sums[name] += getattr(part, name)
    return Traffic(**sums)


class Filter(msgspec.Struct, frozen=True):
    """Which traffic to add up: of one account, model or engine, or of all."""

    account_id: int | None = None
    model: str | None = None
    engine: str | None = None


# ── counting ──────────────────────────────────────────────────────────────────────────────────────────────


def counted_to(connection: Connection) -> int:
    """Return the last ID that is counted."""
    rows = connection.execute("SELECT value FROM installation WHERE name = ?", (_PLACE,))
    return int(rows[0][0]) if rows else START


def next_piece(connection: Connection, below: int, limit: int) -> Piece | None:
    """Return the sums of the next `limit` generations with IDs under `below`, or None if all are counted."""
    after = counted_to(connection)
    until = connection.execute(
        "SELECT max(id) FROM (SELECT id FROM generations WHERE id > ? AND id < ? ORDER BY id LIMIT ?) AS piece",
        (after, below, limit),
    )[0][0]
    if until is None:
        return None
    rows = connection.execute(
        f"SELECT g.account_id, g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.engine, count(*),"
        " sum(CASE WHEN g.state = 'failed' THEN 1 ELSE 0 END), sum(h.settled), sum(coalesce(g.purchase, 0)),"
        " sum(CASE WHEN g.purchase IS NULL THEN 0 ELSE h.settled END),"
        " sum(CASE WHEN g.state = 'succeeded' AND g.finished_ms IS NOT NULL THEN 1 ELSE 0 END),"
        " sum(CASE WHEN g.state = 'succeeded' AND g.finished_ms > g.created_ms THEN g.finished_ms - g.created_ms"
        " ELSE 0 END),"
        " sum(CASE WHEN g.state = 'succeeded' AND g.first_token_ms IS NOT NULL THEN 1 ELSE 0 END),"
        " sum(CASE WHEN g.state = 'succeeded' THEN coalesce(g.first_token_ms, 0) ELSE 0 END),"
        f" sum(CASE WHEN {_IS_STREAM} THEN g.output_units ELSE 0 END),"
        f" sum(CASE WHEN {_IS_STREAM} THEN g.finished_ms - g.created_ms - g.first_token_ms ELSE 0 END)"
        " FROM generations g JOIN holds h ON h.id = g.id WHERE g.id > ? AND g.id <= ?"
        f" GROUP BY g.account_id, g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.engine",
        (after, until),
    )
    own = [(*row[:5], *map(int, row[5:])) for row in rows]
    together: dict[Row, Row] = {}
    for row in own:
        key, sums = (ALL, *row[1:5]), row[5:]
        old = together.get(key)
        together[key] = sums if old is None else tuple(map(sum, zip(old, sums, strict=True)))
    return Piece(after, until, own + [key + sums for key, sums in together.items()])


def add_piece(connection: Connection, piece: Piece) -> bool:
    """Add these sums and return True, unless another process has added them or is about to.

    Never waits for another process, so it cannot deadlock with what shares the commit.
    """
    select = f"SELECT value FROM installation WHERE name = ?{connection.skip_locked}"
    place = connection.execute(select, (_PLACE,))
    if not place:
        # Locked by another process, or not there yet.
        connection.execute(
            "INSERT INTO installation (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (_PLACE, str(START))
        )
        place = connection.execute(select, (_PLACE,))
    if not place or int(place[0][0]) != piece.after:
        return False
    connection.execute("UPDATE installation SET value = ? WHERE name = ?", (str(piece.until), _PLACE))
    columns = _SUMS.split(", ")
    added = ", ".join(f"{name} = traffic_days.{name} + excluded.{name}" for name in columns)
    connection.queue_write(
        f"INSERT INTO traffic_days ({_KEYS}, {_SUMS}) VALUES ({', '.join('?' * (5 + len(columns)))})"
        f" ON CONFLICT ({_KEYS}) DO UPDATE SET {added}",
        piece.rows,
    )
    return True


# ── reports ───────────────────────────────────────────────────────────────────────────────────────────────


def _where(only: Filter, by: Dimension | None = None) -> tuple[str, list[object]]:
    """Return the condition of a filter, to be followed by one of the day, and its values."""
    conditions, values = ["account_id = ?"], [ALL if only.account_id is None else only.account_id]
    if by == "account_id" and only.account_id is None:
        conditions, values = ["account_id > ?"], [ALL]
    given = {name: value for name in ("model", "engine") if (value := getattr(only, name)) is not None}
    return " AND ".join([*conditions, *(f"{name} = ?" for name in given)]), [*values, *given.values()]


def traffic_by_day(connection: Connection, from_day: int, only: Filter) -> dict[int, Traffic]:
    """Return the traffic of each day since this one that has any."""
    condition, values = _where(only)
    rows = connection.execute(
        f"SELECT day, {_ADDED} FROM traffic_days WHERE {condition} AND day >= ? GROUP BY day", (*values, from_day)
    )
    return {row[0]: Traffic(*map(int, row[1:])) for row in rows}


def traffic_by_model_and_day(connection: Connection, from_day: int) -> dict[str, dict[int, Traffic]]:
    """Return the traffic of all accounts together since a day, by model and day."""
    rows = connection.execute(
        f"SELECT model, day, {_ADDED} FROM traffic_days WHERE account_id = ? AND day >= ? GROUP BY model, day",
        (ALL, from_day),
    )
    found: dict[str, dict[int, Traffic]] = {}
    for row in rows:
        found.setdefault(row[0], {})[row[1]] = Traffic(*map(int, row[2:]))
    return found


def traffic_by(
    connection: Connection, by: Dimension, from_day: int, only: Filter, limit: int
) -> list[tuple[str | int, Traffic]]:
    """Return the traffic since a day by model, engine, account or kind: those with the highest revenue first."""
    condition, values = _where(only, by)
    rows = connection.execute(
        f"SELECT {by}, {_ADDED} FROM traffic_days WHERE {condition} AND day >= ? GROUP BY {by}"
        f" ORDER BY sum(cost) DESC, sum(requests) DESC, {by} LIMIT ?",
        (*values, from_day, limit),
    )
    return [(row[0], Traffic(*map(int, row[1:]))) for row in rows]


def traffic_by_account(
    connection: Connection, from_day: int, only: Filter, after: int, limit: int
) -> tuple[list[tuple[str | int, Traffic]], int | None]:
    """Return the traffic since a day of the next `limit` accounts that ever had any, by number, and the last of them.

    The accounts are found one by one in the primary key, so a page reads the rows of `limit` accounts only. Those
    without traffic since that day are left out. The last is None if no accounts follow.
    """
    found = connection.execute(
        "WITH RECURSIVE listed (id, n) AS (SELECT (SELECT min(account_id) FROM traffic_days WHERE account_id > ?), 1"
        " UNION ALL SELECT (SELECT min(t.account_id) FROM traffic_days t WHERE t.account_id > listed.id), n + 1"
        f" FROM listed WHERE listed.id IS NOT NULL AND n <= {limit:d})"
        " SELECT id FROM listed WHERE id IS NOT NULL ORDER BY id",
        (max(after, ALL),),
    )
    accounts = [int(row[0]) for row in found[:limit]]
    if not accounts:
        return [], None
    given = {name: value for name in ("model", "engine") if (value := getattr(only, name)) is not None}
    listed = ", ".join("?" * len(accounts))
    rows = connection.execute(
        f"SELECT account_id, {_ADDED} FROM traffic_days WHERE account_id IN ({listed}) AND day >= ?"
        f"{''.join(f' AND {name} = ?' for name in given)} GROUP BY account_id ORDER BY account_id",
        (*accounts, from_day, *given.values()),
    )
    lines: list[tuple[str | int, Traffic]] = [(row[0], Traffic(*map(int, row[1:]))) for row in rows]
    return lines, accounts[-1] if len(found) > limit else None


def traffic_of_days(
    connection: Connection, days: range, by: Dimension, only: Filter, after: str | int | None, limit: int
) -> list[tuple[int, str | int, Traffic]]:
    """Return the traffic of some days by this, in order, after one of them (keyset pagination): a part of a file."""
    condition, values = _where(only, by)
    if after is not None:
        condition, values = f"{condition} AND {by} > ?", [*values, after]
    rows = connection.execute(
        f"SELECT day, {by}, {_ADDED} FROM traffic_days WHERE {condition} AND day >= ? AND day < ?"
        f" GROUP BY day, {by} ORDER BY day, {by} LIMIT ?",
        (*values, days.start, days.stop, limit),
    )
    return [(row[0], row[1], Traffic(*map(int, row[2:]))) for row in rows]


def refunds_since(
    connection: Connection, by: Dimension, from_day: int, only: Filter
) -> dict[tuple[int, str | int], RefundSums]:
    """Return the refunds of generations since a day, by day and model, engine, account or kind.

    The engine of an archived generation is not known; its refund is then under "".
    """
    condition, values = ("", ()) if only.account_id is None else ("account_id = ? AND ", (only.account_id,))
    rows = connection.execute(
        "SELECT generation_id, account_id, kind, model, began_ms, sum(amount) FROM refunds"
        f" WHERE {condition}began_ms >= ? GROUP BY generation_id, account_id, kind, model, began_ms",
        (*values, from_day * MS_PER_DAY),
    )
    # Two queries: joined, PostgreSQL would read all generations.
    found = connection.select_by_ids(
        "SELECT id, engine, purchase IS NULL FROM generations WHERE id IN (…)", [row[0] for row in rows]
    )
    engines = {row[0]: (row[1], bool(row[2])) for row in found}
    sums: dict[tuple[int, str | int], RefundSums] = {}
    for number, account_id, kind, model, began_ms, amount in rows:
        engine, is_unknown = engines.get(number, ("", False))
        if (only.model or model) != model or (only.engine or engine) != engine:
            continue
        name = {"model": model, "engine": engine, "account_id": account_id, "kind": kind}[by]
        refund = RefundSums(int(amount), 0 if is_unknown else int(amount))
        key = (began_ms // MS_PER_DAY, name)
        sums[key] = refund.plus(sums[key]) if key in sums else refund
    return sums


def emails_of(connection: Connection, account_ids: list[int]) -> dict[int, str]:
    """Return the e-mail addresses of these accounts."""
    rows = connection.select_by_ids("SELECT account_id, email FROM users WHERE account_id IN (…)", account_ids)
    return {row[0]: row[1] for row in rows}
