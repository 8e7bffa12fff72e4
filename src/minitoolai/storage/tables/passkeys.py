"""Rows of passkeys (WebAuthn) and of the challenges that they sign."""

from __future__ import annotations

from typing import Literal, NamedTuple

from minitoolai.storage.database import Connection, Row

#: What an answered challenge allows: adding a passkey, signing in, or an action of a signed-in user.
Purpose = Literal["create", "sign_in", "confirm"]
_COLUMNS = (
    "credential_id, user_id, public_key, sign_count, name, transports, is_synced, created_ms, used_ms, blocked_ms"
)


class Passkey(NamedTuple):
    """A credential of an authenticator, with the public key that verifies its signatures."""

    credential_id: bytes
    user_id: int
    public_key: bytes
    sign_count: int
    name: str
    #: How the browser reaches the authenticator, separated by spaces.
    transports: str
    is_synced: bool
    created_ms: int
    used_ms: int | None = None
    #: Since when it is refused, because its counter went backwards.
    blocked_ms: int | None = None


class PasskeyChallenge(NamedTuple):
    """Random bytes to sign, and the browser that may answer, for one user unless any may."""

    challenge: bytes
    purpose: Purpose
    browser_hash: bytes
    user_id: int | None
    expires_ms: int


def _passkey(row: Row) -> Passkey:
    credential_id, user_id, public_key, sign_count, name, transports, is_synced, *times = row
    return Passkey(
        bytes(credential_id), user_id, bytes(public_key), sign_count, name, transports, bool(is_synced), *times
    )


def insert(connection: Connection, passkey: Passkey) -> bool:
    """Insert a passkey and return True, or False if its credential is registered already."""
    head, tail = passkey[:6], passkey[7:]
    return bool(
        connection.execute_many(
            f"INSERT INTO passkeys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(*head, int(passkey.is_synced), *tail)],
        )
    )


def find(connection: Connection, credential_id: bytes) -> Passkey | None:
    """Return the passkey with this credential ID, or None."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM passkeys WHERE credential_id = ?", (credential_id,))
    return _passkey(rows[0]) if rows else None


def of_user(connection: Connection, user_id: int) -> list[Passkey]:
    """Return the passkeys of a user, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM passkeys WHERE user_id = ? ORDER BY created_ms, credential_id", (user_id,)
    )
    return [_passkey(row) for row in rows]


def record_use(connection: Connection, seen: Passkey, sign_count: int, is_synced: bool, now_ms: int) -> bool:
    """Record a signature and return True. False if the passkey was removed, blocked or used since `seen` was read."""
    return bool(
        connection.execute_many(
            "UPDATE passkeys SET sign_count = ?, is_synced = ?, used_ms = ? WHERE credential_id = ? AND user_id = ?"
            " AND sign_count = ? AND blocked_ms IS NULL",
            [(sign_count, int(is_synced), now_ms, seen.credential_id, seen.user_id, seen.sign_count)],
        )
    )


def block(connection: Connection, credential_id: bytes, now_ms: int) -> bool:
    """Refuse a passkey from now on. Return False if it was blocked before or is gone."""
    return bool(
        connection.execute_many(
            "UPDATE passkeys SET blocked_ms = ? WHERE credential_id = ? AND blocked_ms IS NULL",
            [(now_ms, credential_id)],
        )
    )


def rename(connection: Connection, user_id: int, credential_id: bytes, name: str) -> bool:
    """Rename a passkey of this user. Return False if there is none."""
    return bool(
        connection.execute_many(
            "UPDATE passkeys SET name = ? WHERE credential_id = ? AND user_id = ?", [(name, credential_id, user_id)]
        )
    )


def delete(connection: Connection, user_id: int, credential_id: bytes) -> bool:
    """Delete a passkey of this user. Return False if there is none."""
    return bool(
        connection.execute_many(
            "DELETE FROM passkeys WHERE credential_id = ? AND user_id = ?", [(credential_id, user_id)]
        )
    )


def delete_all(connection: Connection, user_id: int) -> int:
    """Delete the passkeys and challenges of a user, and return how many passkeys there were."""
    connection.execute("DELETE FROM passkey_challenges WHERE user_id = ?", (user_id,))
    return connection.execute_many("DELETE FROM passkeys WHERE user_id = ?", [(user_id,)])


def insert_challenge(connection: Connection, challenge: PasskeyChallenge) -> None:
    """Insert a challenge."""
    connection.execute(
        "INSERT INTO passkey_challenges (challenge, purpose, browser_hash, user_id, expires_ms) VALUES (?, ?, ?, ?, ?)",
        tuple(challenge),
    )


def take_challenge(connection: Connection, challenge: bytes, purpose: Purpose, now_ms: int) -> PasskeyChallenge | None:
    """Delete a challenge and return it, or None if it is unknown, expired or for another purpose."""
    rows = connection.execute(
        "SELECT challenge, purpose, browser_hash, user_id, expires_ms FROM passkey_challenges WHERE challenge = ?",
        (challenge,),
    )
    # The DELETE decides between two requests with the same challenge.
    taken = connection.execute_many("DELETE FROM passkey_challenges WHERE challenge = ?", [(challenge,)])
    if not rows or not taken:
        return None
    found = PasskeyChallenge(bytes(rows[0][0]), rows[0][1], bytes(rows[0][2]), rows[0][3], rows[0][4])
    return found if found.purpose == purpose and found.expires_ms > now_ms else None
