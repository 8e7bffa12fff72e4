"""What must be told to others once it is true: written in the same transaction as what makes it so."""

from __future__ import annotations

from collections.abc import Sequence

from minitoolai.storage.database import Connection


def announce(connection: Connection, generation_ids: Sequence[int], now_ms: int) -> None:
    """These jobs have just ended: whoever left an address is to be told."""
