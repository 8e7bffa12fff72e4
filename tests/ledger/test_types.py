"""When an Idempotency-Key is free again, and what an empty ledger state holds."""

from __future__ import annotations

import pytest

from minitoolai.ledger.types import IDEMPOTENCY_TTL_MS, AccountState, IdempotencyClaimState, LedgerState
from tests.support.books import NOON_MS


@pytest.mark.parametrize(
    ("has_response", "hold_state", "settled", "is_free"),
    [
        (False, "pending", 0, False),
        (False, "voided", 0, True),
        (False, "posted", 5, False),
        (True, "voided", 0, False),
        (True, "posted", 5, False),
    ],
)
def test_a_key_is_free_if_nothing_was_charged_or_stored(
    has_response: bool, hold_state: str, settled: int, is_free: bool
) -> None:
    claim = IdempotencyClaimState(NOON_MS, has_response, 1, hold_state, settled)
    assert claim.is_free(NOON_MS + IDEMPOTENCY_TTL_MS - 1) is is_free
    assert claim.is_free(NOON_MS + IDEMPOTENCY_TTL_MS)


def test_available_is_posted_less_held() -> None:
    assert AccountState(posted=10, held=4, version=1).available == 6


def test_a_new_state_has_nothing_to_write_and_shares_nothing() -> None:
    one, other = LedgerState({}, {}), LedgerState({}, {})
    one.transfers.append(None)  # type: ignore[arg-type]
    one.known_references.add("grant:1")
    assert (other.transfers, other.known_references, other.new_holds, other.turns) == ([], set(), [], {})
    assert not one.is_simple
