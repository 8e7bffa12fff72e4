"""Settings of a PostgreSQL server under which a COMMIT may be lost, or its files with it."""

from __future__ import annotations

from minitoolai.storage.database import Connection

#: Setting → what a crash of that machine does where it is off.
RISKS = {
    "fsync": "a crash of that machine can destroy the whole database",
    "full_page_writes": "a crash of that machine can leave torn pages that nothing repairs",
    "synchronous_commit": "other programs' commits can be lost; our sessions turn it on for themselves",
}


def weak_settings(connection: Connection) -> dict[str, str]:
    """Those that are off on the server, with what that risks."""
    rows = connection.execute(
        "SELECT name FROM pg_settings WHERE reset_val = 'off'"
        " AND name IN ('fsync', 'full_page_writes', 'synchronous_commit') ORDER BY name"
    )
    return {row[0]: RISKS[row[0]] for row in rows}
