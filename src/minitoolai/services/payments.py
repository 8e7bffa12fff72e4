"""Money from outside into accounts; each piece once, by its reference."""

from __future__ import annotations

from minitoolai.core.books import Credit, Credited
from minitoolai.core.clock import Clock, random_text
from minitoolai.core.errors import NotFound
from minitoolai.services.ledger import decide
from minitoolai.storage import ledger
from minitoolai.storage.database import Connection


def grant(
    connection: Connection, clock: Clock, account_id: int, amount: int, *, reason: str, reference: str | None = None
) -> Credited:
    """Credit `amount` nano-dollars; the caller holds the transaction.

    With a `reference`, a repeat changes nothing and says so. NotFound where the account is none.
    """
    ask = Credit(
        account_id=account_id,
        amount=amount,
        kind="grant",
        external_ref=f"grant:{reference or random_text(20)}",
        now_ms=clock.now_ms(),
        reason=reason,
    )
    verdict = ledger.apply(connection, [ask], decide)[0]
    if not isinstance(verdict, Credited):
        raise NotFound(f"there is no account {account_id}")
    return verdict
