"""`minitoolai key`: create, list, rotate and revoke API keys."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime
from ipaddress import ip_network

from minitoolai.accounts.keys import KEY_PATTERN, is_active, make_key, require_account, rotate_key
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
from minitoolai.core.catalog.catalog import suggest_names
from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import InvalidRequest, NotFound
from minitoolai.core.models import PERIODS, KeyRow, KeyRules, RateLimits
from minitoolai.core.money import short_dollars
from minitoolai.paths import catalog_path, load_secret_keys
from minitoolai.settings import Settings
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts
from minitoolai.storage.tables.ledger import budget_spent

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": MS_PER_DAY}
#: Options of `key create` that restrict the key: name, metavar, help.
RULES = (
    ("--budget-daily", "DOLLARS", "spending limit per day (UTC), such as 5.00"),
    ("--budget-monthly", "DOLLARS", "spending limit per calendar month (UTC)"),
    ("--budget-total", "DOLLARS", "spending limit in total"),
    ("--expires", "WHEN", "expiry: 30d, 12h, or a date or time such as 2027-01-31 (UTC)"),
    ("--models", "NAMES", "allowed models, separated by commas"),
    ("--allow-ip", "NETWORKS", "allowed client addresses or networks, such as 192.0.2.7,10.0.0.0/8"),
    ("--requests-per-minute", "N", "requests per minute, in addition to the limit of the account"),
    ("--tokens-per-minute", "N", "tokens per minute"),
    ("--dollars-per-minute", "DOLLARS", "dollars per minute"),
    ("--streams", "N", "concurrent responses"),
)


def add_key(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `key create`, `list`, `rotate` and `revoke`."""
    group = add_group(commands, "key", "create, list, rotate and revoke keys", "create ann@example.com --name laptop")
    about = "create an API key; it is printed once, by itself, on standard output"
    example = "key create ann@example.com --name laptop --budget-daily 2.00 --expires 90d"
    parser = add_command(group, "create", about, create_key, example)
    parser.add_argument("email", help="e-mail address of the account")
    parser.add_argument("--name", default="default", help="purpose of the key (default)")
    for option, metavar, meaning in RULES:
        parser.add_argument(option, metavar=metavar, help=meaning)
    about = "list the keys of an account, with their restrictions and spending"
    parser = add_command(group, "list", about, list_keys, "key list ann@example.com")
    parser.add_argument("email", help="e-mail address of the account")
    about = "replace a key by a new one with the same restrictions and budgets; both work during the grace time"
    parser = add_command(group, "rotate", about, rotate, "key rotate 0aB1cD2eF3gH --grace 7d")
    parser.add_argument("id", help="the twelve characters after sk-mt-, or the whole key")
    parser.add_argument(
        "--grace", metavar="TIME", default="24h", help="how long the old key keeps working: 24h, 7d, 0m (24h)"
    )
    about = "revoke a key; a running server refuses it within a second"
    parser = add_command(group, "revoke", about, revoke_key, "key revoke 0aB1cD2eF3gH")
    parser.add_argument("id", help="the twelve characters after sk-mt-, or the whole key")


def create_key(settings: Settings, options: argparse.Namespace) -> None:
    """Create a key and print it."""
    name = options.name.strip()
    if not 1 <= len(name) <= 80:
        raise InvalidRequest("--name must have 1 to 80 characters", param="name")
    rules = _rules(options)
    _check_models(settings, rules.models)
    prepare_existing(settings)
    secret = load_secret_keys(settings)

    def change(connection: Connection) -> str:
        account_id = require_account(connection, options.email)
        key = make_key(account_id, name, secret, CLOCK, rules)
        accounts.insert_key(connection, key.row)
        return key.text

    say(write(settings, change))


def list_keys(settings: Settings, options: argparse.Namespace) -> None:
    """Print each key, followed by its restrictions."""
    now_ms = CLOCK.now_ms()

    def query(connection: Connection) -> list[str]:
        keys = accounts.keys_of(connection, require_account(connection, options.email))
        return [line for key in keys for line in _lines(connection, key, now_ms)]

    for line in read(settings, query):
        say(line)


def rotate(settings: Settings, options: argparse.Namespace) -> None:
    """Replace a key and print the new one."""
    grace_ms = _duration_ms(options.grace, "--grace")
    prepare_existing(settings)
    secret = load_secret_keys(settings)

    def change(connection: Connection) -> str:
        old = accounts.find_key(connection, _key_id(options.id))
        if old is None or not is_active(old, CLOCK.now_ms()):
            raise NotFound(f"there is no active key {_key_id(options.id)}; see minitoolai key list EMAIL")
        return rotate_key(connection, old, grace_ms, secret, CLOCK).text

    say(write(settings, change))


def revoke_key(settings: Settings, options: argparse.Namespace) -> None:
    """Revoke a key."""
    key_id = _key_id(options.id)
    prepare_existing(settings)
    if not write(settings, lambda connection: accounts.revoke_key(connection, key_id, CLOCK.now_ms())):
        raise NotFound(f"there is no active key {key_id}; see minitoolai key list EMAIL")
    say(f"revoked {key_id}")


def _check_models(settings: Settings, names: tuple[str, ...]) -> None:
    """Refuse names that are not in the catalog: a key for them would be useless, so it is a typing error."""
    offered = read_catalog(catalog_path(settings)).models()
    for name in names:
        if name not in offered:
            raise InvalidRequest(
                f"--models: there is no model {name!r}; {suggest_names(name, offered)}", param="models"
            )


def _key_id(text: str) -> str:
    match = KEY_PATTERN.fullmatch(text)
    return match[1] if match else text


# ── parsing and printing rules ────────────────────────────────────────────────────────────────────────────────────────


def _rules(options: argparse.Namespace) -> KeyRules:
    """Return the rules in the options. Raises InvalidRequest that names the option."""
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
        raise InvalidRequest(f"{option} {text!r} is invalid: write a whole number of at least 1", param=option)
    return int(text)


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise InvalidRequest(
            f"--allow-ip {text!r} is neither an address nor a network; write 192.0.2.7 or 10.0.0.0/8",
            param="--allow-ip",
        ) from None


def _moment_ms(text: str) -> int:
    """Parse a duration from now, or a date or time in the future (UTC unless it names a zone)."""
    now_ms = CLOCK.now_ms()
    if re.fullmatch(r"\d+[mhd]", text):
        return now_ms + _duration_ms(text, "--expires")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"--expires {text!r} is invalid: write 30d, 12h, or a date or time such as 2027-01-31", param="--expires"
        ) from None
    ms = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1000
    if ms <= now_ms:
        raise InvalidRequest(
            f"--expires {text!r} is in the past; times are UTC unless they name a zone", param="--expires"
        )
    return ms


def _duration_ms(text: str, option: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        raise InvalidRequest(f"{option} {text!r} is invalid: write 30m, 24h or 7d", param=option)
    return int(match[1]) * _UNITS_MS[match[2]]


def _lines(connection: Connection, key: KeyRow, now_ms: int) -> list[str]:
    rules = key.rules
    is_over = rules.expires_ms is not None and rules.expires_ms <= now_ms
    state = "revoked" if key.revoked_ms else "expired" if is_over else "active "
    parts: list[str] = []
    budget = rules.budget(key.rotation_group or key.id)
    if budget is not None:
        used = budget_spent(connection, budget.id, now_ms)
        for period in PERIODS:
            limit = budget.limit(period)
            if limit is not None:
                parts.append(f"{period} ${short_dollars(used[period])} of ${short_dollars(limit)}")
    if rules.expires_ms is not None:
        parts.append(f"expires {datetime.fromtimestamp(rules.expires_ms // 1000, UTC):%Y-%m-%d %H:%M} UTC")
    parts += [f"models {', '.join(rules.models)}"] if rules.models else []
    parts += [f"from {', '.join(rules.allow_ip)}"] if rules.allow_ip else []
    parts += _rate_parts(rules.rate)
    if key.rotation_group:
        parts.append(f"replaces {key.rotation_group}")
    return [f"{key.id}  {state}  {key.name}", *(f"    {part}" for part in parts)]


def _rate_parts(rate: RateLimits) -> list[str]:
    words = {"requests per minute": rate.requests_per_minute, "tokens per minute": rate.tokens_per_minute}
    parts = [f"{count} {what}" for what, count in {**words, "concurrent responses": rate.streams}.items() if count]
    if rate.dollars_per_minute:
        parts.append(f"${short_dollars(rate.dollars_per_minute)} per minute")
    return parts
