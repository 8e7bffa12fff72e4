"""`minitoolai` that loses its power right after it has written a charge or queued a job, before its caller knows.

python -m tests.support.dying_server serve …
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from minitoolai.cli.main import main
from minitoolai.ledger.types import Operation, PlaceHold, Settle
from minitoolai.storage.database import Connection
from minitoolai.storage.writer import PendingWrite, Writer

PROGRAM = [sys.executable, "-m", "tests.support.dying_server"]
STATUS = 9


def is_the_end(operation: Operation | None) -> bool:
    """Return True for an operation after which its caller has paid, or will pay."""
    if isinstance(operation, PlaceHold):
        return operation.queue_limit is not None
    return isinstance(operation, Settle) and operation.attempt is None


def die_after_commits() -> None:
    """End the process, without any cleaning up, after each COMMIT of such an operation."""
    commit = Writer._commit

    def commit_and_die(self: Writer, connection: Connection, batch: Sequence[PendingWrite]) -> None:
        commit(self, connection, batch)
        if any(is_the_end(pending.operation) for pending in batch):
            os._exit(STATUS)

    Writer._commit = commit_and_die  # type: ignore[method-assign]


if __name__ == "__main__":
    die_after_commits()
    main()
