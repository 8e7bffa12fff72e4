"""What each command does: open the database, call a service, print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from minitoolai.accounts import keys as account_service
from minitoolai.accounts.users import hash_password
from minitoolai.billing import payments
from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import InvalidRequest, SettingsError
from minitoolai.core.money import format_dollars, parse_dollars
from minitoolai.paths import database_url
from minitoolai.settings import Settings
from minitoolai.storage import accounts, ledger, users
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.opening import has_tables, open_database
from minitoolai.storage.opening import migrate as migrate_database

T = TypeVar("T")
CLOCK = SystemClock()


def say(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def prepare(settings: Settings) -> str:
    """Where the database is, now at the newest schema and with its system accounts."""
    migrate_database(database_url(settings))
    write(settings, lambda connection: accounts.ensure_system_accounts(connection, CLOCK.now_ms()))
    with _opened(settings) as database:
        return database.where


def prepare_existing(settings: Settings) -> None:
    """The same where there are books already; SettingsError rather than new ones in a folder that was mistyped."""
    with _opened(settings) as database:
        _check_tables(settings, database)
    prepare(settings)


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    database = open_database(database_url(settings), serving=False)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _connected(settings: Settings) -> Iterator[Connection]:
    with _opened(settings) as database, closing(database.connect()) as connection:
        yield connection


def write(settings: Settings, change: Callable[[Connection], T]) -> T:
    """Run a change in a transaction of its own; a server beside us goes on."""
    with _connected(settings) as connection, connection.transaction():
        return change(connection)


def read(settings: Settings, question: Callable[[Connection], T]) -> T:
    """Ask the database, which must exist."""
    with _opened(settings) as database:
        _check_tables(settings, database)
        return database.read(question)


def _check_tables(settings: Settings, database: Database) -> None:
    if has_tables(database):
        return
    lack, other = (
        (f"no table in {database.where}", "another MINITOOLAI_DATABASE_URL")
        if database.is_shared
        else (f"no database in {settings.data_dir}", "--data-dir")
    )
    raise SettingsError(f"there is {lack}; run minitoolai migrate, or choose {other}")


# ── accounts ──────────────────────────────────────────────────────────────────────────────────────────────


def account_create(settings: Settings, options: argparse.Namespace) -> None:
    """account create EMAIL [--password-stdin] [--credit DOLLARS] [--admin]"""
    email = account_service.check_email(options.email)
    credit = dollars(options.credit) if options.credit else None
    password = sys.stdin.readline().rstrip("\n") if options.password_stdin else None
    password_hash = hash_password(password) if password is not None else None
    prepare(settings)

    def change(connection: Connection) -> int:
        account_id = accounts.create_account(connection, email, password_hash, CLOCK.now_ms())
        if credit:
            payments.grant(connection, CLOCK, account_id, credit, reason="credit at creation")
        if options.admin:
            users.set_admin(connection, account_id, True)
        return account_id

    account_id = write(settings, change)
    say(f"account {account_id} {email} ${format_dollars(credit or 0)}")


def credit_grant(settings: Settings, options: argparse.Namespace) -> None:
    """credit grant EMAIL DOLLARS [--reason R] [--reference R]"""
    amount = dollars(options.amount)

    def change(connection: Connection) -> str:
        account_id = account_service.require_account(connection, options.email)
        done = payments.grant(connection, CLOCK, account_id, amount, reason=options.reason, reference=options.reference)
        note = " (this reference was credited before; nothing changed)" if done.repeated else ""
        return f"balance ${format_dollars(done.posted)}{note}"

    prepare_existing(settings)
    say(write(settings, change))


def balance(settings: Settings, options: argparse.Namespace) -> None:
    """balance EMAIL"""
    money = read(settings, lambda c: accounts.balance_of(c, account_service.require_account(c, options.email)))
    parts = {"balance": money.posted, "held": money.held, "available": money.available}
    say("  ".join(f"{name} ${format_dollars(nano)}" for name, nano in parts.items()))


def dollars(text: str) -> int:
    """An option's dollars as nano-dollars; InvalidRequest in words."""
    try:
        return parse_dollars(text)
    except ValueError as error:
        raise InvalidRequest(str(error), param="amount") from None


# ── operations ────────────────────────────────────────────────────────────────────────────────────────────


def audit(settings: Settings, _: argparse.Namespace) -> int:
    """audit: exit 1 and rows if any invariant breaks."""
    broken = read(settings, ledger.broken_invariants)
    for name, rows in broken.items():
        say(f"BROKEN: {name}")
        for row in rows:
            say("  " + "  ".join(str(value) for value in row))
    if not broken:
        say(f"{len(ledger.INVARIANTS)} invariants hold")
    return 1 if broken else 0


def migrate(settings: Settings, _: argparse.Namespace) -> None:
    """migrate"""
    before, after = migrate_database(database_url(settings))
    prepare(settings)
    say(f"already at {after}" if before == after else f"migrated from {before or 'nothing'} to {after}")
