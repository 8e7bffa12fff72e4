"""The ledger beside its model, walk by walk, in real tables; and wrong ledgers, each of which must be found out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from minitoolai.services import ledger
from minitoolai.storage.migrate import migrate
from tests.support.books import TemporaryBooks, emptied
from tests.support.ledger_run import SideBySide, books_in_memory, walk
from tests.support.mutants import load, mutants

BATCHES = 40
#: A mutant that lives through so many walks has survived.
TRIES = 24
KILLED = 0.95


@dataclass
class WalkTally:
    """What the walks came to."""

    seeds: int = 0
    operations: int = 0
    mutants: int = 0
    killed: int = 0
    survivors: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def run_walks(seeds: int, *, every: int = 1, seed: int = 1, url: str = "") -> WalkTally:
    """So many walks of the right ledger, then each `every`th wrong one. `url`: on PostgreSQL."""
    tally = WalkTally()
    if url:
        migrate(url)
    for number in range(seed, seed + seeds):
        try:
            tally.operations += _walk(ledger.decide, number, url)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is a violation
            tally.violations.append(f"walk {number}: {error!r}"[:500])
        tally.seeds += 1
    for what, tree in list(mutants(Path(ledger.__file__).read_text("utf-8")))[::every]:
        tally.mutants += 1
        if _survives(tree, url):
            tally.survivors.append(what)
        else:
            tally.killed += 1
    if tally.killed < KILLED * tally.mutants:
        tally.violations.append(f"{len(tally.survivors)} of {tally.mutants} mutants live: {tally.survivors}")
    return tally


def _walk(decide: object, number: int, url: str) -> int:
    """How many operations were judged alike; AssertionError where the two part."""
    if not url:
        connection = books_in_memory()
        try:
            return walk(SideBySide(connection, decide), random.Random(number), BATCHES)
        finally:
            connection.close()
    books = TemporaryBooks(emptied(url))
    try:
        # The comparison reads whole tables, which a writer is kept from.
        books.connection.execute("RESET enable_seqscan")
        return walk(SideBySide(books.connection, decide), random.Random(number), BATCHES)
    finally:
        books.close()


def _survives(tree: object, url: str) -> bool:
    try:
        wrong = load(tree, "wrong_ledger").decide
        for number in range(TRIES):
            _walk(wrong, number, url)
    except Exception:  # noqa: BLE001 - a wrong ledger may fail in any way
        return False
    return True
