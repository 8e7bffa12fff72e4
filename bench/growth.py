"""Measure what depends on the length of the history, at several lengths, and print one table with the ratios.

Each database is filled by large statements (bench/growth_fill.py), must pass the audit, and is deleted afterwards.
Lines of this process are CPU time on SQLite, and wall-clock time on PostgreSQL, where the server does the work.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import requests
from tests.support import catalogs, manners
from tests.support.cluster import running_cluster
from tests.support.old_days import whole_statement
from tests.support.server import ServerProcess
from tests.support.upstream import Upstream

from bench.growth_fill import ACCOUNTS, DAYS, History, fill
from minitoolai.billing.archive_reader import ArchiveReader
from minitoolai.billing.audit_position import AuditPosition, check_books
from minitoolai.billing.usage import UsageCache
from minitoolai.core.clock import MS_PER_DAY, SystemClock
from minitoolai.core.models import NewGeneration, Outcome
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import PlaceHold, Settle, Work
from minitoolai.storage import ledger, reports
from minitoolai.storage.backup import BackupWriter, dump_rows
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.object_store import LocalObjectStore
from minitoolai.storage.opening import migrate, open_database

_EXAMPLES = """examples:
  python -m bench.growth
  python -m bench.growth --generations 100000 1000000 10000000
  python -m bench.growth --postgres --generations 100000 1000000
"""
CHAT = NewGeneration("chat", "gpt-4o-mini", "fake", 150, 600)
DONE = Outcome("succeeded", input_units=3, output_units=5, delivered_bytes=10)
#: Name of a line → its value.
Lines = dict[str, float]


def main() -> int:
    """Fill, measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--generations", type=int, nargs="+", default=[100_000, 1_000_000], help="lengths to compare")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server started for this, not SQLite")
    parser.add_argument("--folder", type=Path, help="where the databases are made (the system's folder for such files)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    found: dict[int, Lines] = {}
    for generations in sorted(options.generations):
        with (
            tempfile.TemporaryDirectory(dir=options.folder) as folder,
            _database(Path(folder), options.postgres) as url,
        ):
            found[generations] = measure(Path(folder), url, generations)
    print_table(found)
    return 0


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


def measure(folder: Path, url: str, generations: int) -> Lines:
    """Fill one database and return its lines."""
    migrate(url)
    database = open_database(url, serving=True)
    lines: Lines = {}
    with closing(database.connect()) as connection:
        if database.name == "sqlite":
            for pragma in ("synchronous=OFF", "foreign_keys=OFF", "cache_size=-400000", "wal_autocheckpoint=20000"):
                connection.execute(f"PRAGMA {pragma}")
        began_s = time.monotonic()
        history = fill(connection, generations, SystemClock().now_ms())
        _note(f"{generations:,} generations filled and closed in {time.monotonic() - began_s:.0f} s")
        if database.name == "sqlite":
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = _size(database, url)
    with closing(database.connect()) as connection:
        lines |= _measure_here(database, connection, history)
    database.close()
    lines |= _measure_server(folder, url)
    lines["bytes of the database for each generation"] = size / generations
    return lines


def _size(database: Database, url: str) -> int:
    if database.name == "sqlite":
        return os.path.getsize(url.removeprefix("sqlite:///"))
    return int(database.read(lambda c: c.execute("SELECT pg_database_size(current_database())"))[0][0])


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _median(work: Callable[[], object], times: int, clock: Callable[[], float]) -> float:
    took = []
    for _ in range(times):
        began = clock()
        work()
        took.append(clock() - began)
    return statistics.median(took)


# ── in this process ───────────────────────────────────────────────────────────────────────────────────────────────


def _measure_here(database: Database, connection: Connection, history: History) -> Lines:
    clock = time.process_time if database.name == "sqlite" else time.perf_counter
    account, now = history.first_account, SystemClock()
    assert check_books(connection, now.now_ms()) == {}, "the books of the bench do not add up"
    lines: Lines = {}
    pair = partial(_hold_and_settle, connection, account, now)
    pair()
    lines["hold and settle, µs"] = _median(pair, 400, clock) * 1e6
    began = clock()
    position = AuditPosition()
    assert position.check(connection, now.now_ms()) == {}
    lines["audit after a start, ms: the last two days, and the sums of all others"] = (clock() - began) * 1e3
    lines["audit of each minute, ms"] = _median(lambda: position.check(connection, now.now_ms()), 9, clock) * 1e3
    archive = ArchiveReader(database, LocalObjectStore(Path(os.devnull)))
    usage = UsageCache(database, now, archive)
    cells = lambda: asyncio.run(usage.cells(account, 30))  # noqa: E731 - a name for one expression
    cells()
    lines["usage page of 30 days, ms"] = _median(cells, 21, clock) * 1e3
    middle = history.generations // ACCOUNTS // 2
    middle_ms = (history.from_ms + history.until_ms) // 2 + MS_PER_DAY // 4
    for name, below, before_ms in (("newest", None, now.now_ms()), ("middle", middle, middle_ms)):
        page = partial(reports.statement_page, connection, account, below=below, before_ms=before_ms, rows=50)
        assert len(page()) == 50
        lines[f"statement page, {name}, ms"] = _median(page, 21, clock) * 1e3
    began = clock()
    rows = len(asyncio.run(whole_statement(archive, account)))
    lines["statement to download, µs for each row"] = (clock() - began) / rows * 1e6
    began = clock()
    with open(os.devnull, "wb") as file, connection.snapshot():
        writer = BackupWriter(file)
        for chunk in dump_rows(connection):
            writer.write_rows(chunk)
        writer.finish()
    lines["backup, µs for each generation"] = (clock() - began) / history.generations * 1e6
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
            lines["plain request, ms of a client"] = _median(lambda: ask(timeout=30), 300, time.perf_counter) * 1e3
        server.terminate()
        server.wait()
    return lines


if __name__ == "__main__":
    _note(f"{ACCOUNTS} customers, {DAYS} days")
    sys.exit(main())
