"""`minitoolai archive`: move old usage to compressed files in the object store, beside a running server or alone."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from minitoolai.cli.common import CLOCK, Commands, add_command, opened, prepare_existing, say
from minitoolai.core.clock import MS_PER_DAY, date_of
from minitoolai.core.errors import InvalidRequest, SettingsError
from minitoolai.paths import database_url
from minitoolai.settings import Settings
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.opening import SQLITE, open_database
from minitoolai.storage.sqlite import exclusive_database, keeps_free_pages, vacuum

EXAMPLES = """examples:
  minitoolai archive --before 2026-06-01 --dry-run   what would be archived, day by day
  minitoolai archive --before 2026-06-01             archive it; stop it at any time and run it again
  minitoolai archive --verify                        compare all archived files with the database
  minitoolai archive --vacuum                        make an old SQLite file smaller; the server must be stopped

Balances, statements and exports stay the same. See docs/howto/archive.md."""
_BAR = 30
_STEPS = {"write": "writing", "delete": "deleting", "verify": "verifying"}


def add_archive(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `archive`."""
    about = "move old days of usage from the database to compressed files in the object store"
    parser = add_command(commands, "archive", about, archive)
    parser.epilog = EXAMPLES
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--before", metavar="DATE", help="archive whole days (UTC) before this date, such as 2026-06-01")
    what.add_argument("--verify", action="store_true", help="check every archived file; exit status 1 if one is wrong")
    what.add_argument("--vacuum", action="store_true", help="rewrite a SQLite file without its free pages")
    parser.add_argument("--dry-run", action="store_true", help="with --before: only say what would be archived")


def archive(settings: Settings, options: argparse.Namespace) -> int:
    """Archive, verify or vacuum; return 1 if a day could not be archived or a file is wrong."""
    if options.dry_run and not options.before:
        raise InvalidRequest("--dry-run goes with --before.", param="--dry-run")
    if options.vacuum:
        return _vacuum(settings)
    before = _parse_date(options.before) if options.before else None
    prepare_existing(settings)
    with _access(settings) as access:
        if before is None:
            return asyncio.run(_verify(settings, access))
        return asyncio.run(_archive(settings, access, before, is_dry=options.dry_run))


def _parse_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"--before {text[:40]!r} is not a date; write it like 2026-06-01.", param="before"
        ) from None


# ── the database ──────────────────────────────────────────────────────────────────────────────────────────────────


class _Access:
    """Read and write in this thread, each write in a transaction of its own."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self.database = database
        self.connection = connection

    async def read(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run `function(connection, *arguments)`."""
        return self.database.read(function, *arguments)

    async def write(self, function: Callable[[Connection], Any]) -> Any:
        """Run `function(connection)` in a transaction."""
        with self.connection.transaction():
            return function(self.connection)


@contextmanager
def _access(settings: Settings) -> Iterator[_Access]:
    """Open the database. On SQLite without a running server, open it as a server does, to checkpoint its WAL."""
    with ExitStack() as stack:
        is_alone = False
        if not settings.database_url:
            try:
                _lock(settings, stack)
                is_alone = True
            except SettingsError:
                # A server is running, and checkpoints.
                is_alone = False
        database = stack.enter_context(closing(open_database(database_url(settings), serving=is_alone)))
        yield _Access(database, stack.enter_context(closing(database.connect())))


def _lock(settings: Settings, stack: ExitStack) -> Path:
    """Keep servers away from a SQLite file. Raise SettingsError if one is running."""
    from minitoolai.http.serving.server import exclusive_data_dir

    path = Path(database_url(settings).removeprefix(SQLITE))
    stack.enter_context(exclusive_data_dir(settings.data_dir))
    stack.enter_context(exclusive_database(path))
    return path


def _vacuum(settings: Settings) -> int:
    if settings.database_url:
        raise SettingsError("--vacuum is for SQLite; PostgreSQL's autovacuum lets new rows use the space of old ones")
    with opened(settings) as database:
        if not Path(database.where).exists():
            raise SettingsError(f"there is no database in {settings.data_dir}; choose another --data-dir")
    with ExitStack() as stack:
        try:
            path = _lock(settings, stack)
        except SettingsError as error:
            raise SettingsError("--vacuum rewrites the whole file; stop minitoolai serve first") from error
        before, after = vacuum(path)
    say(f"{path}: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now; from now on it gives free pages back")
    return 0


# ── archive and verify ────────────────────────────────────────────────────────────────────────────────────────────


async def _archive(settings: Settings, access: _Access, before: date, *, is_dry: bool) -> int:
    from minitoolai.billing.archive.archiver import LEAST_DAYS, Archiver, DayPlan
    from minitoolai.storage.archive.lock import archive_lock
    from minitoolai.storage.object_store import build_object_store

    archiver = Archiver(access, build_object_store(settings), CLOCK, on_progress=show_progress)
    before_ms = int(datetime(before.year, before.month, before.day, tzinfo=UTC).timestamp() * 1000)
    if before_ms > archiver.latest_ms():
        latest = date_of(archiver.latest_ms() // MS_PER_DAY)
        raise InvalidRequest(
            f"--before {before} is too recent: the last {LEAST_DAYS} days stay in the database; the latest date is "
            f"{latest}.",
            param="before",
        )
    stopped: DayPlan | None = None
    if is_dry:
        days = count = 0
        async for plan in archiver.plan(before_ms):
            if plan.why_not is not None:
                stopped = plan
                break
            days, count = days + 1, count + plan.requests
            say(f"{date_of(plan.day)}  {plan.requests:,} generations")
        say(f"{count:,} generations of {days} days would be archived")
    else:
        async with archive_lock(access.database) as is_ours:
            if not is_ours:
                raise SettingsError("another process is archiving this database; try again when it has finished")
            count, stopped = await archiver.archive(before_ms)
        say(f"{count:,} generations were archived")
        if count and access.database.name == "sqlite" and access.database.read(keeps_free_pages):
            say(
                "The file was created by an older version, so it stays as large and its free pages are used for new "
                "rows. To make it smaller, stop the server and run: minitoolai archive --vacuum"
            )
    if stopped is not None:
        say(f"{date_of(stopped.day)} and later days cannot be archived yet: {stopped.why_not}")
    return 0 if stopped is None else 1


async def _verify(settings: Settings, access: _Access) -> int:
    from minitoolai.billing.archive.check import ArchiveCheck
    from minitoolai.storage.object_store import build_object_store

    check = ArchiveCheck(access, build_object_store(settings), show_progress)
    days = await check.run()
    for fault in check.faults:
        say(f"BROKEN: {fault}")
    if not check.faults:
        say(f"{days} archived days are as they were written")
    return 1 if check.faults else 0


def show_progress(progress: Any) -> None:
    """Show a bar on a terminal; elsewhere print a line for each finished step."""
    share = progress.done / max(progress.total, 1)
    text = f"{date_of(progress.day)}  {_STEPS[progress.step]:9} {progress.done:,} of {progress.total:,}"
    if sys.stderr.isatty():
        bar = ("#" * round(share * _BAR)).ljust(_BAR)
        sys.stderr.write(f"\r[{bar}] {text}\x1b[K" + ("\n" if share >= 1 else ""))
        sys.stderr.flush()
    elif share >= 1:
        sys.stderr.write(text + "\n")
