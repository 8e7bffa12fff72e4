"""Rows of TOTP second factors and their recovery codes. Secrets are encrypted, codes are hashed."""

from __future__ import annotations

from collections.abc import Sequence

from minitoolai.core.models import SecondFactor
from minitoolai.storage.database import Connection


def find(connection: Connection, account_id: int) -> SecondFactor | None:
    """Return the second factor of an account, or None."""
    rows = connection.execute(
        "SELECT account_id, secret, last_step, created_ms FROM second_factors WHERE account_id = ?", (account_id,)
    )
    return SecondFactor(rows[0][0], bytes(rows[0][1]), rows[0][2], rows[0][3]) if rows else None


def insert(connection: Connection, factor: SecondFactor) -> bool:
    """Insert a second factor and return True, or False if the account has one already."""
    return bool(
        connection.execute_many(
            "INSERT INTO second_factors (account_id, secret, last_step, created_ms) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            [(factor.account_id, factor.secret, factor.last_step, factor.created_ms)],
        )
    )


def accept_step(connection: Connection, seen: SecondFactor, step: int, secret: bytes) -> bool:
    """Record that the code of a time step was used, and store the secret encrypted anew.

    Returns False without changes if that step or a later one was used since `seen` was read, or the secret changed.
    """
    return bool(
        connection.execute_many(
            "UPDATE second_factors SET last_step = ?, secret = ? WHERE account_id = ? AND last_step < ? AND secret = ?",
            [(step, secret, seen.account_id, step, seen.secret)],
        )
    )


def delete(connection: Connection, account_id: int) -> bool:
    """Delete the TOTP second factor of an account. False if there is none. Recovery codes stay for passkeys."""
    is_deleted = bool(connection.execute_many("DELETE FROM second_factors WHERE account_id = ?", [(account_id,)]))
    delete_useless_codes(connection, account_id)
    return is_deleted


def delete_useless_codes(connection: Connection, account_id: int) -> None:
    """Delete the recovery codes of an account without any second factor."""
    connection.execute(
        "DELETE FROM recovery_codes WHERE account_id = ?"
        " AND NOT EXISTS (SELECT 1 FROM second_factors WHERE account_id = ?)"
        " AND NOT EXISTS (SELECT 1 FROM passkeys WHERE user_id = ?)",
        (account_id, account_id, account_id),
    )


def replace_recovery_codes(connection: Connection, account_id: int, code_hashes: Sequence[bytes]) -> None:
    """Store new recovery codes. The old ones are no longer valid."""
    connection.execute("DELETE FROM recovery_codes WHERE account_id = ?", (account_id,))
    connection.execute_many(
        "INSERT INTO recovery_codes (account_id, code_hash) VALUES (?, ?)",
        [(account_id, code_hash) for code_hash in code_hashes],
    )


def use_recovery_code(connection: Connection, account_id: int, code_hash: bytes) -> bool:
    """Delete a recovery code and return True, or False if the account has no such code."""
    return bool(
        connection.execute_many(
            "DELETE FROM recovery_codes WHERE account_id = ? AND code_hash = ?", [(account_id, code_hash)]
        )
    )


def count_recovery_codes(connection: Connection, account_id: int) -> int:
    """Return how many recovery codes are left."""
    rows = connection.execute("SELECT count(*) FROM recovery_codes WHERE account_id = ?", (account_id,))
    return int(rows[0][0])


def all_secrets(connection: Connection) -> list[tuple[int, bytes]]:
    """Return account and encrypted secret of every second factor."""
    return [(row[0], bytes(row[1])) for row in connection.execute("SELECT account_id, secret FROM second_factors")]


def replace_secret(connection: Connection, account_id: int, old: bytes, new: bytes) -> None:
    """Store the same secret under another encryption, unless the row changed since it was read."""
    connection.execute(
        "UPDATE second_factors SET secret = ? WHERE account_id = ? AND secret = ?", (new, account_id, old)
    )
