"""Eight processes at once on an account that is funded for some of them: exactly so many holds are granted."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import psycopg

from minitoolai.core.clock import SystemClock
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Held, InsufficientFunds
from minitoolai.storage.opening import migrate, open_database
from minitoolai.storage.postgres.session import ProcessRegistration
from minitoolai.storage.writer import Writer
from tests.support.books import TemporaryBooks, emptied, hold
from tests.support.cluster import Cluster

PROCESSES, EACH, PRICE = 8, 500, 1000
#: That a commit serves many: at most so many of them for a hold.
MOST_COMMITS = 0.2


@dataclass
class ProcessBurst:
    """What the bursts came to."""

    bursts: int = 0
    granted: int = 0
    refused: int = 0
    commits: int = 0
    deadlocks: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def commits_a_hold(self) -> float:
        return self.commits / max(1, self.granted + self.refused)

    def __str__(self) -> str:
        return (
            f"postgres processes={PROCESSES} bursts={self.bursts} granted={self.granted} refused={self.refused} "
            f"commits/holds={self.commits_a_hold:.3f} deadlocks={self.deadlocks} violations={len(self.violations)}"
        )


def run_process_burst(cluster: Cluster, bursts: int, *, funded: int = 1500) -> ProcessBurst:
    """As often as asked for: 8 processes, 500 holds each, all at once on one account."""
    tally = ProcessBurst()
    url = cluster.url(cluster.create())
    migrate(url)
    for _ in range(bursts):
        books = TemporaryBooks(emptied(url))
        account = books.account(funded * PRICE)
        start_at_s = time.time() + 2.5
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            work = [pool.submit(_process, url, account, start_at_s) for _ in range(PROCESSES)]
            found = [one.result() for one in work]
        granted = sum(counts[0] for counts in found)
        tally.bursts += 1
        tally.granted += granted
        tally.refused += sum(counts[1] for counts in found)
        tally.commits += sum(counts[2] for counts in found)
        money = books.money(account)
        if granted != funded or (money.posted, money.held) != (funded * PRICE, funded * PRICE):
            tally.violations.append(f"granted {granted} of {funded}, {money}")
        tally.violations += [f"{name}: {rows}" for name, rows in books.broken().items()]
        books.close()
    with psycopg.connect(url) as db:
        row = db.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    tally.deadlocks = row[0] if row else -1
    if tally.deadlocks:
        tally.violations.append(f"{tally.deadlocks} deadlocks")
    if tally.commits_a_hold > MOST_COMMITS:
        tally.violations.append(f"{tally.commits_a_hold:.3f} commits a hold")
    return tally


def _process(url: str, account: int, start_at_s: float) -> tuple[int, int, int]:
    return asyncio.run(_holds(url, account, start_at_s))


async def _holds(url: str, account: int, start_at_s: float) -> tuple[int, int, int]:
    """Granted, refused, commits; with identifiers as a server draws them."""
    clock = SystemClock()
    presence = ProcessRegistration(url, (), lambda channel, said: None)
    clock.process_number = presence.start()
    database = open_database(url, serving=True)
    writer = Writer(database, decide)
    writer.start()
    await asyncio.sleep(max(0.0, start_at_s - time.time()))
    asked = [writer.submit(hold(clock.new_id(), account, PRICE)) for _ in range(EACH)]
    verdicts = await asyncio.gather(*(one for one in asked if one is not None))
    await asyncio.to_thread(writer.stop)
    presence.stop()
    database.close()
    granted = sum(isinstance(verdict, Held) for verdict in verdicts)
    refused = sum(isinstance(verdict, InsufficientFunds) for verdict in verdicts)
    assert granted + refused == EACH, verdicts
    return granted, refused, writer.counts.commits
