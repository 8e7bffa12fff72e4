"""Commands that stop and undo: `account suspend` and `list`, `credit reverse` and `refund`, `voucher cancel`.

Each writes its entry of the audit log in the same transaction.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from minitoolai.accounts.keys import require_account
from minitoolai.billing.corrections import (
    Cancelled,
    Suspension,
    cancel_batch,
    cancel_code,
    check_reason,
    refund_charge,
    reverse_credit,
    suspend,
    unsuspend,
)
from minitoolai.cli.common import (
    CLOCK,
    Commands,
    add_command,
    dollars,
    machine_user,
    prepare_existing,
    read,
    say,
    write,
)
from minitoolai.core.clock import parse_generation_name
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import User
from minitoolai.core.money import short_dollars
from minitoolai.ledger.types import Refunded, Reversed
from minitoolai.paths import load_secret_keys
from minitoolai.settings import Settings
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import reports

#: Accounts that one read lists.
PAGE = 500

# ── parsers ───────────────────────────────────────────────────────────────────────────────────────────────


def add_account_commands(group: Commands[argparse.ArgumentParser]) -> None:
    """Add `account list`, `suspend` and `unsuspend`."""
    about = "list the accounts with balance, state and date of creation, oldest first"
    parser = add_command(group, "list", about, list_accounts, "account list example.com --state suspended")
    parser.add_argument("text", nargs="?", default="", help="a part of the e-mail address, or the account number")
    parser.add_argument("--state", choices=("active", "suspended", "admin"), help="only accounts in this state")
    parser.add_argument("--limit", type=int, help="the most accounts to list (all)")
    parser.add_argument("--after", type=int, default=0, metavar="NUMBER", help="begin after this account number")
    about = (
        "suspend an account: its keys are refused, its responses end within a second, its queued jobs fail unpaid, and"
        " the portal only lets the customer read"
    )
    parser = add_command(
        group, "suspend", about, suspend_account, 'account suspend ann@example.com --reason "unpaid invoice 17"'
    )
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("--reason", default="", help="shown to the customer, and kept in the audit log")
    about = "end the suspension of an account: its keys work again"
    parser = add_command(group, "unsuspend", about, unsuspend_account, "account unsuspend ann@example.com")
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("--reason", default="", help="kept in the audit log")


def add_credit_commands(group: Commands[argparse.ArgumentParser]) -> None:
    """Add `credit reverse` and `credit refund`."""
    about = "take credit back, at most what is available"
    parser = add_command(
        group, "reverse", about, reverse, 'credit reverse ann@example.com 20.00 --reason "granted twice"'
    )
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("amount", metavar="DOLLARS", help="amount, such as 20.00")
    parser.add_argument("--reason", required=True, help="shown on the statement, and kept in the audit log")
    parser.add_argument("--reference", default="", help="take it back only once per reference")
    about = "give the charge of a generation back, or a part of it"
    parser = add_command(group, "refund", about, refund, 'credit refund gen-0Bf3cQ8d1aX 0.05 --reason "wrong answer"')
    parser.add_argument("generation", help="ID of the generation, as in the header x-generation-id")
    parser.add_argument(
        "amount", nargs="?", metavar="DOLLARS", help="amount, such as 0.05 (what is left of the charge)"
    )
    parser.add_argument("--reason", default="", help="shown on the statement, and kept in the audit log")
    parser.add_argument("--reference", default="", help="refund only once per reference")


def add_voucher_commands(group: Commands[argparse.ArgumentParser]) -> None:
    """Add `voucher cancel`."""
    about = "cancel a voucher, or all vouchers of a batch; those that were redeemed stay as they are"
    parser = add_command(group, "cancel", about, cancel_vouchers, "voucher cancel --batch fair-2026")
    parser.add_argument("code", nargs="?", help="the code of one voucher")
    parser.add_argument("--batch", help="the batch, as voucher list shows it")
    parser.add_argument("--reason", default="", help="kept in the audit log")


# ── accounts ──────────────────────────────────────────────────────────────────────────────────────────────


def list_accounts(settings: Settings, options: argparse.Namespace) -> None:
    """Print one line per account, a page at a time."""
    if options.limit is not None and options.limit < 1:
        raise InvalidRequest("--limit must be at least 1", param="limit")
    after, left = options.after, options.limit

    def page(connection: Connection) -> list[User]:
        size = PAGE if left is None else min(PAGE, left)
        return reports.list_accounts(connection, options.text.strip(), options.state, size, after)

    while (left is None or left > 0) and (users := read(settings, page)):
        for user in users:
            say(_account_line(user))
        after = users[-1].account_id
        left = None if left is None else left - len(users)


def _account_line(user: User) -> str:
    state = "active" if user.suspended_ms is None else f"suspended {_date(user.suspended_ms)}"
    if user.is_admin:
        state += ", admin"
    why = f"  ({user.suspended_reason})" if user.suspended_reason else ""
    money = f"balance ${short_dollars(user.posted)}  available ${short_dollars(user.available)}"
    return f"{user.account_id}  {user.email}  {money}  since {_date(user.created_ms)}  {state}{why}"


def _date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def suspend_account(settings: Settings, options: argparse.Namespace) -> None:
    """Suspend an account and say what ended. Repeating it changes nothing."""
    reason = check_reason(options.reason)
    prepare_existing(settings)

    def change(connection: Connection) -> Suspension:
        account_id = require_account(connection, options.email)
        return suspend(connection, CLOCK, None, account_id, reason, source=machine_user())

    done = write(settings, change)
    if not done.is_new:
        say(f"{options.email} is already suspended; nothing changed")
        return
    jobs = f"; {done.jobs} jobs ended, ${short_dollars(done.released)} released" if done.jobs else ""
    say(f"{options.email} is suspended; running responses end within a second{jobs}")


def unsuspend_account(settings: Settings, options: argparse.Namespace) -> None:
    """End a suspension. Raises InvalidRequest if the account is not suspended."""
    note = check_reason(options.reason)
    prepare_existing(settings)

    def change(connection: Connection) -> bool:
        account_id = require_account(connection, options.email)
        return unsuspend(connection, CLOCK, None, account_id, note, source=machine_user())

    if not write(settings, change):
        raise InvalidRequest(f"{options.email} is not suspended", param="email")
    say(f"{options.email} is active again")


# ── credit ────────────────────────────────────────────────────────────────────────────────────────────────


def reverse(settings: Settings, options: argparse.Namespace) -> None:
    """Take credit back, and say how much it was."""
    amount, reason = dollars(options.amount), check_reason(options.reason)
    prepare_existing(settings)

    def change(connection: Connection) -> Reversed:
        account_id = require_account(connection, options.email)
        return reverse_credit(
            connection, CLOCK, None, account_id, amount, reason=reason, once=options.reference, source=machine_user()
        )

    done = write(settings, change)
    if done.repeated:
        say(f"balance ${short_dollars(done.posted)} (this reference was used before; nothing changed)")
        return
    short = "" if done.taken == amount else f" of ${short_dollars(amount)}; no more was available"
    say(f"took ${short_dollars(done.taken)} back{short}; balance ${short_dollars(done.posted)}")


def refund(settings: Settings, options: argparse.Namespace) -> None:
    """Give a charge or a part of it back."""
    generation_id = parse_generation_name(options.generation.strip())
    if generation_id is None:
        raise InvalidRequest(
            f"{options.generation[:40]!r} is not the ID of a generation; it looks like gen-0Bf3cQ8d1aX",
            param="generation",
        )
    amount = None if options.amount is None else dollars(options.amount)
    reason = check_reason(options.reason)
    prepare_existing(settings)

    def change(connection: Connection) -> Refunded:
        return refund_charge(
            connection, CLOCK, None, generation_id, amount, reason=reason, once=options.reference, source=machine_user()
        )

    done = write(settings, change)
    if done.repeated:
        say(f"balance ${short_dollars(done.posted)} (this reference was used before; nothing changed)")
        return
    total = f"${short_dollars(done.total)} of this generation in total"
    say(f"gave ${short_dollars(done.amount)} back, {total}; balance ${short_dollars(done.posted)}")


# ── vouchers ──────────────────────────────────────────────────────────────────────────────────────────────


def cancel_vouchers(settings: Settings, options: argparse.Namespace) -> None:
    """Cancel one voucher or a batch, and report those left unchanged. Raises InvalidRequest if one was not open."""
    if (options.code is None) == (options.batch is None):
        raise InvalidRequest("give either the code of one voucher or --batch NAME", param="code")
    reason = check_reason(options.reason)
    prepare_existing(settings)
    secret = load_secret_keys(settings)

    def change(connection: Connection) -> Cancelled:
        if options.batch is not None:
            return cancel_batch(connection, CLOCK, None, options.batch, reason, source=machine_user())
        return cancel_code(connection, CLOCK, secret, None, options.code, reason, source=machine_user())

    done = write(settings, change)
    untouched = [f"{done.redeemed} already redeemed"] if done.redeemed else []
    untouched += [f"{done.cancelled_before} cancelled before"] if done.cancelled_before else []
    if not done.count and options.batch is None:
        raise InvalidRequest(f"nothing was cancelled: {', '.join(untouched)}", param="code")
    rest = f"; untouched: {', '.join(untouched)}" if untouched else ""
    say(f"cancelled {done.count} vouchers worth ${short_dollars(done.amount)}{rest}")
