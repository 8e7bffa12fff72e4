"""Archive nine tenths of a long history beside 200 requests a second, and print what it delays and what it changes.

A SQLite database is filled by large statements (bench/growth_fill.py), then served. A client sends requests at a fixed
rate, first alone, then beside `minitoolai archive`. The balances and the statement of one customer are compared before
and after.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.support.cli import CATALOG
from tests.support.old_days import whole_statement
from tests.support.server import PROGRAM, ServerProcess
from tests.support.steady_load import steady_times_s

from bench.growth_fill import ACCOUNTS, DAYS, History, fill_new, note
from minitoolai.billing.archive.archiver import LEAST_DAYS
from minitoolai.billing.archive.reader import ArchiveReader
from minitoolai.core.clock import MS_PER_DAY, SystemClock, date_of
from minitoolai.storage.object_store import LocalObjectStore
from minitoolai.storage.opening import migrate, open_database
from minitoolai.storage.tables.ledger import broken_invariants

_EXAMPLES = """examples:
  python -m bench.archive                           one million generations, about three minutes
  python -m bench.archive --generations 10000000    ten million, about half an hour
"""
MODEL = "fake-chat"
PER_SECOND = 200
#: Length of each measurement. Beside the archive, one follows the other until it has ended.
SECONDS = 15.0


@dataclass(frozen=True)
class Books:
    """What must be the same before and after."""

    balances: str
    statement: str
    rows: int


def main() -> int:
    """Fill, archive and print the table. Return 1 if the books differ."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.archive", description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--generations", type=int, default=1_000_000, help="length of the history")
    parser.add_argument("--folder", type=Path, help="where the database is made (the system's folder for such files)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        return run(Path(folder), options.generations)


def run(folder: Path, generations: int) -> int:
    """Measure in this folder."""
    (folder / "data").mkdir(mode=0o700)
    url = f"sqlite:///{folder / 'data' / 'minitoolai.db'}"
    migrate(url)
    history = _filled(url, generations)
    with ServerProcess(folder, catalog=CATALOG) as server:
        customer = server.account()
        before = read_books(url, history, server)
        size_before = _size_mb(server)
        steady_times_s(server.port, customer.key, PER_SECOND, SECONDS, MODEL)
        alone = steady_times_s(server.port, customer.key, PER_SECOND, SECONDS, MODEL)
        first = history.from_ms // MS_PER_DAY
        command = [*PROGRAM, "archive", "--before", date_of(first + DAYS * 9 // 10), "--data-dir", str(server.data_dir)]
        began_s = time.monotonic()
        archive = subprocess.Popen(
            command, env=server.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        beside: list[list[float]] = []
        while archive.poll() is None:
            beside.append(steady_times_s(server.port, customer.key, PER_SECOND, SECONDS, MODEL))
            note(f"{time.monotonic() - began_s:.0f} s: {_shown(beside[-1])}")
        took_s = time.monotonic() - began_s
        said, _ = archive.communicate()
        if archive.returncode:
            return 1
        after = read_books(url, history, server)
        broken = server.read(broken_invariants)
    _print(alone, sorted(time_s for each in beside for time_s in each))
    print(f"{said.strip()} in {took_s:.0f} s; the file had {size_before:,.0f} MB and has {_size_mb(server):,.0f} MB")
    same = before == after and not broken
    print(f"balances and a statement of {before.rows:,} rows: {'the same' if same else 'DIFFERENT'}; audit {broken}")
    return 0 if same else 1


def _filled(url: str, generations: int) -> History:
    database = open_database(url, serving=True)
    # The newest of the archived days is older than what the archive leaves in the database.
    history = fill_new(database, generations, SystemClock().now_ms() - LEAST_DAYS * MS_PER_DAY)
    database.close()
    return history


def read_books(url: str, history: History, server: ServerProcess) -> Books:
    """Read the balances of all customers of the history, and the whole statement of the first."""
    database = open_database(url, serving=False)
    with closing(database.connect()) as connection:
        balances = connection.execute(
            "SELECT id, posted, version FROM accounts WHERE is_system = 0 AND id BETWEEN ? AND ? ORDER BY id",
            (history.first_account, history.first_account + ACCOUNTS - 1),
        )
    reader = ArchiveReader(database, LocalObjectStore(server.data_dir / "objects"))
    rows = asyncio.run(whole_statement(reader, history.first_account))
    database.close()
    return Books(_hash(balances), _hash(rows), len(rows))


def _hash(rows: Sequence[object]) -> str:
    return hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()


def _size_mb(server: ServerProcess) -> float:
    return os.path.getsize(server.data_dir / "minitoolai.db") / 1e6


def _print(alone: list[float], beside: list[float]) -> None:
    print("| | requests | median, ms | p99, ms | worst, ms |")
    print("|---|---:|---:|---:|---:|")
    for name, times in (("alone", alone), ("beside the archive", beside)):
        print(f"| {name} | {len(times):,} | {_shown(times)} |")
    print(f"the worst is {(beside[-1] - alone[-1]) * 1e3:+.0f} ms later")


def _shown(times: list[float]) -> str:
    return " | ".join(f"{times[int(share * (len(times) - 1))] * 1e3:.1f}" for share in (0.5, 0.99, 1.0))


if __name__ == "__main__":
    sys.exit(main())
