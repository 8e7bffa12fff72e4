"""Rows that describe the installation itself: the mark of the secret under which keys and vouchers are hashed."""

from __future__ import annotations

from minitoolai.storage.database import Connection

_SECRET = "secret"  # noqa: S105 - the name of the row


def find_secret_mark(connection: Connection) -> str | None:
    """Return the mark of the secret that this database was used with, or None if it was never recorded."""
    rows = connection.execute("SELECT value FROM installation WHERE name = ?", (_SECRET,))
    return rows[0][0] if rows else None


def record_secret_mark(connection: Connection, mark: str, *, instead_of: str | None) -> None:
    """Record the mark of the present secret, unless another process has recorded one since it was read."""
    if instead_of is None:
        connection.execute(
            "INSERT INTO installation (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (_SECRET, mark)
        )
    else:
        connection.execute(
            "UPDATE installation SET value = ? WHERE name = ? AND value = ?", (mark, _SECRET, instead_of)
        )
