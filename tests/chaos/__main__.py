"""`make chaos`: the proofs of docs/ledger.md at length, on both databases at once, each in a process of its own.

Prints a line for each database and the table of docs/reliability.md; exit status 1 if anything was violated.

    python -m tests.chaos                       everything, at most 25 minutes on two cores
    python -m tests.chaos --short               the same in a few minutes
    python -m tests.chaos --only kills --sqlite one proof on one database
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.chaos import proofs
from tests.chaos.findings import line, table


def main() -> int:
    """Print the lines and the table, and what was violated on standard error."""
    names = sorted({proof.__name__ for known in proofs.DATABASES.values() for proof in known})
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a little of everything")
    parser.add_argument("--only", action="append", default=[], choices=names, help="this proof; may be repeated")
    parser.add_argument("--kills", type=int, help=f"how often the server is killed on each ({proofs.LONG.kills})")
    parser.add_argument("--seed", type=int, default=1, help="draws the same moments and requests again (1)")
    where = parser.add_mutually_exclusive_group()
    for database in proofs.DATABASES:
        where.add_argument(f"--{database}", dest="database", action="store_const", const=database)
    options = parser.parse_args()
    size = dataclasses.replace(proofs.SHORT if options.short else proofs.LONG, seed=options.seed)
    if options.kills is not None:
        size = dataclasses.replace(size, kills=options.kills)
    databases = [options.database] if options.database else list(proofs.DATABASES)
    with ProcessPoolExecutor(len(databases), mp_context=get_context("spawn")) as pool:
        work = [pool.submit(proofs.prove, database, options.only, size) for database in databases]
        findings = [one for done in work for one in done.result()]
    for database in databases:
        print(line(database, findings))
    print(f"\n{table(findings)}")
    for one in findings:
        for violation in one.violations:
            print(f"{one.database}: {one.proof}: {violation}", file=sys.stderr)
    return 1 if any(one.violations for one in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
