"""`minitoolai audit` and `minitoolai migrate`."""

from __future__ import annotations

import argparse

from minitoolai.billing.audit import shortfall_limit
from minitoolai.cli.common import Commands, add_command, prepare, read, say
from minitoolai.core.clock import MS_PER_DAY, SystemClock
from minitoolai.paths import database_url
from minitoolai.settings import Settings
from minitoolai.storage.ledger import INVARIANTS, SHORTFALL_LIMIT, broken_invariants, excess_shortfalls
from minitoolai.storage.opening import migrate


def add_audit(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `audit`."""
    about = "check every invariant of the ledger; exit status 1 and the rows if one is violated"
    add_command(commands, "audit", about, audit, "audit")


def add_migrate(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `migrate`."""
    add_command(commands, "migrate", "bring the database to the newest schema", migrate_database, "migrate")


def audit(settings: Settings, _: argparse.Namespace) -> int:
    """Print the rows that violate an invariant; return 1 if there are any."""
    broken = read(settings, broken_invariants)
    most, since_ms = shortfall_limit(settings), SystemClock().now_ms() - MS_PER_DAY
    if most is not None and (rows := read(settings, lambda connection: excess_shortfalls(connection, since_ms, most))):
        broken[SHORTFALL_LIMIT] = rows
    for name, rows in broken.items():
        say(f"BROKEN: {name}")
        for row in rows:
            say("  " + "  ".join(str(value) for value in row))
    if not broken:
        say(f"{len(INVARIANTS)} invariants hold")
    return 1 if broken else 0


def migrate_database(settings: Settings, _: argparse.Namespace) -> None:
    """Run the migrations that have not run, and print both revisions."""
    before, after = migrate(database_url(settings))
    prepare(settings)
    say(f"already at {after}" if before == after else f"migrated from {before or 'nothing'} to {after}")
