"""Find the generation of a mark by its second."""

from __future__ import annotations

from minitoolai.storage.database import Connection


def generations_at(connection: Connection, second: int) -> list[tuple[int, str, str, str | None, int, str]]:
    """Return ID, kind, model, served model, time and engine of images and speech that began within this second.

    Looks at each account, because the only index by time begins with the account: no request has to maintain another.
    """
    return [
        (int(row[0]), str(row[1]), str(row[2]), None if row[3] is None else str(row[3]), int(row[4]), str(row[5]))
        for row in connection.execute(
            "SELECT g.id, g.kind, g.model, g.served_model, g.created_ms, g.engine FROM accounts a "
            "JOIN generations g ON g.account_id = a.id AND g.created_ms >= ? AND g.created_ms < ? "
            "WHERE g.kind IN ('image', 'speech')",
            (second * 1000, second * 1000 + 1000),
        )
    ]
