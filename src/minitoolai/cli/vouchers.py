"""Commands for the portal's people: vouchers, and who is an admin."""

from __future__ import annotations

import argparse
import sys

from minitoolai.accounts import keys as account_service
from minitoolai.billing.payments import make_voucher
from minitoolai.cli.common import CLOCK, prepare_existing, read, say, write
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.money import format_dollars, parse_dollars
from minitoolai.paths import pepper
from minitoolai.settings import Settings
from minitoolai.storage import payments, users
from minitoolai.storage.database import Connection

MOST = 10_000


def create(settings: Settings, options: argparse.Namespace) -> None:
    """voucher create AMOUNT [--count N] [--days N] [--note TEXT]: the codes alone on standard output."""
    try:
        amount = parse_dollars(options.amount)
    except ValueError as error:
        raise InvalidRequest(str(error), param="amount") from None
    if not 1 <= options.count <= MOST:
        raise InvalidRequest(f"--count is 1 to {MOST}", param="count")
    if options.days is not None and not 1 <= options.days <= 36_500:
        raise InvalidRequest("--days is 1 to 36500", param="days")
    prepare_existing(settings)
    secret = pepper(settings)
    made = [make_voucher(secret, CLOCK, amount, note=options.note, days=options.days) for _ in range(options.count)]

    def change(connection: Connection) -> None:
        for voucher in made:
            payments.insert_voucher(connection, voucher.code_hmac, voucher.row)

    write(settings, change)
    for voucher in made:
        say(voucher.code)
    total = format_dollars(amount * len(made))
    sys.stderr.write(
        f"{len(made)} of ${format_dollars(amount)} each, ${total} in all; the codes are kept nowhere else\n"
    )


def listing(settings: Settings, _: argparse.Namespace) -> None:
    """voucher list: the end of each code, its worth, and what became of it."""
    for voucher in read(settings, payments.list_vouchers):
        state = "open"
        if voucher.redeemed_ms is not None:
            state = f"redeemed by account {voucher.account_id}"
        elif voucher.expires_ms is not None and voucher.expires_ms <= CLOCK.now_ms():
            state = "too old"
        say(f"…-{voucher.hint}  ${format_dollars(voucher.amount)}  {state}  {voucher.note or ''}".rstrip())


def admin(settings: Settings, options: argparse.Namespace) -> None:
    """account admin EMAIL [--off]"""
    prepare_existing(settings)

    def change(connection: Connection) -> None:
        users.set_admin(connection, account_service.require_account(connection, options.email), not options.off)

    write(settings, change)
    say(f"{options.email} is {'no admin any more' if options.off else 'an admin'}")
