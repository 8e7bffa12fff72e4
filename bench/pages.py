"""Measure how long each portal page takes: the tables of docs/portal.md.

The server is real; the time is wall-clock time from request to last byte over loopback, the median of some views after
a first one. The signed-in user has 100,000 generations of her own, and is an admin among thousands of accounts. With
`--generations`, other accounts have so many more, and every filter of every page is measured as well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.support import crowd
from tests.support.all_kinds import CATALOG
from tests.support.browse import Visitor
from tests.support.cluster import running_cluster
from tests.support.history import count_traffic
from tests.support.server import ServerProcess

from bench.growth_fill import close_days, fill
from minitoolai.core.clock import MS_PER_DAY, SystemClock
from minitoolai.storage.database import Connection
from minitoolai.storage.insight import traffic
from minitoolai.storage.opening import open_database

#: Numbers of the customers that `--customers` adds. They have traffic only.
FIRST_CUSTOMER = 10_000_000

_EXAMPLES = """examples:
  python -m bench.pages
  python -m bench.pages --generations 1000000 --views 5
  python -m bench.pages --generations 1000000 --views 5 --postgres
  python -m bench.pages --customers 5000 --only by=customer --views 5 --postgres
"""


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pages", description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--generations", type=int, default=0, help="generations of other accounts (none)")
    parser.add_argument("--customers", type=int, default=0, help="other customers active on each of 90 days (none)")
    parser.add_argument("--only", default="", metavar="TEXT", help="measure only addresses that contain this")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server started for this, not SQLite")
    parser.add_argument("--views", type=int, default=31, help="views of each page, of which the median counts (31)")
    parser.add_argument("--folder", type=Path, help="where the database is made (the system's folder for such files)")
    parser.add_argument("--slower-than", type=float, default=0.0, metavar="MS", help="list only pages slower than this")
    options = parser.parse_args()
    with _server(options) as (server, member):
        measure(server, member, options)
    return 0


def measure(server: ServerProcess, member: Visitor, options: argparse.Namespace) -> None:
    """Open every page and print its line."""
    closed = (*crowd.CLOSED, *crowd.FILTERED) if options.generations or options.customers else crowd.CLOSED
    sys.stdout.write("| page | ms | kB |\n|---|--:|--:|\n")
    for who, visitor, paths in (("visitor", Visitor(server), crowd.OPEN), ("member", member, closed)):
        for path in paths:
            if options.only not in path or (options.customers and "OTHER" in path):
                continue
            took = crowd.median_ms(visitor, crowd.address(member, path), views=options.views)
            name = f"`{path}`" + (" (signed in)" if who == "member" and path in crowd.OPEN else "")
            if took >= options.slower_than:
                sys.stdout.write(f"| {name} | {took:.1f} | {len(visitor.page.content) / 1000:.1f} |\n")
                sys.stdout.flush()


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[ServerProcess, Visitor]]:
    """Yield a server with a long history, and its admin. Rows are written while the server does not run."""
    env = {"MINITOOLAI_TRIES_FACTOR": "1000"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        if options.postgres:
            cluster = stack.enter_context(running_cluster(on_disk=True))
            env["MINITOOLAI_DATABASE_URL"] = cluster.url(cluster.create())
        server = ServerProcess(folder, catalog=CATALOG, env=env)
        with server:
            member = crowd.enter(server)
        url = env.get("MINITOOLAI_DATABASE_URL") or f"sqlite:///{server.data_dir / 'minitoolai.db'}"
        _fill(url, options.generations, options.customers)
        with server.start():
            yield server, member


def _add_customers(connection: Connection, customers: int, today: int) -> None:
    """Write the traffic of customers who sent requests on each of the last 90 days."""
    sums = (5, 0, 1_000, 500, 1_000, 5, 4_500, 5, 900, 2_500, 3_600)
    for day in range(today - 89, today + 1):
        rows = [(FIRST_CUSTOMER + n, day, "chat", "quick", "fake", *sums) for n in range(customers)]
        columns = f"{traffic._KEYS}, {traffic._SUMS}"
        marks = ", ".join("?" * len(rows[0]))
        connection.execute_many(f"INSERT INTO traffic_days ({columns}) VALUES ({marks})", rows)


def _fill(url: str, generations: int, customers: int) -> None:
    """Write the history of the admin's account and the others, count it for the dashboards, and close its days."""
    clock, began_s, database = SystemClock(), time.monotonic(), open_database(url, serving=True)
    try:
        with closing(database.connect()) as connection:
            if database.name == "sqlite":
                for pragma in ("synchronous=OFF", "foreign_keys=OFF", "cache_size=-400000", "wal_autocheckpoint=20000"):
                    connection.execute(f"PRAGMA {pragma}")
            if generations:
                fill(connection, generations, clock.now_ms(), close=False)
                with connection.transaction():
                    count_traffic(connection, 20_000)
            with connection.transaction():
                crowd.fill(connection)
            if customers:
                with connection.transaction():
                    _add_customers(connection, customers, clock.now_ms() // MS_PER_DAY)
            close_days(connection, clock.now_ms())
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)" if database.name == "sqlite" else "VACUUM ANALYZE")
    finally:
        database.close()
    sys.stderr.write(f"filled in {time.monotonic() - began_s:.0f} s\n")


if __name__ == "__main__":
    sys.exit(main())
