"""Measure how long each portal page takes for an account with 100,000 generations: the table of docs/portal.md.

    python -m bench.pages

The server is real; the time is wall-clock time from request to last byte over loopback, the median of 31 views after
a first one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.support.all_kinds import CATALOG
from tests.support.browse import Visitor
from tests.support.crowd import CLOSED, OPEN, address, crowd, median_ms
from tests.support.server import ServerProcess


def main() -> int:
    """Measure and print the table."""
    env = {"MINITOOLAI_TRIES_FACTOR": "1000"}
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder), catalog=CATALOG, env=env) as server:
        member, stranger = crowd(server), Visitor(server)
        sys.stdout.write("| page | ms | kB |\n|---|--:|--:|\n")
        for who, visitor, paths in (("visitor", stranger, OPEN), ("member", member, CLOSED)):
            for path in paths:
                took = median_ms(visitor, address(member, path))
                name = f"`{path}`" + (" (signed in)" if who == "member" and path in OPEN else "")
                sys.stdout.write(f"| {name} | {took:.1f} | {len(visitor.page.content) / 1000:.1f} |\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
