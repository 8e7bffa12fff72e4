"""`minitoolai key …`: keys are made, listed, replaced and revoked; the key itself is printed once, alone."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime
from ipaddress import ip_network

import msgspec

from minitoolai.accounts import keys as account_service
from minitoolai.accounts import users as persons
from minitoolai.billing.payments import make_voucher
from minitoolai.cli.common import CLOCK, dollars, prepare_existing, read, say, write
from minitoolai.core.catalog import suggest_names
from minitoolai.core.catalog_loader import read_catalog
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import InvalidRequest, NotFound
from minitoolai.core.models import PERIODS, KeyRow, KeyRules, RateLimits
from minitoolai.core.money import format_dollars, parse_dollars
from minitoolai.paths import catalog_path, load_secret_keys
from minitoolai.settings import Settings
from minitoolai.storage import accounts, ledger, payments, users
from minitoolai.storage.database import Connection
from minitoolai.storage.users import export_personal_data

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": MS_PER_DAY}


def create(settings: Settings, options: argparse.Namespace) -> None:
    """key create EMAIL [--name N] [--budget-daily D] …: the key alone on standard output."""
    name = options.name.strip()
    if not 1 <= len(name) <= 80:
        raise InvalidRequest("a key's name has 1 to 80 characters", param="name")
    rules = _rules(options)
    _check_models(settings, rules.models)
    prepare_existing(settings)
    secret = load_secret_keys(settings)

    def change(connection: Connection) -> str:
        account_id = account_service.require_account(connection, options.email)
        key = account_service.make_key(account_id, name, secret, CLOCK, rules)
        accounts.insert_key(connection, key.row)
        return key.text

    say(write(settings, change))


def list_(settings: Settings, options: argparse.Namespace) -> None:
    """key list EMAIL: a line for each, and one for what it may not do."""
    now_ms = CLOCK.now_ms()

    def ask(connection: Connection) -> list[str]:
        keys = accounts.keys_of(connection, account_service.require_account(connection, options.email))
        return [line for key in keys for line in _lines(connection, key, now_ms)]

    for line in read(settings, ask):
        say(line)


def rotate(settings: Settings, options: argparse.Namespace) -> None:
    """key rotate ID [--grace TIME]: a new key with the same rules and budgets; the old one lives on for a while."""
    grace_ms = _duration_ms(options.grace, "--grace")
    prepare_existing(settings)
    secret = load_secret_keys(settings)

    def change(connection: Connection) -> str:
        old = accounts.find_key(connection, _key_id(options.id))
        if old is None or not account_service.is_active(old, CLOCK.now_ms()):
            raise NotFound(f"there is no active key {_key_id(options.id)}; see minitoolai key list EMAIL")
        return account_service.rotate_key(connection, old, grace_ms, secret, CLOCK).text

    say(write(settings, change))


def revoke(settings: Settings, options: argparse.Namespace) -> None:
    """key revoke ID"""
    key_id = _key_id(options.id)
    prepare_existing(settings)
    if not write(settings, lambda connection: accounts.revoke_key(connection, key_id, CLOCK.now_ms())):
        raise NotFound(f"there is no active key {key_id}; see minitoolai key list EMAIL")
    say(f"revoked {key_id}")


def _check_models(settings: Settings, names: tuple[str, ...]) -> None:
    """A key for a model that nobody offers would open nothing: a slip of the pen, rather than a wish."""
    offered = read_catalog(catalog_path(settings)).models()
    for name in names:
        if name not in offered:
            raise InvalidRequest(
                f"--models: there is no model {name!r}; {suggest_names(name, offered)}", param="models"
            )


def _key_id(text: str) -> str:
    match = account_service.KEY_PATTERN.fullmatch(text)
    return match[1] if match else text


# ── rules in words ────────────────────────────────────────────────────────────────────────────────────────


def _rules(options: argparse.Namespace) -> KeyRules:
    """InvalidRequest names the option."""
    return KeyRules(
        budget_daily=_money(options.budget_daily),
        budget_monthly=_money(options.budget_monthly),
        budget_total=_money(options.budget_total),
        expires_ms=_moment_ms(options.expires) if options.expires else None,
        models=_words(options.models),
        allow_ip=tuple(_network(text) for text in _words(options.allow_ip)),
        rate=RateLimits(
            requests_per_minute=_count(options.requests_per_minute, "--requests-per-minute"),
            tokens_per_minute=_count(options.tokens_per_minute, "--tokens-per-minute"),
            dollars_per_minute=_money(options.dollars_per_minute),
            streams=_count(options.streams, "--streams"),
        ),
    )


def _money(text: str | None) -> int | None:
    return None if text is None else dollars(text)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _count(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**9:
        raise InvalidRequest(f"{option} {text!r} is wrong: write a whole number of at least 1", param=option)
    return int(text)


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise InvalidRequest(
            f"--allow-ip {text!r} is no address and no network; write 192.0.2.7 or 10.0.0.0/8", param="--allow-ip"
        ) from None


def _moment_ms(text: str) -> int:
    """A time from now, or a date: until its beginning, UTC unless it says otherwise. It must lie ahead."""
    now_ms = CLOCK.now_ms()
    if re.fullmatch(r"\d+[mhd]", text):
        return now_ms + _duration_ms(text, "--expires")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"--expires {text!r} is wrong: write 30d, 12h, or a date or time like 2027-01-31", param="--expires"
        ) from None
    ms = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1000
    if ms <= now_ms:
        raise InvalidRequest(
            f"--expires {text!r} has passed; the time is UTC unless it says otherwise", param="--expires"
        )
    return ms


def _duration_ms(text: str, option: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        raise InvalidRequest(f"{option} {text!r} is wrong: write 30m, 24h or 7d", param=option)
    return int(match[1]) * _UNITS_MS[match[2]]


def _lines(connection: Connection, key: KeyRow, now_ms: int) -> list[str]:
    rules = key.rules
    is_over = rules.expires_ms is not None and rules.expires_ms <= now_ms
    state = "revoked" if key.revoked_ms else "expired" if is_over else "active "
    said: list[str] = []
    budget = rules.budget(key.rotation_group or key.id)
    if budget is not None:
        spent = ledger.budget_spent(connection, budget.id, now_ms)
        for period in PERIODS:
            limit = budget.limit(period)
            if limit is not None:
                said.append(f"{period} ${format_dollars(spent[period])} of ${format_dollars(limit)}")
    if rules.expires_ms is not None:
        said.append(f"expires {datetime.fromtimestamp(rules.expires_ms // 1000, UTC):%Y-%m-%d %H:%M} UTC")
    said += [f"models {', '.join(rules.models)}"] if rules.models else []
    said += [f"from {', '.join(rules.allow_ip)}"] if rules.allow_ip else []
    said += _rate_words(rules.rate)
    if key.rotation_group:
        said.append(f"takes the place of {key.rotation_group}")
    return [f"{key.id}  {state}  {key.name}", *(f"    {word}" for word in said)]


def _rate_words(rate: RateLimits) -> list[str]:
    words = {"requests a minute": rate.requests_per_minute, "tokens a minute": rate.tokens_per_minute}
    said = [f"{count} {what}" for what, count in {**words, "answers at once": rate.streams}.items() if count]
    if rate.dollars_per_minute:
        said.append(f"${format_dollars(rate.dollars_per_minute)} a minute")
    return said


# (merged from person_commands) `minitoolai account export` and `account delete`: what a customer may ask of whoever runs this.


def export(settings: Settings, options: argparse.Namespace) -> None:
    """account export EMAIL: one JSON object on standard output."""
    account_id = read(settings, lambda c: account_service.require_account(c, options.email))
    found = read(settings, lambda c: export_personal_data(c, account_id))
    say(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())


def delete(settings: Settings, options: argparse.Namespace) -> None:
    """account delete EMAIL --yes: InvalidRequest where it is not confirmed, or work is under way."""
    account_id = read(settings, lambda c: account_service.require_account(c, options.email))
    if not options.yes:
        raise InvalidRequest("this cannot be taken back; export the account first, then add --yes", param="--yes")
    if not write(settings, lambda c: persons.forget(c, account_id, CLOCK.now_ms())):
        raise InvalidRequest("requests of this account are under way; try again in a minute", param="email")
    say(f"account {account_id}: the person is forgotten, the books stay")


# (merged from vouchers) Commands for the portal's people: vouchers, and who is an admin.

MOST = 10_000


def create_vouchers(settings: Settings, options: argparse.Namespace) -> None:
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
    secret = load_secret_keys(settings)
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
