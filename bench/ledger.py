"""Compare hold and settle with one transaction per transfer, on one PostgreSQL in one run, and print one table."""

from __future__ import annotations

import argparse
import sys
from statistics import median

import psycopg
from tests.support.cluster import Cluster, binary, running_cluster

from bench.ledger_sides import Figures, Load, prepare_ours, prepare_theirs, run_ours, run_theirs

_DESCRIPTION = """Pairs of hold and settle per second. MiniToolAI: processes with one group-commit writer each. Compared
with SQL in the style of pgledger: a PL/pgSQL function that locks the accounts and writes transfer and entries, in one
transaction per call, driven by pgbench with several numbers of connections. Both are durable (fsync on) and use
one server started for this run. Absolute figures depend on the machine; compare the ratios."""
_EXAMPLES = """examples:
  python -m bench.ledger
  python -m bench.ledger --seconds 5 --rounds 5 --accounts 1
"""


def main() -> int:
    """Run both sides and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.ledger",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--accounts", type=int, default=64, help="customers, shared by all processes (64)")
    parser.add_argument("--processes", type=int, default=8, help="processes of MiniToolAI, threads of pgbench (8)")
    parser.add_argument("--callers", type=int, default=64, help="callers in each process of MiniToolAI (64)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement (3)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side, alternating (3)")
    options = parser.parse_args()
    load = Load(options.accounts, options.processes, options.callers, options.seconds)
    with running_cluster(on_disk=True) as cluster:
        ours, theirs = compare(cluster, load, options.rounds)
    print(f"{load.accounts} accounts, {load.processes} processes, {options.rounds} rounds of {load.seconds:g} s\n")
    print("| ledger | pairs/s | commits per pair | relative to the best other |")
    print("|---|---:|---:|---:|")
    best = max(median(f.pairs_each_s for f in found) for found in theirs.values())
    rows = {f"MiniToolAI, {load.callers} callers per process": ours, **theirs}
    for name, found in rows.items():
        speed = median(f.pairs_each_s for f in found)
        print(f"| {name} | {speed:,.0f} | {median(f.commits_a_pair for f in found):.3f} | {speed / best:.2f} × |")
    return 0


def compare(cluster: Cluster, load: Load, rounds: int) -> tuple[list[Figures], dict[str, list[Figures]]]:
    """Measure both sides alternately, so that noise affects both."""
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
                name = f"one transaction per transfer, {connections} connections, {houses} revenue account(s)"
                found = run_theirs(pgbench, other, load, connections=connections, houses=houses)
                theirs.setdefault(name, []).append(found)
    return ours, theirs


def _settle_down(*urls: str) -> None:
    """Vacuum and checkpoint, so that no measurement pays for the one before it."""
    for url in urls:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("VACUUM ANALYZE")
            db.execute("CHECKPOINT")


if __name__ == "__main__":
    sys.exit(main())
