"""The log of requests of all accounts or one, without prompts; and what leads from an ID to its account.

Filters have no index, because each index would add a page write to every request. A page therefore looks through a
limited number of requests, and says where it stopped.
"""

from __future__ import annotations

import msgspec

from minitoolai.core.models import GenerationState, Kind, RecentRequest
from minitoolai.storage.database import Connection

#: Requests that one page looks through.
WINDOW = 2_000
#: After every time and ID.
_NEWEST = (2**62, 2**63 - 1)
#: Where a page ends: the time and the ID of a request.
LogPlace = tuple[int, int]

_COLUMNS = (
    "id, created_ms, finished_ms, account_id, key_id, kind, model, engine, state, error_code, input_units,"
    " output_units, cached_units, first_token_ms"
)
_SHOWN = ", ".join(f"g.{name}" for name in _COLUMNS.split(", "))


class LogRow(msgspec.Struct, frozen=True):
    """One request in the log. It has neither prompt nor response."""

    id: int
    created_ms: int
    finished_ms: int | None
    account_id: int
    key_id: str
    kind: Kind
    model: str
    engine: str
    state: GenerationState
    error_code: str | None
    input_units: int
    output_units: int
    cached_units: int
    first_token_ms: int | None
    #: None while the hold is pending.
    cost: int | None
    email: str
    #: The plan's purse that paid, if it was not the balance.
    purse_id: int | None = None

    @property
    def took_ms(self) -> int | None:
        """Return the time from the request to its end."""
        return None if self.finished_ms is None else max(self.finished_ms - self.created_ms, 0)


class LogFilter(msgspec.Struct, frozen=True):
    """Which requests to list. None: all."""

    account_id: int | None = None
    kind: str | None = None
    model: str | None = None
    state: str | None = None
    error_code: str | None = None
    key_id: str | None = None
    #: Of one account only: requests from this time on, and before this one.
    from_ms: int | None = None
    until_ms: int | None = None

    def conditions(self) -> dict[str, object]:
        """Return condition → value of every filter but account and times."""
        given = {"kind": self.kind, "model": self.model, "state": self.state, "error_code": self.error_code}
        given["key_id"] = self.key_id
        return {f"g.{name} = ?": value for name, value in given.items() if value is not None}

    def fits(self, row: RecentRequest) -> bool:
        """Return True if a request of this account fits the filters."""
        names = ("kind", "model", "state", "error_code", "key_id")
        if any(getattr(self, name) not in (None, getattr(row, name)) for name in names):
            return False
        return (self.from_ms or 0) <= row.created_ms and (self.until_ms is None or row.created_ms < self.until_ms)


class LogPage(msgspec.Struct, frozen=True):
    """Requests, newest first. `older`: where the next page begins, or None if there are no more."""

    rows: list[LogRow]
    older: LogPlace | None


def list_requests(connection: Connection, only: LogFilter, limit: int, before: LogPlace | None = None) -> LogPage:
    """Return up to `limit` requests among the next WINDOW ones, newest first (keyset pagination)."""
    before = before or _NEWEST
    if only.until_ms is not None:
        before = min(before, (only.until_ms, 0))
    conditions = only.conditions()
    window = WINDOW if conditions else limit
    # The window is a number in the statement, not a value: PostgreSQL would plan for a part of all rows otherwise.
    if only.account_id is None:
        source = f"FROM generations WHERE id < ? ORDER BY id DESC LIMIT {window:d}"
        values: list[object] = [before[1]]
    else:
        source = (
            "FROM generations WHERE account_id = ? AND created_ms >= ? AND created_ms <= ?"
            f" AND (created_ms < ? OR id < ?) ORDER BY created_ms DESC, id DESC LIMIT {window:d}"
        )
        values = [only.account_id, only.from_ms or 0, before[0], *before]
    order = "g.id DESC" if only.account_id is None else "g.created_ms DESC, g.id DESC"
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    # Look for the other columns after the filter: holds and e-mail addresses of few rows.
    found = connection.execute(
        f"SELECT {_SHOWN}, CASE WHEN h.state = 'pending' THEN NULL ELSE h.settled END, coalesce(u.email, ''),"
        " h.purse_id"
        f" FROM (SELECT * FROM (SELECT {_COLUMNS} {source}) g{where} ORDER BY {order} LIMIT {limit:d}) g"
        f" JOIN holds h ON h.id = g.id LEFT JOIN users u ON u.account_id = g.account_id ORDER BY {order}",
        (*values, *conditions.values()),
    )
    rows = [LogRow(*row) for row in found]
    if len(rows) == limit:
        return LogPage(rows, (rows[-1].created_ms, rows[-1].id))
    if not conditions:
        return LogPage(rows, None)
    # Fewer than wanted: go on below the requests that were looked through.
    seen = connection.execute(
        f"SELECT count(*), min(created_ms), min(id) FROM (SELECT id, created_ms {source}) AS looked", tuple(values)
    )[0]
    return LogPage(rows, (seen[1], seen[2]) if seen[0] == window else None)


class RequestDetails(msgspec.Struct, frozen=True):
    """All that is known of one request, without its prompt and response."""

    row: LogRow
    served_model: str | None
    attempts: str | None
    purchase: int | None
    price_split: str | None
    price_input: int
    price_output: int
    estimated: int
    held: int
    shortfall: int
    error: str | None
    worker: str | None
    failures: int
    delivered_bytes: int | None


def find_request(connection: Connection, generation_id: int) -> RequestDetails | None:
    """Return a request of any account. Archived ones are not found."""
    rows = connection.execute(
        f"SELECT {_SHOWN}, CASE WHEN h.state = 'pending' THEN NULL ELSE h.settled END, coalesce(u.email, ''),"
        " h.purse_id,"
        " g.served_model, g.attempts, g.purchase, g.price_split, g.price_input, g.price_output, g.estimated, h.amount,"
        " h.shortfall, g.error, g.worker, g.failures, g.delivered_bytes FROM generations g JOIN holds h ON h.id = g.id"
        " LEFT JOIN users u ON u.account_id = g.account_id WHERE g.id = ?",
        (generation_id,),
    )
    if not rows:
        return None
    columns = len(LogRow.__struct_fields__)
    return RequestDetails(LogRow(*rows[0][:columns]), *rows[0][columns:])


class FoundKey(msgspec.Struct, frozen=True):
    """An API key that a search found, and the owner's e-mail address."""

    id: str
    name: str
    account_id: int
    revoked_ms: int | None
    email: str


def search_keys(connection: Connection, prefix: str, limit: int) -> list[FoundKey]:
    """Return keys with an ID that begins like this. The prefix has only letters and digits."""
    rows = connection.execute(
        "SELECT k.id, k.name, k.account_id, k.revoked_ms, u.email FROM api_keys k"
        " JOIN users u ON u.account_id = k.account_id WHERE u.deleted_ms IS NULL AND k.id LIKE ? ORDER BY k.id LIMIT ?",
        (prefix + "%", limit),
    )
    # LIKE of SQLite does not tell capitals from small letters.
    return [FoundKey(*row) for row in rows if row[0].startswith(prefix)]


class ImageWork(msgspec.Struct, frozen=True):
    """Image jobs at work by engine, and waiting by model, in all processes."""

    running: dict[str, int]
    queued: dict[str, int]


def image_work(connection: Connection) -> ImageWork:
    """Count the image jobs. Each query reads a partial index over unfinished jobs."""
    running = connection.execute(
        "SELECT engine, count(*) FROM generations WHERE kind = 'image' AND state = 'running' GROUP BY engine"
    )
    queued = connection.execute(
        "SELECT model, count(*) FROM generations WHERE state = 'queued' AND kind = 'image' GROUP BY model"
    )
    return ImageWork(dict(running), dict(queued))
