"""Sign-up and keys: made here, shown once, and recognised again without their secret being stored."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import zlib
from functools import partial
from ipaddress import ip_address, ip_network

import msgspec
from msgspec.structs import replace

from minitoolai.accounts.rate_limits import Headers, Limits
from minitoolai.core.clock import Clock, base62, random_text
from minitoolai.core.errors import (
    AccessDenied,
    InvalidRequest,
    KeyForbids,
    NotFound,
    Overloaded,
    RateLimited,
    SettingsError,
    StoreError,
)
from minitoolai.core.models import UNRESTRICTED, Caller, KeyRow, KeyRules
from minitoolai.core.signing import all_keys
from minitoolai.settings import Settings
from minitoolai.storage import accounts
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.writer import Writer

# (merged from admission) Whether a key may be used at all, for this, now and from there; and how often.


class KeyPolicy:
    """Asked once for every request that shows a key."""

    def __init__(self, clock: Clock, limits: Limits, *, trusted_proxies: tuple[str, ...] = ()) -> None:
        self._clock = clock
        self._limits = limits
        self._trusted = [ip_network(network) for network in trusted_proxies]

    def check(self, caller: Caller, peer: str, forwarded: str) -> None:
        """AccessDenied for a key that has expired, KeyForbids for an address that it is not meant for.

        `peer` is who is connected, `forwarded` what a proxy says of whom it speaks for (X-Forwarded-For).
        """
        rules = caller.rules
        if rules is None:
            return
        if rules.expires_ms is not None and rules.expires_ms <= self._clock.now_ms():
            raise AccessDenied("this key has expired", code="key_expired")
        if rules.allow_ip:
            address = self.origin(peer, forwarded)
            if not rules.allows_address(address):
                raise KeyForbids(f"this key may not be used from {address[:45]}", code="address_not_allowed")

    def count(self, caller: Caller) -> tuple[Headers, RateLimited | None]:
        """One request more: the headers that tell what is left, and the refusal where nothing is."""
        return self._limits.count(caller)

    def origin(self, peer: str, forwarded: str) -> str:
        """Who asks: the peer, or where that is a proxy of ours, the last address that no proxy of ours has added."""
        hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
        while hops and self._is_trusted(peer):
            peer = hops.pop()
        return peer

    def _is_trusted(self, address: str) -> bool:
        try:
            here = ip_address(address)
        except ValueError:
            return False
        return any(here in network for network in self._trusted)


def check_model(caller: Caller, model: str) -> None:
    """KeyForbids where the key is not meant for this model."""
    rules = caller.rules
    if rules is not None and rules.models and model not in rules.models:
        raise KeyForbids(
            f"this key may not use {model[:80]}; it is meant for {', '.join(rules.models)}",
            param="model",
            code="model_not_allowed",
        )


KEY_PATTERN = re.compile(r"sk-mt-([0-9A-Za-z]{12})-([0-9A-Za-z]{32})-([0-9A-Za-z]{6})")
#: A revoked key may go on working for this long: the age of what is remembered of it.
REMEMBER_S = 0.9
LARGEST_MEMORY = 10_000
NOTE_USES_S = 5.0
LONGEST_NAME = 80

log = logging.getLogger(__name__)


class NewKey(msgspec.Struct, frozen=True):
    """A key just made: the only moment at which its text exists."""

    row: KeyRow
    text: str


def make_key(
    account_id: int,
    name: str,
    secret_key: bytes,
    clock: Clock,
    rules: KeyRules = UNRESTRICTED,
    *,
    rotation_group: str | None = None,
) -> NewKey:
    """Draw a key `sk-mt-<id12>-<secret32>-<crc6>`."""
    key_id, secret = random_text(12), random_text(32)
    row = KeyRow(key_id, account_id, name, _hmac(secret, secret_key), clock.now_ms(), None, rules, rotation_group)
    return NewKey(row, f"sk-mt-{key_id}-{secret}-{_checksum(key_id, secret)}")


def _hmac(secret: str, secret_key: bytes) -> bytes:
    return hmac.digest(secret_key, secret.encode(), "sha256")


def _checksum(key_id: str, secret: str) -> str:
    return base62(zlib.crc32(f"{key_id}-{secret}".encode()), 6)


def check_email(text: str) -> str:
    """The address in the form under which it is kept; InvalidRequest names the field."""
    email = text.strip().lower()
    if len(email) > 254 or not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
        raise InvalidRequest(f"{text!r} is not an e-mail address; write it like ann@example.com", param="email")
    return email


def revoke_own(connection: Connection, account_id: int, key_id: str, now_ms: int) -> bool:
    """Revoke a key of this account; once more changes nothing. False for anybody else's."""
    key = accounts.find_key(connection, key_id)
    if key is None or key.account_id != account_id:
        return False
    accounts.revoke_key(connection, key_id, now_ms)
    return True


def is_active(key: KeyRow, now_ms: int) -> bool:
    """Whether it works at this moment."""
    return key.revoked_ms is None and (key.rules.expires_ms is None or key.rules.expires_ms > now_ms)


def rotate_key(connection: Connection, old: KeyRow, grace_ms: int, secret_key: bytes, clock: Clock) -> NewKey:
    """A new key with the same rules; both share budgets and rates until the old one's time is over."""
    now_ms = clock.now_ms()
    new = make_key(old.account_id, old.name, secret_key, clock, old.rules, rotation_group=old.rotation_group or old.id)
    accounts.insert_key(connection, new.row)
    ends_ms = min(now_ms + grace_ms, old.rules.expires_ms or now_ms + grace_ms)
    accounts.update_key(connection, old.id, old.name, replace(old.rules, expires_ms=ends_ms))
    return new


def find_own(connection: Connection, account_id: int, key_id: str) -> KeyRow | None:
    """A key that the account's people made and have not revoked; None for anybody else's."""
    key = accounts.find_key(connection, key_id)
    if key is None or key.account_id != account_id or key.revoked_ms is not None or key.rules.for_pages:
        return None
    return key


def renew_page_key(connection: Connection, key: KeyRow, now_ms: int) -> None:
    """A key for pages takes its place; those that are over are revoked."""
    for old in accounts.keys_of(connection, key.account_id, for_pages=True):
        if old.revoked_ms is None and old.rules.expires_ms is not None and old.rules.expires_ms <= now_ms:
            accounts.revoke_key(connection, old.id, now_ms)
    accounts.insert_key(connection, key)


def revoke_page_keys(connection: Connection, account_id: int, now_ms: int) -> None:
    """Nothing that a page of this account was given works any longer."""
    for key in accounts.keys_of(connection, account_id, for_pages=True):
        accounts.revoke_key(connection, key.id, now_ms)


def require_account(connection: Connection, email: str) -> int:
    """The account of this address; NotFound says how to make one."""
    account_id = accounts.find_account(connection, check_email(email))
    if account_id is None:
        raise NotFound(f"there is no account {email}; make it with: minitoolai account create {email}", param="email")
    return account_id


class KeyVerifier:
    """Recognises keys. What it has seen is remembered for less than a second."""

    def __init__(self, database: Database, secret_key: bytes, clock: Clock, admission: KeyPolicy | None = None) -> None:
        #: What a key that is recognised may do; None where nothing is limited.
        self.admission = admission
        self._database = database
        self._secret_key = secret_key
        self._clock = clock
        self._known: dict[str, tuple[float, Caller]] = {}
        self._used: dict[str, int] = {}

    def remembered(self, text: str) -> Caller | None:
        """The caller, if this key was recognised a moment ago. Never waits: for the hot path."""
        entry = self._known.get(text)
        if entry is not None and entry[0] > self._clock.steady_s():
            return entry[1]
        return None

    def forget(self, key_id: str | None) -> None:
        """Look again at this key the next time; None: at every key. From the event loop's thread."""
        for text, (_, caller) in list(self._known.items()):
            if key_id is None or caller.key_id == key_id:
                del self._known[text]

    async def recognise(self, text: str) -> Caller:
        """The caller behind a key; AccessDenied says what is wrong with it."""
        caller = self.remembered(text)
        if caller is not None:
            return caller
        # Taken before the look-up: the memory must not outlive a revocation by more than it says.
        asked_s = self._clock.steady_s()
        match = KEY_PATTERN.fullmatch(text)
        if match is None or _checksum(match[1], match[2]) != match[3]:
            raise AccessDenied("this is not a key of this service: it should look like sk-mt-…; copy it whole")
        row = await self._database.read_async(accounts.find_key, match[1])
        if row is None or not self._is_right(row, match[2]):
            self._known.pop(text, None)
            raise AccessDenied("this key is not known here; make one with: minitoolai key create EMAIL")
        if row.revoked_ms is not None:
            self._known.pop(text, None)
            raise AccessDenied("this key was revoked", code="invalid_api_key")
        rules = None if row.rules == UNRESTRICTED else row.rules
        caller = Caller(
            row.account_id, row.id, rules=rules, rotation_group=(row.rotation_group or row.id) if rules else ""
        )
        if len(self._known) >= LARGEST_MEMORY:
            self._known.clear()
        self._known[text] = (asked_s + REMEMBER_S, caller)
        self._used[caller.key_id] = self._clock.now_ms()
        return caller

    def _is_right(self, row: KeyRow, secret: str) -> bool:
        return any(
            hmac.compare_digest(row.secret_hmac, _hmac(secret, secret_key)) for secret_key in all_keys(self._secret_key)
        )

    async def record_last_used(self, writer: Writer) -> None:
        """Write down, now and then, when keys were last used: for the eyes of their owners, on nobody's way."""
        while True:
            await asyncio.sleep(NOTE_USES_S)
            used, self._used = self._used, {}
            if used:
                try:
                    await writer.run(partial(accounts.record_last_used, uses=used))
                except (StoreError, Overloaded) as error:
                    log.warning("the last use of %d keys could not be written down: %s", len(used), error)


def trusted_proxies(settings: Settings) -> tuple[str, ...]:
    """Return the networks whose `X-Forwarded-For` is believed. Raises SettingsError if one is not a network."""
    networks = tuple(text.strip() for text in settings.trusted_proxies.split(",") if text.strip())
    for network in networks:
        try:
            ip_network(network)
        except ValueError as error:
            raise SettingsError(f"MINITOOLAI_TRUSTED_PROXIES is wrong: {error}") from error
    return networks
