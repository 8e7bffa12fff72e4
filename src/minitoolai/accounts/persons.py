"""A customer leaves: the person goes, the books stay. The same for the portal and the command line."""

from __future__ import annotations

import msgspec

from minitoolai.core.pictures import decode_ask
from minitoolai.storage import accounts, persons
from minitoolai.storage.database import Connection


def forget(connection: Connection, account_id: int, now_ms: int) -> bool:
    """Inside a transaction. False, and nothing done, while work of this account is under way."""
    if accounts.balance_of(connection, account_id).held:
        return False
    asks = [(_without_words(request), job) for job, request in persons.asks_of(connection, account_id)]
    persons.forget(connection, account_id, asks, now_ms)
    return True


def _without_words(request: str) -> str:
    ask = msgspec.structs.replace(decode_ask(request), prompt="", negative_prompt="")
    return msgspec.json.encode(ask).decode()
