"""`make chaos`: the proofs of docs/ledger.md at length, on both databases at once, each in a process of its own.

Prints a line for each database and the table of docs/reliability.md; exit status 1 if anything was violated.

    python -m tests.chaos                       everything, at most 25 minutes on two cores
    python -m tests.chaos --short               the same in a few minutes
    python -m tests.chaos --only kills --sqlite one proof on one database
    python -m tests.chaos --write docs/reliability.md
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.chaos import proofs
from tests.chaos.findings import Finding, line, table, written


def main() -> int:
    """Print the lines and the table, and what was violated on standard error."""
    options = _options()
    size = dataclasses.replace(proofs.SHORT if options.short else proofs.LONG, seed=options.seed)
    if options.kills is not None:
        size = dataclasses.replace(size, kills=options.kills)
    databases = [options.database] if options.database else list(proofs.DATABASES)
    began_s = time.time()
    until_s = began_s + 60 * options.minutes
    with ProcessPoolExecutor(len(databases), mp_context=get_context("spawn")) as pool:
        work = [pool.submit(proofs.prove, database, options.only, size, until_s) for database in databases]
        findings = [one for done in work for one in done.result()]
    report = _report(databases, findings, time.time() - began_s)
    print(report)
    if options.write is not None:
        options.write.write_text(written(options.write.read_text("utf-8"), report), "utf-8")
    for one in findings:
        for violation in one.violations:
            print(f"{one.database}: {one.proof}: {violation}", file=sys.stderr)
    return 1 if any(one.violations for one in findings) else 0


def _options() -> argparse.Namespace:
    names = sorted({proof.__name__ for known in proofs.DATABASES.values() for proof in known})
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a little of everything")
    parser.add_argument("--only", action="append", default=[], choices=names, help="this proof; may be repeated")
    parser.add_argument("--kills", type=int, help=f"how often the server is killed on each ({proofs.LONG.kills})")
    parser.add_argument("--seed", type=int, default=1, help="draws the same moments and requests again (1)")
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="no proof begins after so many; one not begun is a violation (25)"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this document, too")
    where = parser.add_mutually_exclusive_group()
    for database in proofs.DATABASES:
        where.add_argument(f"--{database}", dest="database", action="store_const", const=database)
    return parser.parse_args()


def _report(databases: list[str], findings: list[Finding], took_s: float) -> str:
    """Markdown: a line for each database, what it took, and the table."""
    lines = "\n".join(line(database, findings) for database in databases)
    return f"```\n{lines}\n```\n\n{took_s / 60:.1f} minutes on {os.cpu_count()} processors.\n\n{table(findings)}"


if __name__ == "__main__":
    sys.exit(main())
