"""Measure what depends on the length of the history, at several lengths, and print one table with the ratios.

Each database is filled by large statements (bench/growth_fill.py), must pass the audit, and is deleted afterwards.
The databases take turns, so that the load of the machine changes all of them alike. Lines of this process are CPU time
on SQLite, and wall-clock time on PostgreSQL, where the server does the work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests
from tests.support import catalogs, manners
from tests.support.cluster import running_cluster
from tests.support.old_days import whole_statement
from tests.support.server import ServerProcess
from tests.support.upstream import Upstream

from bench.growth_fill import ACCOUNTS, DAYS, History, fill_new, note
from minitoolai.billing.archive.reader import ArchiveReader
from minitoolai.billing.audit_position import AuditPosition, check_books
from minitoolai.billing.usage import UsageCache
from minitoolai.core.clock import SystemClock
from minitoolai.core.models import NewGeneration, Outcome
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import PlaceHold, Settle, Work
from minitoolai.storage.backup import BackupWriter, dump_rows
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.object_store import LocalObjectStore
from minitoolai.storage.opening import migrate, open_database
from minitoolai.storage.tables import ledger, reports

_EXAMPLES = """examples:
  python -m bench.growth
  python -m bench.growth --generations 100000 1000000 10000000
  python -m bench.growth --postgres --generations 100000 1000000
"""
CHAT = NewGeneration("chat", "gpt-4o-mini", "fake", 150, 600)
DONE = Outcome("succeeded", input_units=3, output_units=5, delivered_bytes=10)
#: Name of a line → its value.
Lines = dict[str, float]
Call = Callable[[], object]


def main() -> int:
    """Fill, measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--generations", type=int, nargs="+", default=[100_000, 1_000_000], help="lengths to compare")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server started for this, not SQLite")
    parser.add_argument("--folder", type=Path, help="where the databases are made (the system's folder for such files)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, for bench.charts")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with ExitStack() as stack:
        filled = [
            _filled(stack, options.folder, generations, options.postgres) for generations in sorted(options.generations)
        ]
        found = measure(filled)
    print_table(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), "utf-8")
    return 0


@dataclass
class Filled:
    """A filled database, open for reading and writing."""

    folder: Path
    url: str
    history: History
    database: Database
    connection: Connection
    size: int
    position: AuditPosition

    @property
    def account(self) -> int:
        """Return the account whose lines are measured."""
        return self.history.first_account


def _filled(stack: ExitStack, parent: Path | None, generations: int, postgres: bool) -> Filled:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
    url = stack.enter_context(_database(folder, postgres))
    migrate(url)
    database = open_database(url, serving=True)
    history = fill_new(database, generations, SystemClock().now_ms())
    connection = stack.enter_context(closing(database.connect()))
    assert check_books(connection, SystemClock().now_ms()) == {}, "the books of the bench do not add up"
    return Filled(folder, url, history, database, connection, _size(database, url), AuditPosition())


@contextmanager
def _database(folder: Path, postgres: bool) -> Iterator[str]:
    if not postgres:
        (folder / "data").mkdir(mode=0o700)
        yield f"sqlite:///{folder / 'data' / 'minitoolai.db'}"
        return
    with running_cluster(on_disk=True) as cluster:
        yield cluster.url(cluster.create())


def print_table(found: dict[int, Lines]) -> None:
    """Print one line for each measurement, with the largest history divided by the smallest."""
    sizes = sorted(found)
    print("| | " + " | ".join(f"{size:,}" for size in sizes) + " | largest / smallest |")
    print("|---|" + "---:|" * (len(sizes) + 1))
    for line in found[sizes[0]]:
        values = [found[size][line] for size in sizes]
        shown = " | ".join(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values)
        print(f"| {line} | {shown} | {values[-1] / max(values[0], 1e-9):.2f} |")


def measure(filled: Sequence[Filled]) -> dict[int, Lines]:
    """Return the lines of each database by its generations.

    What takes milliseconds is measured in turns, one database after the other, so that the load of the machine changes
    all of them alike.
    """
    found: dict[int, Lines] = {one.history.generations: {} for one in filled}
    for name, times, unit, work_of in _turns():
        works = [work_of(one) for one in filled]
        for one, took in zip(filled, _medians(works, times, _clock(filled[0].database)), strict=True):
            found[one.history.generations][name] = took * unit
    for one in filled:
        lines = found[one.history.generations]
        lines |= _measure_once(one)
        one.connection.close()
        one.database.close()
        lines |= _measure_server(one.folder, one.url)
        lines["bytes of the database for each generation"] = one.size / one.history.generations
    return found


def _size(database: Database, url: str) -> int:
    if database.name == "sqlite":
        return os.path.getsize(url.removeprefix("sqlite:///"))
    return int(database.read(lambda c: c.execute("SELECT pg_database_size(current_database())"))[0][0])


def _clock(database: Database) -> Callable[[], float]:
    return time.process_time if database.name == "sqlite" else time.perf_counter


def _medians(works: Sequence[Call], times: int, clock: Callable[[], float]) -> list[float]:
    took: list[list[float]] = [[] for _ in works]
    for _ in range(times):
        for each, work in zip(took, works, strict=True):
            began = clock()
            work()
            each.append(clock() - began)
    return [statistics.median(each) for each in took]


# ── in this process ───────────────────────────────────────────────────────────────────────────────────────────────


def _turns() -> Iterator[tuple[str, int, float, Callable[[Filled], Call]]]:
    """Yield name, times, unit and work of each line that is measured in turns."""
    now = SystemClock()

    def audit(one: Filled) -> Call:
        assert one.position.check(one.connection, now.now_ms()) == {}
        return lambda: one.position.check(one.connection, now.now_ms())

    def first_audit(one: Filled) -> Call:
        return lambda: AuditPosition().check(one.connection, now.now_ms())

    def usage(one: Filled) -> Call:
        archive = ArchiveReader(one.database, LocalObjectStore(Path(os.devnull)))
        cache = UsageCache(one.database, now, archive)
        return lambda: asyncio.run(cache.cells(one.account, 30))

    def newest(one: Filled) -> Call:
        return partial(_statement, one, None, now.now_ms())

    def middle(one: Filled) -> Call:
        version = one.history.generations // ACCOUNTS // 2
        rows = one.connection.execute(
            "SELECT created_ms FROM transfers WHERE debit = ? AND account_version = ?", (one.account, version)
        )
        return partial(_statement, one, version, rows[0][0])

    yield "hold and settle, µs", 400, 1e6, lambda one: partial(_hold_and_settle, one.connection, one.account, now)
    yield "audit after a start, ms: the last two days, and the sums of all others", 3, 1e3, first_audit
    yield "audit of each minute, ms", 21, 1e3, audit
    yield "usage page of 30 days, ms", 41, 1e3, usage
    yield "statement page, newest, ms", 41, 1e3, newest
    yield "statement page, middle, ms", 41, 1e3, middle


def _statement(one: Filled, below: int | None, before_ms: int) -> None:
    page = reports.statement_page(one.connection, one.account, below=below, before_ms=before_ms, rows=50)
    assert len(page) == 50


def _measure_once(one: Filled) -> Lines:
    clock, lines = _clock(one.database), {}
    archive = ArchiveReader(one.database, LocalObjectStore(Path(os.devnull)))
    began = clock()
    rows = len(asyncio.run(whole_statement(archive, one.account)))
    lines["statement to download, µs for each row"] = (clock() - began) / rows * 1e6
    began = clock()
    with open(os.devnull, "wb") as file, one.connection.snapshot():
        writer = BackupWriter(file)
        for chunk in dump_rows(one.connection):
            writer.write_rows(chunk)
        writer.finish()
    lines["backup, µs for each generation"] = (clock() - began) / one.history.generations * 1e6
    return lines


def _hold_and_settle(connection: Connection, account: int, clock: SystemClock) -> None:
    now_ms, number = clock.now_ms(), clock.new_id()
    hold = PlaceHold(number, account, "key000000001", "chat", 1000, 0, 1, 1, now_ms + 10_000, now_ms, CHAT)
    work = Work("key000000001", CHAT.model, now_ms)
    for operation in (hold, Settle(number, account, 600, now_ms, DONE, work=work)):
        with connection.transaction():
            ledger.apply(connection, [operation], decide)


# ── a server ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _measure_server(folder: Path, url: str) -> Lines:
    env = {} if url.startswith("sqlite") else {"MINITOOLAI_DATABASE_URL": url}
    lines: Lines = {}
    with Upstream(manners.answer()) as upstream:
        catalog = catalogs.with_upstream(upstream.base_url)
        server = ServerProcess(folder, catalog=catalog, env=env)
        customer = server.account()
        starts = []
        for _ in range(3):
            began_s = time.perf_counter()
            server.start()
            starts.append(time.perf_counter() - began_s)
            if len(starts) < 3:
                server.terminate()
                server.wait()
        lines["start of the server, s"] = min(starts)
        # The first audit runs beside the first requests.
        time.sleep(3)
        model = requests.get(f"{server.url}/v1/models", headers=customer.headers, timeout=10).json()["data"][0]["id"]
        with requests.Session() as session:
            body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 50}
            ask = partial(session.post, f"{server.url}/v1/chat/completions", json=body, headers=customer.headers)
            assert ask(timeout=30).status_code == 200
            (took,) = _medians([lambda: ask(timeout=30)], 300, time.perf_counter)
            lines["plain request, ms of a client"] = took * 1e3
        server.terminate()
        server.wait()
    return lines


if __name__ == "__main__":
    note(f"{ACCOUNTS} customers, {DAYS} days")
    sys.exit(main())
