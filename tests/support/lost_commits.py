"""COMMITs lost on their way, their answers lost on the way back, sessions ended: every answer equals the database."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from minitoolai.core.errors import CommitInDoubt, ConnectionLost
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Credited, Held, InsufficientFunds, Settled
from minitoolai.storage.opening import open_database
from minitoolai.storage.writer import Writer
from tests.support.books import TemporaryBooks, credit, emptied, hold, settle
from tests.support.cluster import Cluster
from tests.support.tcp_proxy import loses_commits, proxy_to

HOLDS, CALLERS = 400, 8


@dataclass
class LostCommits:
    """What came of it."""

    seeds: int = 0
    answers: int = 0
    broken: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"postgres lost_commits seeds={self.seeds} connections_broken={self.broken} "
            f"acknowledged={self.answers} violations={len(self.violations)}"
        )


def run_lost_commits(cluster: Cluster, seeds: Iterable[int]) -> LostCommits:
    """One set of books and one writer for each seed."""
    tally = LostCommits()
    url = cluster.books()
    for seed in seeds:
        books = TemporaryBooks(emptied(url))
        try:
            _run(books, cluster, random.Random(seed), tally)
        finally:
            books.close()
        tally.seeds += 1
    cluster.drop(url.rpartition("/")[2])
    return tally


def _run(books: TemporaryBooks, cluster: Cluster, draw: random.Random, tally: LostCommits) -> None:
    accounts = [books.account(draw.choice((500, 10**6))) for _ in range(4)]
    over = threading.Event()
    ender = threading.Thread(target=_end_sessions, args=(books.url, over, random.Random(draw.random())))
    with proxy_to(cluster.port) as proxy:
        database = open_database(cluster.url(books.url.rpartition("/")[2], port=proxy.port), serving=True)
        writer = Writer(database, decide)
        writer.start()
        proxy.fate = loses_commits(random.Random(draw.random()), asked=0.25, answered=0.25)
        ender.start()
        try:
            answers = asyncio.run(asyncio.wait_for(_ask(writer, accounts, draw), 120))
        finally:
            over.set()
            ender.join()
            proxy.fate = lambda is_answer, data: True
            writer.stop()
            database.close()
        tally.broken += proxy.broken
    tally.answers += len(answers)
    tally.violations += _differences(books, answers)
    tally.violations += [f"{name}: {rows}" for name, rows in books.broken().items()]


def _end_sessions(url: str, over: threading.Event, draw: random.Random) -> None:
    """Whoever is in the middle of something is thrown out."""
    with psycopg.connect(url, autocommit=True) as db:
        while not over.wait(draw.uniform(0.02, 0.2)):
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'minitoolai'"
                " AND datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()"
            )


async def _ask(writer: Writer, accounts: list[int], draw: random.Random) -> dict[Any, Any]:
    """(kind, number) → the answer that its caller got."""
    answers: dict[Any, Any] = {}
    numbers = iter(range(1, HOLDS + 1))

    async def ask(operation: Any) -> Any:
        future = writer.submit(operation)
        assert future is not None
        try:
            return await future
        except ConnectionLost as refused:
            # Patience has an end: a hold is then refused, which must be as true as any other answer.
            return refused

    async def caller() -> None:
        for number in numbers:
            account = draw.choice(accounts)
            answers["hold", number] = await ask(hold(number, account, 100))
            if isinstance(answers["hold", number], Held) and draw.random() < 0.8:
                answers["settle", number] = await ask(settle(number, account, 60))
            if draw.random() < 0.1:
                answers["credit", number] = await ask(credit(account, 7, f"lost:{number}"))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return answers


def _differences(books: TemporaryBooks, answers: dict[Any, Any]) -> list[str]:
    """Where what a caller was told is not what is written."""
    rows = {row[0]: row[1:] for row in books.rows("SELECT id, state, amount, settled FROM holds")}
    credited = {row[0] for row in books.rows("SELECT external_ref FROM transfers WHERE kind = 'grant'")}
    found = []
    for (kind, number), told in answers.items():
        if kind == "credit":
            # Nobody had credited this reference before: the answer must not say so.
            is_right = f"lost:{number}" in credited and isinstance(told, Credited) and not told.repeated
        elif kind == "settle":
            is_right = told == Settled(60) and rows[number] == ("posted", 100, 60)
        elif isinstance(told, CommitInDoubt):
            is_right = True
        elif isinstance(told, InsufficientFunds | ConnectionLost):
            is_right = number not in rows
        else:
            is_settled = ("settle", number) in answers
            expected = ("posted", 100, 60) if is_settled else ("pending", 100, 0)
            is_right = told == Held(100, 1) and rows.get(number) == expected
        if not is_right:
            found.append(f"{kind} {number}: told {told}, written {rows.get(number)}")
    return found
