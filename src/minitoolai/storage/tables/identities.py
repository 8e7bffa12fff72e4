"""Rows of identities at other providers that sign users in."""

from __future__ import annotations

from typing import NamedTuple

from minitoolai.storage.database import Connection


class IdentityRow(NamedTuple):
    """An identity: `issuer` and `subject` name it, `email` is its address when it was connected."""

    issuer: str
    subject: str
    user_id: int
    email: str
    created_ms: int


def find(connection: Connection, issuer: str, subject: str) -> int | None:
    """Return the user of an identity, or None."""
    rows = connection.execute("SELECT user_id FROM identities WHERE issuer = ? AND subject = ?", (issuer, subject))
    return rows[0][0] if rows else None


def insert(connection: Connection, row: IdentityRow) -> bool:
    """Insert an identity. Return False if it is connected to a user already."""
    return bool(
        connection.execute_many(
            "INSERT INTO identities (issuer, subject, user_id, email, created_ms) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            [tuple(row)],
        )
    )


def of_user(connection: Connection, user_id: int) -> list[IdentityRow]:
    """Return the identities of a user, oldest first."""
    rows = connection.execute(
        "SELECT issuer, subject, user_id, email, created_ms FROM identities WHERE user_id = ?"
        " ORDER BY created_ms, issuer, subject",
        (user_id,),
    )
    return [IdentityRow(*row) for row in rows]


def delete(connection: Connection, user_id: int, issuer: str, subject: str) -> None:
    """Delete an identity of this user."""
    connection.execute(
        "DELETE FROM identities WHERE issuer = ? AND subject = ? AND user_id = ?", (issuer, subject, user_id)
    )


def delete_all(connection: Connection, user_id: int) -> None:
    """Delete all identities of a user."""
    connection.execute("DELETE FROM identities WHERE user_id = ?", (user_id,))
