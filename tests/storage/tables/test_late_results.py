"""Results that come after their hold was recovered are kept, and `minitoolai audit` counts them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from minitoolai.core.clock import SystemClock, generation_name
from minitoolai.core.models import Outcome
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Recover, Settle
from minitoolai.storage.tables.late_results import KEPT_MS, LateResults, late_results
from minitoolai.storage.writer import Writer
from tests.support.books import LEASE_MS, NOON_MS, TemporaryBooks, checkpoint, hold, new_file
from tests.support.cli import Cli

WHOLE = Outcome("succeeded", input_units=3, output_units=5, delivered_bytes=10)
LATER_MS = NOON_MS + 2 * LEASE_MS


def settle_late(books: TemporaryBooks, number: int, outcome: Outcome, *, now_ms: int = LATER_MS) -> None:
    """Recover a hold of 500 at its checkpoint of 40, then settle it with a cost of 90, as a process that was paused."""
    account = books.account(1000)
    books.apply(hold(number, account, 500), checkpoint(number, account, 40))
    books.apply(Recover(number, account, now_ms, forced=True, lease_now_ms=now_ms))
    writer = Writer(books.database, decide)
    writer.start()

    async def settle() -> None:
        settled = writer.submit(Settle(number, account, 90, now_ms, outcome))
        assert settled is not None
        assert (await settled).cost == 40  # type: ignore[union-attr]

    asyncio.run(settle())
    writer.stop()


def test_a_whole_response_that_the_books_call_interrupted_is_kept(books: TemporaryBooks) -> None:
    settle_late(books, 7, WHOLE)
    assert late_results(books.connection, LATER_MS) == LateResults(1, 50, 7)
    assert late_results(books.connection, LATER_MS + 1) == LateResults(0, 0, 0)
    assert books.broken() == {}, "the books themselves are in order"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_response_that_was_not_whole_is_not_kept(books: TemporaryBooks, state: str) -> None:
    settle_late(books, 7, Outcome(state, error_code="engine_failed"))  # type: ignore[arg-type]
    assert late_results(books.connection, 0).number == 0


def test_the_same_result_is_kept_once_and_for_a_week(books: TemporaryBooks) -> None:
    settle_late(books, 7, WHOLE)
    settle_late(books, 8, WHOLE)
    assert late_results(books.connection, 0) == LateResults(2, 100, 8)
    settle_late(books, 9, WHOLE, now_ms=LATER_MS + KEPT_MS + 1)
    assert late_results(books.connection, 0) == LateResults(1, 50, 9)


def test_the_audit_counts_late_results_and_still_ends_with_0(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    books = TemporaryBooks(new_file(tmp_path / "data"))
    now_ms = SystemClock().now_ms()
    settle_late(books, 7, WHOLE, now_ms=now_ms)
    books.close()
    said = Cli(tmp_path)("audit")
    assert said.status == 0
    assert "1 responses of the last day were whole at the engine and are interrupted in the books" in said.out
    assert f"($0.00000005 not charged; the last is {generation_name(7)})" in said.out
