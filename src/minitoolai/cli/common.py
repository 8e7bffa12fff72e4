"""What the commands share: adding a parser, opening the database, printing."""

from __future__ import annotations

import argparse
import getpass
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import InvalidRequest, SettingsError
from minitoolai.core.money import parse_dollars
from minitoolai.paths import database_url
from minitoolai.settings import Settings, load_settings
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.opening import has_tables, migrate, open_database
from minitoolai.storage.tables import accounts

T = TypeVar("T")
CLOCK = SystemClock()
#: The standard library has no public name for it.
Commands = argparse._SubParsersAction
#: A command: settings and options to an exit status; None is 0.
Run = Callable[[Settings, argparse.Namespace], int | None]
#: Options that override the setting of the same name.
OVERRIDES = ("data_dir", "host", "port", "workers", "device")


def machine_user() -> str:
    """Return `user@machine` of the process, for the audit log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a user without a name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


# ── parsers ───────────────────────────────────────────────────────────────────────────────────────────────


def add_command(
    commands: Commands[argparse.ArgumentParser], name: str, about: str, run: Run, example: str = ""
) -> argparse.ArgumentParser:
    """Add a command. Its function gets the settings, read from the environment and the options."""
    parser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  minitoolai {example}" if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data-dir", type=Path, help="folder of database, images and models (MINITOOLAI_DATA_DIR; data)"
    )
    parser.set_defaults(run=lambda options: _run_with_settings(run, options))
    return parser


def add_group(
    commands: Commands[argparse.ArgumentParser], name: str, about: str, example: str
) -> Commands[argparse.ArgumentParser]:
    """Add a command that has commands of its own."""
    parser = commands.add_parser(
        name,
        help=about,
        epilog=f"example:\n  minitoolai {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.add_subparsers(required=True, metavar="COMMAND")


def _run_with_settings(run: Run, options: argparse.Namespace) -> int | None:
    from minitoolai.observability import logging

    settings = load_settings(**{name: getattr(options, name, None) for name in OVERRIDES})
    logging.set_up(settings)
    return run(settings, options)


# ── printing and parsing ──────────────────────────────────────────────────────────────────────────────────


def say(text: str) -> None:
    """Print a line on standard output, flushed."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def dollars(text: str) -> int:
    """Return an option's dollars as nano-dollars. Raises InvalidRequest."""
    try:
        return parse_dollars(text)
    except ValueError as error:
        raise InvalidRequest(str(error), param="amount") from None


# ── the database ──────────────────────────────────────────────────────────────────────────────────────────


def prepare(settings: Settings, migrate: Callable[[str], object] = migrate) -> str:
    """Create the database or bring it to the newest schema, with its system accounts; return where it is.

    `migrate`: brings the database at an address to the newest schema.
    """
    migrate(database_url(settings))
    write(settings, lambda connection: accounts.ensure_system_accounts(connection, CLOCK.now_ms()))
    with opened(settings) as database:
        return database.where


def prepare_existing(settings: Settings) -> None:
    """Bring an existing database to the newest schema.

    Raises SettingsError if there is none, because a mistyped folder should not get a new one.
    """
    with opened(settings) as database:
        _check_tables(settings, database)
    prepare(settings)


def write(settings: Settings, change: Callable[[Connection], T]) -> T:
    """Run a change in a transaction of its own. A running server is not disturbed."""
    with _connected(settings) as connection, connection.transaction():
        return change(connection)


def read(settings: Settings, query: Callable[[Connection], T]) -> T:
    """Run a query on the database. Raises SettingsError if there is none."""
    with opened(settings) as database:
        _check_tables(settings, database)
        return database.read(query)


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """Open the database beside a running server, for a command that reads it more than once."""
    database = open_database(database_url(settings), serving=False)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _connected(settings: Settings) -> Iterator[Connection]:
    with opened(settings) as database, closing(database.connect()) as connection:
        yield connection


def _check_tables(settings: Settings, database: Database) -> None:
    if has_tables(database):
        return
    missing, other = (
        (f"no table in {database.where}", "another MINITOOLAI_DATABASE_URL")
        if database.is_shared
        else (f"no database in {settings.data_dir}", "--data-dir")
    )
    raise SettingsError(f"there is {missing}; run minitoolai migrate, or choose {other}")
