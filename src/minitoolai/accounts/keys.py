"""Create, verify and restrict API keys.

A key is shown once, when it is created. Only an HMAC of its secret is stored.
"""

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

from minitoolai.accounts.addresses import check_email, email_forms
from minitoolai.accounts.rate_limits import Headers, Limits
from minitoolai.accounts.request_bodies import BodyKeeper
from minitoolai.accounts.shared_limits import SharedBuckets
from minitoolai.core.clock import Clock, base62, random_text
from minitoolai.core.errors import (
    AccessDenied,
    AccountSuspended,
    KeyForbids,
    NotFound,
    Overloaded,
    RateLimited,
    ServiceError,
    SettingsError,
    StoreError,
)
from minitoolai.core.models import UNRESTRICTED, Caller, KeyRow, KeyRules, Outcome
from minitoolai.core.signing import all_keys
from minitoolai.settings import Settings
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import accounts, members
from minitoolai.storage.writer import Writer

KEY_PATTERN = re.compile(r"sk-mt-([0-9A-Za-z]{12})-([0-9A-Za-z]{32})-([0-9A-Za-z]{6})")
#: Verified keys are cached for this long, so a revoked key may work that much longer.
CACHE_TTL_S = 0.9
MAX_CACHED_KEYS = 10_000
LAST_USED_INTERVAL_S = 5.0
MAX_KEY_NAME_LENGTH = 80

log = logging.getLogger(__name__)


class KeyPolicy:
    """Check what a key may be used for, once per request."""

    def __init__(self, clock: Clock, limits: Limits, *, trusted_proxies: tuple[str, ...] = ()) -> None:
        self._clock = clock
        self._limits = limits
        self._trusted = [ip_network(network) for network in trusted_proxies]

    def check(self, caller: Caller, peer: str, forwarded: str) -> None:
        """Raise AccessDenied if the key has expired, KeyForbids if its allow list excludes the client's address.

        `peer` is the connected address, `forwarded` the X-Forwarded-For header.
        """
        rules = caller.rules
        if rules is None:
            return
        if rules.expires_ms is not None and rules.expires_ms <= self._clock.now_ms():
            raise AccessDenied("This API key has expired. Create a new one.", code="key_expired")
        if rules.allow_ip:
            address = self.client_address(peer, forwarded)
            if not rules.allows_address(address):
                raise KeyForbids(f"This API key may not be used from {address[:45]}.", code="address_not_allowed")

    @property
    def limits(self) -> Limits:
        """Return the limits of accounts and keys."""
        return self._limits

    @property
    def shared_buckets(self) -> SharedBuckets | None:
        """Return what several processes share. If it is not None, `prepare` must be called before `count`."""
        return self._limits.shared

    async def prepare(self, caller: Caller) -> None:
        """Draw from the shared limits what `count` needs. Raises Overloaded."""
        await self._limits.prepare(caller)

    def count(self, caller: Caller) -> tuple[Headers, RateLimited | None]:
        """Count one request. Return the rate-limit headers, and the error if the limit is exceeded."""
        return self._limits.count(caller)

    def client_address(self, peer: str, forwarded: str) -> str:
        """Return the client's address.

        That is the peer, or behind trusted proxies the last address in X-Forwarded-For that is not one of them.
        """
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
    """Raise KeyForbids if the key may not use this model."""
    rules = caller.rules
    if rules is not None and rules.models and model not in rules.models:
        raise KeyForbids(
            f"This API key may not use the model {model[:80]}. It may use: {', '.join(rules.models)}.",
            param="model",
            code="model_not_allowed",
        )


class NewKey(msgspec.Struct, frozen=True):
    """A new key. Its text is available only here."""

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
    member_id: int | None = None,
) -> NewKey:
    """Generate a key `sk-mt-<id12>-<secret32>-<crc6>`."""
    key_id, secret = random_text(12), random_text(32)
    hashed, now_ms = _hmac(secret, secret_key), clock.now_ms()
    row = KeyRow(key_id, account_id, name, hashed, now_ms, None, rules, rotation_group, member_id)
    return NewKey(row, f"sk-mt-{key_id}-{secret}-{_checksum(key_id, secret)}")


def _hmac(secret: str, secret_key: bytes) -> bytes:
    return hmac.digest(secret_key, secret.encode(), "sha256")


def _checksum(key_id: str, secret: str) -> str:
    return base62(zlib.crc32(f"{key_id}-{secret}".encode()), 6)


def revoke_own(connection: Connection, account_id: int, key_id: str, now_ms: int) -> bool:
    """Revoke a key of this account. Return False if it belongs to another account; repeating changes nothing."""
    key = accounts.find_key(connection, key_id)
    if key is None or key.account_id != account_id:
        return False
    accounts.revoke_key(connection, key_id, now_ms)
    return True


def is_active(key: KeyRow, now_ms: int) -> bool:
    """Return True if the key is neither revoked nor expired."""
    return key.revoked_ms is None and (key.rules.expires_ms is None or key.rules.expires_ms > now_ms)


def rotate_key(connection: Connection, old: KeyRow, grace_ms: int, secret_key: bytes, clock: Clock) -> NewKey:
    """Return a new key of the same member with the same rules.

    Both share budgets and rate limits until the old key expires.
    """
    now_ms, group = clock.now_ms(), old.rotation_group or old.id
    new = make_key(
        old.account_id, old.name, secret_key, clock, old.rules, rotation_group=group, member_id=old.member_id
    )
    accounts.insert_key(connection, new.row)
    ends_ms = min(now_ms + grace_ms, old.rules.expires_ms or now_ms + grace_ms)
    accounts.update_key(connection, old.id, old.name, replace(old.rules, expires_ms=ends_ms))
    return new


def find_own(connection: Connection, account_id: int, key_id: str) -> KeyRow | None:
    """Return an active key that the account's users created, None for any other."""
    key = accounts.find_key(connection, key_id)
    if key is None or key.account_id != account_id or key.revoked_ms is not None or key.rules.for_pages:
        return None
    return key


def renew_page_key(connection: Connection, key: KeyRow, now_ms: int) -> None:
    """Insert a page key and revoke the account's expired page keys."""
    for old in accounts.keys_of(connection, key.account_id, for_pages=True):
        if old.revoked_ms is None and old.rules.expires_ms is not None and old.rules.expires_ms <= now_ms:
            accounts.revoke_key(connection, old.id, now_ms)
    accounts.insert_key(connection, key)


def revoke_page_keys(connection: Connection, user_id: int, now_ms: int) -> None:
    """Revoke all page keys of this user, in all of their accounts."""
    for joined in members.memberships_of(connection, user_id):
        for key in accounts.keys_of(connection, joined.account_id, for_pages=True):
            if key.member_id == user_id:
                accounts.revoke_key(connection, key.id, now_ms)


def require_account(connection: Connection, email: str) -> int:
    """Return the account with this e-mail address. Raises NotFound, which says how to create it.

    Raises InvalidRequest if it is not an address.
    """
    account_id = accounts.find_account(connection, *email_forms(email))
    if account_id is None:
        check_email(email)
        raise NotFound(f"There is no account {email}. Create it with: minitoolai account create {email}", param="email")
    return account_id


def suspended(reason: str = "") -> AccountSuspended:
    """Return the error for requests of a suspended account. The customer may read the reason."""
    why = f": {reason.rstrip('.')}." if reason else "."
    return AccountSuspended(f"This account is suspended{why} Sign in for details, or contact the operator.")


def barred_error(is_suspended: bool, consequence: str) -> ServiceError:
    """Return the error that ends work of a suspended account, else that of a revoked key, with what follows."""
    if is_suspended:
        return AccountSuspended(f"This account is suspended; {consequence}.")
    return AccessDenied(f"This API key has been revoked; {consequence}.", code="invalid_api_key")


def barred_outcome(is_suspended: bool) -> Outcome:
    """Return the end of a job whose account was suspended, else of one whose key was revoked. It costs nothing."""
    error = barred_error(is_suspended, "nothing was charged for this job")
    return Outcome(state="failed", error_code=error.code, error=error.message)


class KeyVerifier:
    """Verify API keys. Verified keys are cached for less than a second."""

    def __init__(self, database: Database, secret_key: bytes, clock: Clock, policy: KeyPolicy | None = None) -> None:
        #: Rules and rate limits for verified keys, None if nothing is limited.
        self.policy = policy
        #: Stores requests and responses for accounts that have asked for it. None: for no account.
        self.bodies: BodyKeeper | None = None
        self._database = database
        self._secret_key = secret_key
        self._clock = clock
        self._cache: dict[str, tuple[float, Caller]] = {}
        self._used: dict[str, int] = {}

    def cached(self, text: str) -> Caller | None:
        """Return the caller if this key is in the cache. Never waits, because it is on the hot path."""
        entry = self._cache.get(text)
        if entry is not None and entry[0] > self._clock.steady_s():
            return entry[1]
        return None

    def invalidate(self, changed: str | None) -> None:
        """Remove a key from the cache, or all keys of an account (`account:1000`), or all keys if None.

        Call from the event loop's thread.
        """
        for text, (_, caller) in list(self._cache.items()):
            if changed is None or changed in (caller.key_id, f"{accounts.ACCOUNT_PREFIX}{caller.account_id}"):
                del self._cache[text]

    async def verify(self, text: str) -> Caller:
        """Return the caller of a key. Raises AccessDenied with the reason."""
        caller = self.cached(text)
        if caller is not None:
            return caller
        # Taken before the lookup, so that the cache never outlives a revocation by more than its lifetime.
        started_s = self._clock.steady_s()
        match = KEY_PATTERN.fullmatch(text)
        if match is None or _checksum(match[1], match[2]) != match[3]:
            raise AccessDenied("Invalid API key: keys of this service look like sk-mt-…. Copy the complete key.")
        found = await self._database.read_async(accounts.find_key_and_owner, match[1])
        if found is None or not self._secret_matches(found[0], match[2]):
            self._cache.pop(text, None)
            raise AccessDenied("Unknown API key. Create one on the page Keys.")
        row, owner = found
        if row.revoked_ms is not None:
            self._cache.pop(text, None)
            raise AccessDenied("This API key has been revoked.", code="invalid_api_key")
        if owner.suspended_reason is not None:
            self._cache.pop(text, None)
            raise suspended(owner.suspended_reason)
        rules = None if row.rules == UNRESTRICTED else row.rules
        caller = Caller(
            row.account_id,
            row.id,
            rules=rules,
            rotation_group=(row.rotation_group or row.id) if rules else "",
            price_group=owner.price_group,
            team_budget=owner.team_budget,
            body_days=owner.body_days if self.bodies is not None else 0,
        )
        if len(self._cache) >= MAX_CACHED_KEYS:
            self._cache.clear()
        self._cache[text] = (started_s + CACHE_TTL_S, caller)
        self._used[caller.key_id] = self._clock.now_ms()
        return caller

    def _secret_matches(self, row: KeyRow, secret: str) -> bool:
        return any(
            hmac.compare_digest(row.secret_hmac, _hmac(secret, secret_key)) for secret_key in all_keys(self._secret_key)
        )

    async def record_last_used(self, writer: Writer) -> None:
        """Store when keys were last used, every few seconds and off the request path."""
        while True:
            await asyncio.sleep(LAST_USED_INTERVAL_S)
            used, self._used = self._used, {}
            if used:
                try:
                    await writer.run(partial(accounts.record_last_used, uses=used))
                except (StoreError, Overloaded) as error:
                    log.warning("failed to store the last use of %d keys: %s", len(used), error)


def trusted_proxies(settings: Settings) -> tuple[str, ...]:
    """Return the proxy networks from which `X-Forwarded-For` is trusted. Raises SettingsError if one is malformed."""
    networks = tuple(text.strip() for text in settings.trusted_proxies.split(",") if text.strip())
    for network in networks:
        try:
            ip_network(network)
        except ValueError as error:
            raise SettingsError(f"MINITOOLAI_TRUSTED_PROXIES is wrong: {error}") from error
    return networks
