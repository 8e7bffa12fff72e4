"""The ledger beside its model, walk by walk, in real tables; and wrong ledgers, each of which must be found out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from minitoolai.ledger import rules
from minitoolai.storage.opening import migrate
from tests.support.books import TemporaryBooks
from tests.support.ledger_run import SideBySide, books_in_memory, walk
from tests.support.mutants import EQUIVALENT, load, mutants

BATCHES = 40
#: A mutant that lives through so many walks has survived.
TRIES = 48
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
    with _books(url) as books:
        for number in range(seed, seed + seeds):
            try:
                tally.operations += _walk(rules.decide, number, books)
            except Exception as error:  # noqa: BLE001 - whatever it was, it is a violation
                tally.violations.append(f"walk {number}: {error!r}"[:500])
            tally.seeds += 1
        for mutant in list(mutants(Path(rules.__file__).read_text("utf-8")))[::every]:
            if mutant.place in EQUIVALENT:
                continue
            tally.mutants += 1
            if _survives(mutant.tree, books):
                tally.survivors.append(": ".join(mutant.place))
            else:
                tally.killed += 1
    # Of a few mutants, one may live: 5 % of thirteen is less than one.
    if len(tally.survivors) > max(1.0, (1 - KILLED) * tally.mutants):
        tally.violations.append(f"{len(tally.survivors)} of {tally.mutants} mutants live: {tally.survivors}")
    return tally


@contextmanager
def _books(url: str) -> Iterator[TemporaryBooks | None]:
    """On a server, one database for all walks; None stands for tables in memory, new for each."""
    if not url:
        yield None
        return
    migrate(url)
    books = TemporaryBooks(url)
    try:
        yield books
    finally:
        books.close()


def _walk(decide: object, number: int, books: TemporaryBooks | None) -> int:
    """How many operations were judged alike; AssertionError where the two part."""
    if books is not None:
        books.clear()
        return walk(SideBySide(books.connection, decide), random.Random(number), BATCHES)
    connection = books_in_memory()
    try:
        return walk(SideBySide(connection, decide), random.Random(number), BATCHES)
    finally:
        connection.close()


def _survives(tree: object, books: TemporaryBooks | None) -> bool:
    try:
        wrong = load(tree, "wrong_ledger").decide
        for number in range(TRIES):
            _walk(wrong, number, books)
    except Exception:  # noqa: BLE001 - a wrong ledger may fail in any way
        return False
    return True
