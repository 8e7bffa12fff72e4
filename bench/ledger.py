"""Hold and settle, ours beside one transaction for each transfer, on one PostgreSQL in one run: one table."""

from __future__ import annotations

import argparse
import sys
from statistics import median

import psycopg
from tests.support.cluster import Cluster, binary, running_cluster

from bench.ledger_sides import Figures, Load, prepare_ours, prepare_theirs, run_ours, run_theirs

_DESCRIPTION = """Pairs of hold and settle a second. Ours: processes with a group-commit writer each. Beside it, SQL
in the manner of pgledger: a PL/pgSQL function that locks the accounts, and writes transfer and entries, in one
transaction for each call; driven by pgbench with as many connections as do it best. Both durable (fsync on), both on
one server started for this run. Absolute figures are this machine's; compare the ratios."""
_EXAMPLES = """examples:
  python -m bench.ledger
  python -m bench.ledger --seconds 5 --rounds 5 --accounts 1
"""


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.ledger",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--accounts", type=int, default=64, help="customers that all of them share (64)")
    parser.add_argument("--processes", type=int, default=8, help="processes of ours, threads of pgbench (8)")
    parser.add_argument("--callers", type=int, default=64, help="callers in each process of ours (64)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (3)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side, in turn (3)")
    options = parser.parse_args()
    load = Load(options.accounts, options.processes, options.callers, options.seconds)
    with running_cluster(on_disk=True) as cluster:
        ours, theirs = compare(cluster, load, options.rounds)
    print(f"{load.accounts} accounts, {load.processes} processes, {options.rounds} rounds of {load.seconds:g} s\n")
    print("| ledger | pairs/s | commits a pair | beside the best other |")
    print("|---|---:|---:|---:|")
    best = max(median(f.pairs_each_s for f in found) for found in theirs.values())
    rows = {f"MiniToolAI, {load.callers} callers a process": ours, **theirs}
    for name, found in rows.items():
        speed = median(f.pairs_each_s for f in found)
        print(f"| {name} | {speed:,.0f} | {median(f.commits_a_pair for f in found):.3f} | {speed / best:.2f} × |")
    return 0


def compare(cluster: Cluster, load: Load, rounds: int) -> tuple[list[Figures], dict[str, list[Figures]]]:
    """In turn, so that a noisy moment meets both sides."""
    url = cluster.url(cluster.create())
    other = cluster.url(cluster.create())
    customers = prepare_ours(url, load)
    prepare_theirs(other, load)
    pgbench = binary("pgbench")
    ours: list[Figures] = []
    theirs: dict[str, list[Figures]] = {}
    for _ in range(rounds):
        _settle_down(url, other)
        ours.append(run_ours(url, customers, load))
        for connections in (load.processes, 8 * load.processes):
            for houses in (1, 9):
                _settle_down(url, other)
                name = f"a transaction a transfer, {connections} connections, {houses} revenue account(s)"
                found = run_theirs(pgbench, other, load, connections=connections, houses=houses)
                theirs.setdefault(name, []).append(found)
    return ours, theirs


def _settle_down(*urls: str) -> None:
    """Nobody pays for the checkpoint or the dead rows of the one before."""
    for url in urls:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("VACUUM ANALYZE")
            db.execute("CHECKPOINT")


if __name__ == "__main__":
    sys.exit(main())
