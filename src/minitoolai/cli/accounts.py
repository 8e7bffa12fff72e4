"""`minitoolai account`, `credit`, `balance` and `voucher`."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from minitoolai.accounts.addresses import check_email, email_forms
from minitoolai.accounts.email_changes import move_user
from minitoolai.accounts.keys import require_account
from minitoolai.accounts.mail import Mailer, build_mailer
from minitoolai.accounts.passwords import hash_password
from minitoolai.accounts.request_bodies import BodyVault
from minitoolai.accounts.users import Purpose, erase_personal_data
from minitoolai.billing.corrections import log_action
from minitoolai.billing.payments import grant, make_voucher
from minitoolai.cli import corrections, plans
from minitoolai.cli.common import (
    CLOCK,
    Commands,
    Run,
    add_command,
    add_group,
    dollars,
    machine_user,
    opened,
    prepare,
    prepare_existing,
    read,
    say,
    write,
)
from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.catalog.shop import Shop
from minitoolai.core.clock import random_text
from minitoolai.core.errors import InvalidRequest, NotFound
from minitoolai.core.models import User, Voucher
from minitoolai.core.money import short_dollars
from minitoolai.paths import catalog_path, load_secret_keys
from minitoolai.settings import Settings
from minitoolai.storage.database import Connection
from minitoolai.storage.object_store import build_object_store
from minitoolai.storage.tables import accounts, factor_resets, payments, request_bodies, users
from minitoolai.storage.tables.personal_data import Record, read_personal_data

MAX_VOUCHERS = 10_000
MAX_DAYS = 36_500
BATCH = re.compile(r"[0-9A-Za-z._-]{1,40}")

# ── parsers ───────────────────────────────────────────────────────────────────────────────────────────────


def add_account(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `account create`, `export`, `delete`, `admin`, `email`, `reset-second-factor`, and those that stop one."""
    group = add_group(commands, "account", "create, list, suspend and delete accounts", "create ann@example.com")
    example = "account create ann@example.com --credit 5.00"
    parser = _add_for_email(group, "create", "create an account", create_account, example)
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("--credit", metavar="DOLLARS", help="initial credit, such as 5.00")
    parser.add_argument("--admin", action="store_true", help="give it access to the portal's admin pages")
    about = "print everything stored about a customer, as JSON"
    _add_for_email(group, "export", about, export_account, "account export ann@example.com")
    about = "erase the personal data of an account; its ledger entries stay"
    parser = _add_for_email(group, "delete", about, delete_account, "account delete ann@example.com --yes")
    parser.add_argument("--yes", action="store_true", help="confirm; this cannot be undone")
    about = "give an account access to the portal's admin pages, or remove it"
    parser = _add_for_email(group, "admin", about, set_admin, "account admin ann@example.com")
    parser.add_argument("--off", action="store_true", help="remove the access")
    about = "change the e-mail address of an account, for a user who has lost the old mailbox"
    parser = _add_for_email(group, "email", about, change_email, "account email ann@example.com ann@example.org")
    parser.add_argument("new_email", metavar="NEW", help="the new address")
    about = "remove the authenticator app and all passkeys of a user who has lost them; all sessions end"
    _add_for_email(
        group, "reset-second-factor", about, reset_second_factor, "account reset-second-factor ann@example.com"
    )
    plans.add_group_command(group)
    corrections.add_account_commands(group)


def add_credit(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `credit grant`, `reverse` and `refund`."""
    group = add_group(commands, "credit", "credit accounts, and correct it", "grant ann@example.com 20.00")
    example = "credit grant ann@example.com 20.00"
    parser = _add_for_email(group, "grant", "credit an account", grant_credit, example)
    parser.add_argument("amount", metavar="DOLLARS", help="amount, such as 20.00")
    parser.add_argument("--reason", default="granted on the command line", help="stored with the transfer")
    parser.add_argument("--reference", help="credit only once per reference, such as an invoice number")
    corrections.add_credit_commands(group)


def add_voucher(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `voucher create`, `list` and `cancel`."""
    group = add_group(commands, "voucher", "create, list and cancel voucher codes", "create 10.00 --count 20")
    about = "create vouchers; the codes are printed once, by themselves, on standard output"
    parser = add_command(group, "create", about, create_vouchers, "voucher create 10.00 --count 20 --note fair")
    parser.add_argument("amount", metavar="DOLLARS", help="value of each voucher, such as 10.00")
    parser.add_argument("--count", type=int, default=1, help="number of vouchers (1)")
    parser.add_argument("--days", type=int, help="days until they expire (never)")
    parser.add_argument("--note", help="purpose; shown in the list only")
    parser.add_argument("--batch", help="name under which all of them can be cancelled (a new random one)")
    about = "list the vouchers, newest first: the end of each code, its value, batch, dates and state"
    parser = add_command(group, "list", about, list_vouchers, "voucher list --batch fair-2026")
    parser.add_argument("--batch", help="only the vouchers of this batch")
    corrections.add_voucher_commands(group)


def add_balance(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `balance`."""
    _add_for_email(commands, "balance", "show an account's balance", print_balance, "balance ann@example.com")


def _add_for_email(
    commands: Commands[argparse.ArgumentParser], name: str, about: str, run: Run, example: str
) -> argparse.ArgumentParser:
    parser = add_command(commands, name, about, run, example)
    parser.add_argument("email", help="e-mail address of the account")
    return parser


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────


def create_account(settings: Settings, options: argparse.Namespace) -> None:
    """Create an account, with a password, credit and admin access if asked for."""
    email = check_email(options.email)
    credit = dollars(options.credit) if options.credit else None
    password = sys.stdin.readline().rstrip("\n") if options.password_stdin else None
    password_hash = hash_password(password) if password is not None else None
    prepare(settings)

    def change(connection: Connection) -> int:
        account_id = accounts.create_account(
            connection, email, password_hash, CLOCK.now_ms(), other_forms=email_forms(options.email)
        )
        if credit:
            grant(connection, CLOCK, account_id, credit, reason="credit at creation")
        if options.admin:
            users.set_admin(connection, account_id, True)
        return account_id

    account_id = write(settings, change)
    say(f"account {account_id} {email} ${short_dollars(credit or 0)}")


def export_account(settings: Settings, options: argparse.Namespace) -> None:
    """Print everything stored about a customer as one JSON object."""
    from minitoolai.chat.stored.vault import ResponseVault  # the body parser, which no other command here needs

    account_id = read(settings, lambda c: require_account(c, options.email))
    objects = build_object_store(settings)
    with opened(settings) as database, asyncio.Runner() as runner:

        def read_file(path: str) -> bytes:
            return runner.run(objects.get_file(path))

        secrets = load_secret_keys(settings)
        vault, bodies = ResponseVault(secrets), BodyVault(secrets)
        wrapped = database.read(lambda c: request_bodies.wrapped_keys(c, [account_id])).get(account_id)
        key = None if wrapped is None else bodies.unwrap(account_id, wrapped)

        def decrypt(table: str, owner: int, number: int, part: str, sealed: bytes) -> Any:
            if table == "request_bodies":
                return None if key is None else bodies.open(key, number, part, bytes(sealed))
            plain = vault.open(owner, number, part, sealed)
            return None if plain is None else msgspec.json.decode(plain)

        separator = "{\n"
        for table, rows in read_personal_data(database.read, read_file, account_id, decrypt):
            sys.stdout.write(f'{separator} "{table}": ')
            _write_list(rows)
            separator = ",\n"
    say("\n}")


def _write_list(rows: Iterator[Record]) -> None:
    """Write rows as JSON while they are read, indented as `msgspec.json.format` would in the whole object."""
    separator = "[\n"
    for row in rows:
        text = msgspec.json.format(msgspec.json.encode(row), indent=1).decode()
        # A line feed in a value is escaped, so each line of the text is one of the layout.
        sys.stdout.write(separator + "  " + text.replace("\n", "\n  "))
        separator = ",\n"
    sys.stdout.write("[]" if separator == "[\n" else "\n ]")


def delete_account(settings: Settings, options: argparse.Namespace) -> None:
    """Erase a person. Raises InvalidRequest if it is not confirmed or requests are in flight."""
    account_id = read(settings, lambda c: require_account(c, options.email))
    if not options.yes:
        raise InvalidRequest("This cannot be undone. Export the account first, then add --yes.", param="--yes")
    if not write(settings, lambda c: erase_personal_data(c, account_id, CLOCK.now_ms())):
        raise InvalidRequest("Requests of this account are in flight; try again in a minute.", param="email")
    say(f"account {account_id}: personal data erased, ledger entries kept")


def set_admin(settings: Settings, options: argparse.Namespace) -> None:
    """Give or remove admin access."""
    prepare_existing(settings)

    def change(connection: Connection) -> None:
        users.set_admin(connection, require_account(connection, options.email), not options.off)

    write(settings, change)
    say(f"{options.email} is {'no longer an admin' if options.off else 'an admin'}")


def change_email(settings: Settings, options: argparse.Namespace) -> None:
    """Change the address of an account without confirmation, and notify both mailboxes."""
    email, shop = check_email(options.new_email), read_catalog(catalog_path(settings)).shop
    mailer = build_mailer(settings, shop)
    prepare_existing(settings)

    def change(connection: Connection) -> tuple[User, bool]:
        user = _require_user(connection, options.email)
        return user, move_user(connection, user, email)

    user, is_moved = write(settings, change)
    if not is_moved:
        raise InvalidRequest(f"{email} already has an account", param="NEW", code="email_taken")
    for to in (user.email, email):
        _notify(settings, shop, mailer, user, to, "email_changed", about=email)
    say(f"account {user.account_id} has the address {email}")


def reset_second_factor(settings: Settings, options: argparse.Namespace) -> None:
    """Remove all second factors, end all sessions and notify by e-mail. Raises NotFound if there are none."""
    shop = read_catalog(catalog_path(settings)).shop
    mailer = build_mailer(settings, shop)
    prepare_existing(settings)

    def change(connection: Connection) -> tuple[User, bool]:
        user = _require_user(connection, options.email)
        users.end_sessions(connection, user.account_id)
        factor_resets.delete(connection, user.account_id)
        is_removed = users.delete_factors(connection, user.account_id)
        if is_removed:
            log_action(connection, CLOCK, None, user.account_id, "reset_second_factor", source=machine_user())
        return user, is_removed

    user, is_removed = write(settings, change)
    if not is_removed:
        raise NotFound(f"{user.email} has no second factor", param="email")
    _notify(settings, shop, mailer, user, user.email, "factors_reset")
    say(f"{user.email} signs in with the password only, until a new second factor is set up")


def _require_user(connection: Connection, email: str) -> User:
    found = users.find_user_of(connection, require_account(connection, email))
    assert found is not None, "an account with an address has a user"
    return found[0]


def _notify(
    settings: Settings, shop: Shop, mailer: Mailer, user: User, to: str, purpose: Purpose, about: str = ""
) -> None:
    """Send an e-mail in the user's language, and wait for it."""
    # Babel, which reads the translations, takes a while to import, and few commands write e-mails.
    from minitoolai.portal.i18n import DEFAULT
    from minitoolai.portal.mail.letters import letter_composer

    site = settings.public_url.rstrip("/") or shop.public_url or f"http://{settings.host}:{settings.port}"
    lang, is_open = user.language or DEFAULT, settings.password_signin
    letter = letter_composer(shop, site, lang, to, about, is_password_open=is_open)(purpose, "")
    asyncio.run(mailer.send(letter))


def grant_credit(settings: Settings, options: argparse.Namespace) -> None:
    """Credit an account, once per reference."""
    amount = dollars(options.amount)

    def change(connection: Connection) -> str:
        account_id = require_account(connection, options.email)
        done = grant(connection, CLOCK, account_id, amount, reason=options.reason, reference=options.reference)
        if not done.repeated:
            log_action(
                connection, CLOCK, None, account_id, "grant", amount=amount, note=options.reason, source=machine_user()
            )
        note = " (this reference was credited before; nothing changed)" if done.repeated else ""
        return f"balance ${short_dollars(done.posted)}{note}"

    prepare_existing(settings)
    say(write(settings, change))


def print_balance(settings: Settings, options: argparse.Namespace) -> None:
    """Print balance, held and available amounts."""
    money = read(settings, lambda c: accounts.balance_of(c, require_account(c, options.email)))
    parts = {"balance": money.posted, "held": money.held, "available": money.available}
    say("  ".join(f"{name} ${short_dollars(nano)}" for name, nano in parts.items()))


def create_vouchers(settings: Settings, options: argparse.Namespace) -> None:
    """Create vouchers in one transaction, then print their codes."""
    amount = dollars(options.amount)
    if not 1 <= options.count <= MAX_VOUCHERS:
        raise InvalidRequest(f"--count must be from 1 to {MAX_VOUCHERS}", param="count")
    if options.days is not None and not 1 <= options.days <= MAX_DAYS:
        raise InvalidRequest(f"--days must be from 1 to {MAX_DAYS}", param="days")
    batch = options.batch if options.batch is not None else random_text(8).lower()
    if not BATCH.fullmatch(batch):
        raise InvalidRequest("--batch must be 1 to 40 letters, digits, dots, hyphens and underscores", param="batch")
    prepare_existing(settings)
    secret = load_secret_keys(settings)
    made = [
        make_voucher(secret, CLOCK, amount, note=options.note, days=options.days, batch=batch)
        for _ in range(options.count)
    ]

    def change(connection: Connection) -> None:
        for voucher in made:
            payments.insert_voucher(connection, voucher.code_hmac, voucher.row)

    write(settings, change)
    for voucher in made:
        say(voucher.code)
    total = short_dollars(amount * len(made))
    sys.stderr.write(
        f"{len(made)} voucher{'s' * (len(made) != 1)} of ${short_dollars(amount)}, ${total} in total, batch {batch}; "
        "the codes are stored nowhere else\n"
    )


def list_vouchers(settings: Settings, options: argparse.Namespace) -> None:
    """Print the end of each code, its value, batch, dates and state."""
    place: payments.VoucherPlace | None = None
    while True:
        page = partial(payments.list_vouchers, limit=MAX_VOUCHERS, before=place, batch=options.batch)
        vouchers, place = read(settings, page)
        for voucher in vouchers:
            say(_voucher_line(voucher))
        if place is None:
            return


def _voucher_line(voucher: Voucher) -> str:
    state = "open" if voucher.expires_ms is None else f"open until {_date(voucher.expires_ms)}"
    if voucher.redeemed_ms is not None:
        state = f"redeemed {_date(voucher.redeemed_ms)} by account {voucher.account_id}"
    elif voucher.cancelled_ms is not None:
        state = f"cancelled {_date(voucher.cancelled_ms)}"
    elif voucher.expires_ms is not None and voucher.expires_ms <= CLOCK.now_ms():
        state = f"expired {_date(voucher.expires_ms)}"
    head = f"…-{voucher.hint}  ${short_dollars(voucher.amount)}  {voucher.batch or '-'}"
    return f"{head}  created {_date(voucher.created_ms)}  {state}  {voucher.note or ''}".rstrip()


def _date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
