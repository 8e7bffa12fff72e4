"""`minitoolai audit` and `minitoolai usage`: check the books, and make usage by day again from the generations."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from minitoolai.billing.audit import shortfall_limit
from minitoolai.billing.audit_archive import verify_closed_day
from minitoolai.billing.audit_days import CHAIN, OUTSIDE, budgets_before, rows_outside
from minitoolai.billing.audit_position import CLOSED_DAY, check_books
from minitoolai.cli.common import CLOCK, Commands, add_command, add_group, opened, read, say, write
from minitoolai.core.clock import MS_PER_DAY, date_of, generation_name
from minitoolai.core.errors import InvalidRequest, SettingsError
from minitoolai.core.money import short_dollars
from minitoolai.settings import Settings
from minitoolai.storage.archive.lock import archive_lock
from minitoolai.storage.archive.rows import archived_until_ms
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.object_store import build_object_store
from minitoolai.storage.tables import audit, usage_days
from minitoolai.storage.tables.audit import ClosedDay, Findings
from minitoolai.storage.tables.late_results import late_results
from minitoolai.storage.tables.ledger import INVARIANTS, SHORTFALL_LIMIT, excess_shortfalls

#: Days of an account that are compared at a time.
REBUILD_DAYS = 30
ALL_NAMES = (*INVARIANTS, CLOSED_DAY, CHAIN, OUTSIDE)


def add_audit(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `audit`."""
    about = "check every invariant of the ledger; exit status 1 and the rows if one is violated"
    parser = add_command(commands, "audit", about, run_audit, "audit --full")
    parser.add_argument(
        "--full", action="store_true", help="read the closed days again too, one at a time, and check their hashes"
    )
    parser.add_argument(
        "--restart", action="store_true", help="with --full: begin at the first day, not where the last run ended"
    )
    parser.add_argument(
        "--reopen",
        metavar="DATE",
        help="accept the rows of this closed day and of all later ones as they are: open these days, to be closed again"
        " by the server",
    )


def add_usage(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `usage rebuild`."""
    group = add_group(commands, "usage", "maintain the table of usage by day", "rebuild")
    about = "compare usage by day with the generations, and make the days that differ again from them"
    add_command(group, "rebuild", about, rebuild_usage, "usage rebuild")


def run_audit(settings: Settings, options: argparse.Namespace) -> int:
    """Print the rows that violate an invariant; return 1 if there are any."""
    if options.reopen is not None:
        return asyncio.run(_without_archiver(settings, partial(_reopen, settings, options.reopen)))
    broken: Findings = {}
    if options.full:
        _audit_closed_days(settings, broken, restart=options.restart)
    broken |= read(settings, partial(check_books, now_ms=CLOCK.now_ms()))
    if options.full:
        broken |= read(settings, rows_outside)
    most, since_ms = shortfall_limit(settings), CLOCK.now_ms() - MS_PER_DAY
    if most is not None and (rows := read(settings, lambda connection: excess_shortfalls(connection, since_ms, most))):
        broken[SHORTFALL_LIMIT] = rows
    for name, rows in broken.items():
        say(f"BROKEN: {name}")
        for row in rows:
            say("  " + "  ".join(str(value) for value in row))
    if not broken:
        last = read(settings, audit.last_closed)
        say(f"{len(ALL_NAMES) if options.full else len(ALL_NAMES) - 2} invariants hold")
        if last is not None:
            say(f"closed until {date_of(last.day)}, hash {last.hash.hex()}")
    late = read(settings, partial(late_results, since_ms=since_ms))
    if late.number:
        say(
            f"note: {late.number} responses of the last day were whole at the engine and are interrupted in the books"
            f" (${short_dollars(late.uncharged)} not charged; the last is {generation_name(late.last_id)})."
            " Leases ended too early: `minitoolai doctor` checks the clocks. Or a process was paused or short of CPU."
        )
    return 1 if broken else 0


# ── closed days ───────────────────────────────────────────────────────────────────────────────────────────────────


def _audit_closed_days(settings: Settings, broken: Findings, *, restart: bool) -> None:
    """Read every closed day again, and remember after each how far this came, for the next run."""
    place = None if restart else read(settings, audit.full_audit_place)
    days = read(settings, audit.closed_days)
    left = [closed for closed in days if place is None or closed.day > place]
    if place is not None:
        say(f"going on after {date_of(place)}; --restart begins at the first day")
    bar = _Progress(len(days), len(days) - len(left))
    objects = build_object_store(settings)
    with opened(settings) as database, asyncio.Runner() as runner:
        for closed in left:
            rows, found = verify_closed_day(database, lambda path: runner.run(objects.get_file(path)), closed)
            for name, those in found.items():
                broken.setdefault(name, []).extend(those)
            bar.step(closed, rows)
            if not broken:
                # After a finding the next run begins here again.
                write(settings, partial(audit.set_full_audit_place, day=closed.day))
    bar.end()
    if not broken:
        write(settings, partial(audit.set_full_audit_place, day=None))


class _Progress:
    """Progress bar on standard error, if that is a terminal."""

    WIDTH = 30

    def __init__(self, days: int, done: int) -> None:
        self._days, self._done, self._rows = days, done, 0
        self._began_s = time.monotonic()

    def step(self, closed: ClosedDay, rows: int) -> None:
        """Show that one more day is done."""
        self._done += 1
        self._rows += rows
        if sys.stderr.isatty():
            full = self.WIDTH * self._done // self._days
            speed = self._rows / max(time.monotonic() - self._began_s, 0.001)
            sys.stderr.write(
                f"\r[{'#' * full}{'.' * (self.WIDTH - full)}] {date_of(closed.day)}  {self._done} of {self._days} days,"
                f" {self._rows:,} generations, {speed:,.0f}/s "
            )
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the line of the bar."""
        if sys.stderr.isatty():
            sys.stderr.write("\n")
        say(f"{self._done} closed days, {self._rows:,} generations read")


async def _without_archiver(settings: Settings, work: Callable[[], int]) -> int:
    """Do this work while no process archives, so that no row leaves the database meanwhile."""
    # Raises SettingsError if there is no database, before the lock creates a file.
    read(settings, archived_until_ms)
    with opened(settings) as database:
        async with archive_lock(database) as is_ours:
            if not is_ours:
                raise SettingsError("another process is archiving this database; try again when it has finished")
            return work()


def _reopen(settings: Settings, text: str) -> int:
    try:
        day = (dt.date.fromisoformat(text) - dt.date(1970, 1, 1)).days
    except ValueError:
        raise InvalidRequest(f"--reopen must be a date such as 2026-11-30, not {text!r}", param="reopen") from None
    days = [closed for closed in read(settings, audit.closed_days) if closed.day >= day]
    if not days:
        raise SettingsError(f"no day since {text} is closed, so nothing is to be opened")
    until_ms = read(settings, archived_until_ms)
    if day * MS_PER_DAY < until_ms:
        raise SettingsError(
            f"archived days stay closed, because their rows are in files; the first that can be opened is"
            f" {date_of(until_ms // MS_PER_DAY)}"
        )
    budgets = read(settings, partial(budgets_before, day=day))
    opened_days = write(settings, partial(audit.reopen, day=day, budgets=budgets))
    say(f"opened {opened_days} days since {text}; the server closes them again within minutes")
    return 0


# ── usage by day ──────────────────────────────────────────────────────────────────────────────────────────────────


def rebuild_usage(settings: Settings, _: argparse.Namespace) -> int:
    """Compare every account's days with its generations, and rebuild those that differ, each in a transaction.

    Archived days are left as they are; `audit --full` compares them with their files.
    """
    return asyncio.run(_without_archiver(settings, partial(_rebuild_usage, settings)))


def _rebuild_usage(settings: Settings) -> int:
    count = 0
    with opened(settings) as database:
        for account in _accounts(database):
            for day in _wrong_days(database, account):
                write(settings, partial(usage_days.rebuild, account_id=account, day=day))
                say(f"rebuilt {date_of(day)} of account {account}")
                count += 1
    say(f"{count} days rebuilt" if count else "usage by day agrees with the generations")
    return 0


def _accounts(database: Database) -> Sequence[int]:
    return [row[0] for row in database.read(audit.balances)]


def _wrong_days(database: Database, account: int) -> list[int]:
    span = database.read(usage_days.first_and_last_day, account)
    if span is None:
        return []
    wrong: list[int] = []
    for first in range(span[0], span[1] + 1, REBUILD_DAYS):
        wrong += database.read(_wrong_days_of, account, first)
    return wrong


def _wrong_days_of(connection: Connection, account: int, first: int) -> list[int]:
    return usage_days.wrong_days(connection, account, first, first + REBUILD_DAYS)
