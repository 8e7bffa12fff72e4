"""`minitoolai plan`, `coupon` and `account group`: what customers are charged by, apart from the list prices."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from functools import partial

from minitoolai.accounts.keys import require_account
from minitoolai.billing.selling import coupons as selling
from minitoolai.billing.selling import plans
from minitoolai.billing.selling.plans import Refused
from minitoolai.cli.common import (
    CLOCK,
    Commands,
    add_command,
    add_group,
    dollars,
    prepare_existing,
    read,
    say,
    write,
)
from minitoolai.core.catalog.catalog import Catalog, suggest_names
from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import InvalidRequest, NotFound
from minitoolai.core.money import short_dollars
from minitoolai.paths import catalog_path
from minitoolai.settings import Settings
from minitoolai.storage.database import Connection
from minitoolai.storage.selling import coupons, purses
from minitoolai.storage.selling.coupons import Coupon
from minitoolai.storage.selling.purses import Purse

MAX_USES = 1_000_000
MAX_DAYS = 36_500
COUPONS_AT_ONCE = 500
#: Why a plan was not started, for the operator.
WHY_NOT = {
    "unknown": "the catalog has no such plan",
    "closed": "the plan is closed in the catalog",
    "price_changed": "its price has changed",
    "owned": "the account has a plan",
    "subscribed": "a payment provider renews its plan; cancel that first, or the customer would be charged again",
    "renewed": "the next period of its plan is paid already; change it when that has begun",
}


def add_plan(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `plan list`, `show`, `start` and `cancel`."""
    group = add_group(commands, "plan", "show the plans, and start or cancel one", "start ann@example.com pro")
    add_command(group, "list", "list the plans of the catalog", list_plans, "plan list")
    parser = add_command(group, "show", "show the plan of an account", show_plan, "plan show ann@example.com")
    parser.add_argument("email", help="e-mail address of the account")
    about = "start a plan, paid from the balance, in place of the account's present one"
    parser = add_command(group, "start", about, start_plan, "plan start ann@example.com pro --reason 'offer 12'")
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("plan", metavar="PLAN", help="name of a plan of the catalog")
    parser.add_argument("--reason", help="kept in the audit log")
    about = "do not renew the plan of an account; it stays until its end"
    parser = add_command(group, "cancel", about, cancel_plan, "plan cancel ann@example.com")
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("--reason", help="kept in the audit log")


def add_coupon(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `coupon create`, `list` and `cancel`."""
    group = add_group(commands, "coupon", "create, list and cancel coupons", "create SPRING --percent 20 --uses 100")
    about = "create a code that many accounts may use, each once"
    parser = add_command(group, "create", about, create_coupon, "coupon create WELCOME --amount 5.00 --uses 100")
    parser.add_argument("code", metavar="CODE", help="3 to 40 letters and digits; case and hyphens do not matter")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--percent", type=int, help="percent off the price of a plan, 1 to 100")
    kind.add_argument("--amount", metavar="DOLLARS", help="credit for each account, such as 5.00")
    parser.add_argument("--uses", type=int, required=True, help="how many accounts may use it")
    parser.add_argument("--days", type=int, help="days until it expires (never)")
    parser.add_argument("--note", help="purpose; shown to operators only")
    add_command(group, "list", "list the coupons, newest first", list_coupons, "coupon list")
    parser = add_command(group, "cancel", "cancel a coupon", cancel_coupon, "coupon cancel WELCOME")
    parser.add_argument("code", metavar="CODE", help="code of the coupon")
    parser.add_argument("--reason", help="kept in the audit log")


def add_group_command(group: Commands[argparse.ArgumentParser]) -> None:
    """Add `account group`."""
    about = "put an account into a price group of the catalog, or take it out"
    parser = add_command(group, "group", about, set_group, "account group ann@example.com partner")
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("group", metavar="GROUP", nargs="?", help="name of the group; none: the list prices")
    parser.add_argument("--reason", help="kept in the audit log")


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────


def _catalog(settings: Settings) -> Catalog:
    return read_catalog(catalog_path(settings))


def set_group(settings: Settings, options: argparse.Namespace) -> None:
    """Change the price group of an account. Raises NotFound for a group that the catalog does not have."""
    name, groups = options.group, _catalog(settings).groups
    if name is not None and name not in groups:
        what = suggest_names(name, groups) if groups else "add [groups.NAME] to the catalog"
        raise NotFound(f"the catalog has no price group {name!r}; {what}", param="GROUP")
    prepare_existing(settings)

    def change(connection: Connection) -> bool:
        account_id = require_account(connection, options.email)
        return plans.set_group_as(connection, CLOCK, None, account_id, name, note=options.reason)

    state = "" if write(settings, change) else "already "
    say(f"{options.email} {state}pays {f'the prices of {name}' if name else 'the list prices'}")


def list_plans(settings: Settings, _: argparse.Namespace) -> None:
    """Print the plans of the catalog."""
    found = _catalog(settings).plans
    if not found:
        say("the catalog has no plans; add [plans.NAME] to it")
    for plan in found.values():
        limits = "".join(f", ${short_dollars(limit)} in a window of {kind}" for kind, limit in plan.windows.limits())
        closed = ", closed" if plan.is_closed else ""
        say(
            f"{plan.name}: ${short_dollars(plan.price)} a {plan.period} for ${short_dollars(plan.credit)} of credit"
            f"{limits}{closed}"
        )


def show_plan(settings: Settings, options: argparse.Namespace) -> None:
    """Print the plan of an account."""
    now_ms = CLOCK.now_ms()

    def query(connection: Connection) -> list[Purse]:
        return purses.open_purses(connection, require_account(connection, options.email))

    found = read(settings, query)
    if not found:
        say(f"{options.email} has no plan")
    for purse in found:
        say(_line(purse, now_ms))


def _line(purse: Purse, now_ms: int) -> str:
    state = "now" if purse.is_open(now_ms) else "ended" if purse.ends_ms <= now_ms else "next"
    renewal = {"none": "not renewed", "balance": "renewed from the balance", "provider": "renewed by payment"}
    return (
        f"{purse.plan} ({state}): {_time(purse.begins_ms)} to {_time(purse.ends_ms)} UTC, "
        f"${short_dollars(purse.available)} of ${short_dollars(purse.credit)} left, {renewal[purse.renewal]}"
    )


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%d %H:%M")


def start_plan(settings: Settings, options: argparse.Namespace) -> None:
    """Start a plan. Raises NotFound or InvalidRequest."""
    offered = _catalog(settings).plans
    plan = offered.get(options.plan)
    if plan is None:
        what = suggest_names(options.plan, offered) if offered else "add [plans.NAME] to the catalog"
        raise NotFound(f"the catalog has no plan {options.plan!r}; {what}", param="PLAN")
    prepare_existing(settings)

    def change(connection: Connection) -> Purse | Refused:
        account_id = require_account(connection, options.email)
        return plans.start_plan_as(connection, CLOCK, None, account_id, plan, note=options.reason)

    done = write(settings, change)
    if isinstance(done, Refused):
        poor = f"the balance is ${short_dollars(done.available)} and the plan costs ${short_dollars(done.price)}"
        raise InvalidRequest(f"{options.email} did not get the plan: {WHY_NOT.get(done.reason, poor)}", param="PLAN")
    say(_line(done, CLOCK.now_ms()))


def cancel_plan(settings: Settings, options: argparse.Namespace) -> None:
    """Cancel the plan of an account. Raises NotFound if it has none."""
    prepare_existing(settings)

    def change(connection: Connection) -> Purse | None:
        account_id = require_account(connection, options.email)
        return plans.cancel_plan_as(connection, CLOCK, None, account_id, note=options.reason)

    purse = write(settings, change)
    if purse is None:
        raise NotFound(f"{options.email} has no plan", param="email")
    say(_line(purse, CLOCK.now_ms()))


def create_coupon(settings: Settings, options: argparse.Namespace) -> None:
    """Create a coupon. Raises InvalidRequest."""
    code = selling.plain_code(options.code)
    if not code:
        raise InvalidRequest(f"{options.code!r} is not a code; use 3 to 40 letters and digits", param="CODE")
    if options.percent is not None and not 1 <= options.percent <= 100:
        raise InvalidRequest("--percent must be 1 to 100", param="--percent")
    if not 1 <= options.uses <= MAX_USES:
        raise InvalidRequest(f"--uses must be 1 to {MAX_USES:,}", param="--uses")
    if options.days is not None and not 1 <= options.days <= MAX_DAYS:
        raise InvalidRequest(f"--days must be 1 to {MAX_DAYS:,}", param="--days")
    amount = None if options.amount is None else dollars(options.amount)
    now_ms = CLOCK.now_ms()
    expires_ms = None if options.days is None else now_ms + options.days * MS_PER_DAY
    coupon = Coupon(CLOCK.new_id(), code, options.percent, amount, options.uses, 0, options.note, now_ms, expires_ms)
    prepare_existing(settings)
    if not write(settings, lambda connection: selling.create_coupon(connection, CLOCK, coupon)):
        raise InvalidRequest(f"there is a coupon {code}; choose another code", param="CODE")
    say(describe(coupon))


def describe(coupon: Coupon) -> str:
    """Return a coupon in one line."""
    worth = f"{coupon.percent} % off a plan" if coupon.percent else f"${short_dollars(coupon.amount or 0)} of credit"
    end = "" if coupon.expires_ms is None else f", until {_time(coupon.expires_ms)} UTC"
    cancelled = ", cancelled" if coupon.cancelled_ms is not None else ""
    return f"{coupon.code}: {worth}, {coupon.used} of {coupon.uses} used{end}{cancelled}"


def list_coupons(settings: Settings, _: argparse.Namespace) -> None:
    """Print all coupons."""
    before: tuple[int, int] | None = None
    while page := read(settings, partial(coupons.list_coupons, limit=COUPONS_AT_ONCE, before=before)):
        for coupon in page:
            say(describe(coupon))
        before = page[-1].created_ms, page[-1].id


def cancel_coupon(settings: Settings, options: argparse.Namespace) -> None:
    """Cancel a coupon. Raises NotFound if there is none with this code that is not cancelled."""
    prepare_existing(settings)
    done = write(settings, lambda c: selling.cancel_coupon(c, CLOCK, options.code, note=options.reason))
    if not done:
        raise NotFound(f"there is no coupon {options.code!r} that is not cancelled", param="CODE")
    say(f"{selling.plain_code(options.code)} is cancelled; earlier uses stay")
