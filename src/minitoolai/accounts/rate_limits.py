"""Rate limits per account and key, and throttling of failed attempts.

All limits are token buckets, implemented with the generic cell rate algorithm (GCRA): one number per bucket. A bucket
is full after one period without use, allows a burst of its whole content, and refills continuously. They are in memory;
processes that share a database draw from buckets there (accounts/shared_limits.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal

import msgspec

from minitoolai.accounts.shared_limits import LeasedBucket, LeasedSlots, SharedBuckets, bucket_name
from minitoolai.core.clock import Clock
from minitoolai.core.errors import RateLimited, SettingsError
from minitoolai.core.models import Caller, RateLimits
from minitoolai.core.money import parse_dollars
from minitoolai.settings import Settings
from minitoolai.storage.tables.shared_limits import Draw

Headers = list[tuple[bytes, bytes]]
MINUTE_S = 60.0
#: Most buckets kept in memory. Beyond it, buckets that are full again are dropped.
MAX_TRACKED = 50_000


class TokenBucket:
    """A token bucket of `limit` units per period, by GCRA. `empty_s` is the time at which it will be full again."""

    __slots__ = ("empty_s", "limit", "limit_header", "period_s", "unit_s")

    def __init__(self, limit: int, period_s: float = MINUTE_S) -> None:
        self.limit = limit
        self.limit_header = (b"x-ratelimit-limit-requests", str(limit).encode())
        self.period_s = period_s
        self.unit_s = period_s / limit
        self.empty_s = 0.0

    def wait_s(self, units: int, now_s: float) -> float:
        """Return the seconds until so many units are available; 0 or less if they are available now.

        More units than the limit never become available.
        """
        # One microsecond of tolerance, for sums of binary fractions.
        return max(self.empty_s, now_s) + units * self.unit_s - now_s - self.period_s - 1e-6

    def consume(self, units: int, now_s: float) -> None:
        """Take units from the bucket. A negative number returns them."""
        self.empty_s = max(self.empty_s, now_s) + units * self.unit_s

    def full_in_s(self, now_s: float) -> float:
        """Return the seconds until the bucket is full again."""
        return self.empty_s - now_s

    def is_idle(self, now_s: float) -> bool:
        """Return True if the bucket can be dropped without losing state."""
        return self.empty_s <= now_s

    def remaining(self, now_s: float) -> int:
        """Return the units that are available."""
        return max(0, int((self.period_s - max(0.0, self.empty_s - now_s)) / self.unit_s + 1e-6))


Bucket = TokenBucket | LeasedBucket
MakeBucket = Callable[[str, int], Bucket]
MakeSlots = Callable[[str, int], LeasedSlots | None]


class LimitGroup:
    """The buckets and in-flight count of one account or one key."""

    __slots__ = ("dollars", "in_flight", "owner", "rate", "requests", "slots", "tokens")

    def __init__(self, owner: str, rate: RateLimits, name: str, make: MakeBucket, make_slots: MakeSlots) -> None:
        self.owner = owner
        self.rate = rate
        self.requests = make(f"{name}/requests", rate.requests_per_minute) if rate.requests_per_minute else None
        self.tokens = make(f"{name}/tokens", rate.tokens_per_minute) if rate.tokens_per_minute else None
        self.dollars = make(f"{name}/dollars", rate.dollars_per_minute) if rate.dollars_per_minute else None
        self.in_flight = 0
        #: Of the requests in progress, if several processes share the limit.
        self.slots = make_slots(f"{name}/streams", rate.streams) if rate.streams else None

    def is_idle(self, now_s: float) -> bool:
        """Return True if the group can be dropped without losing state."""
        buckets = (self.requests, self.tokens, self.dollars)
        return not self.in_flight and all(bucket is None or bucket.is_idle(now_s) for bucket in buckets)


class UsageReservation(msgspec.Struct, frozen=True):
    """Tokens and nano-dollars reserved before work begins, corrected at its end."""

    groups: tuple[LimitGroup, ...]
    tokens: int
    dollars: int


LimitKind = Literal["requests", "tokens", "dollars", "streams"]


class LimitState(msgspec.Struct, frozen=True):
    """One limit, the units left now, and the seconds until all of them are available again."""

    kind: LimitKind
    limit: int
    left: int
    full_in_s: float


class Limits:
    """Enforce the rate limits of accounts and keys, for every request and all paid work."""

    def __init__(
        self, clock: Clock, account: RateLimits, *, processes: int = 1, shared: SharedBuckets | None = None
    ) -> None:
        """Create them. `processes` divide the limits, unless `shared` has the buckets that they share."""
        self._clock = clock
        self._account = account
        self._processes = processes
        self.shared = shared
        self._accounts: dict[int, LimitGroup] = {}
        self._keys: dict[str, LimitGroup] = {}
        self._limits_work = any((account.tokens_per_minute, account.dollars_per_minute, account.streams))

    def count(self, caller: Caller) -> tuple[Headers, RateLimited | None]:
        """Count one request. Return the rate-limit headers, and the error if a limit is exceeded."""
        now_s = self._clock.steady_s()
        account = self._accounts.get(caller.account_id)
        if account is not None and caller.rules is None and account.tokens is None:
            bucket = account.requests
            if type(bucket) is TokenBucket:
                return _count_one(account, bucket, now_s)
        groups = self._groups(caller)
        limited = [group for group in groups if group.requests is not None]
        refusal = None
        for group in limited:
            assert group.requests is not None
            if (wait_s := group.requests.wait_s(1, now_s)) > 0:
                refusal = _refusal(group, f"{group.requests.limit} requests per minute", wait_s)
                break
        else:
            for group in limited:
                assert group.requests is not None
                group.requests.consume(1, now_s)
        return _headers(groups, now_s), refusal

    async def prepare(self, caller: Caller) -> None:
        """Draw from the shared buckets what `count` needs. Raises Overloaded."""
        for group in self._groups(caller):
            if isinstance(group.requests, LeasedBucket):
                await group.requests.prepare(1, 1)

    async def prepare_work(self, caller: Caller, *, tokens: int, dollars: int) -> None:
        """Draw from the shared buckets what `reserve` needs. Raises Overloaded."""
        for group in self._groups(caller):
            for bucket, units in ((group.tokens, tokens), (group.dollars, dollars)):
                if isinstance(bucket, LeasedBucket) and units:
                    await bucket.prepare(units, min(units, bucket.limit))
        # Until none of them took any time: meanwhile, other requests may have occupied free slots.
        while any([await group.slots.prepare() for group in self._groups(caller) if group.slots is not None]):
            continue

    def applies_to(self, caller: Caller) -> bool:
        """Return True if paid work of this caller is limited, so that it must `reserve` and `release`."""
        return self._limits_work or caller.rules is not None

    def reserve(self, caller: Caller, *, tokens: int, dollars: int) -> UsageReservation:
        """Reserve at most this many tokens and nano-dollars for paid work. Raises RateLimited."""
        now_s, groups = self._clock.steady_s(), self._groups(caller)
        for group in groups:
            if group.rate.streams and group.in_flight >= self._streams_of(group):
                raise RateLimited(
                    f"{group.owner} may have {group.rate.streams} requests in progress. Wait until one finishes.",
                    retry_after_s=1,
                )
            for bucket, units, unit in ((group.tokens, tokens, "tokens"), (group.dollars, dollars, "dollars")):
                if bucket is not None and units and (wait_s := bucket.wait_s(min(units, bucket.limit), now_s)) > 0:
                    much = str(bucket.limit) if unit == "tokens" else f"{bucket.limit / 10**9:g}"
                    raise _refusal(group, f"{much} {unit} per minute", wait_s)
        for group in groups:
            group.in_flight += 1
            if group.slots is not None:
                group.slots.occupy()
            _consume(group, tokens, dollars, now_s)
        return UsageReservation(groups, tokens, dollars)

    def release(self, reservation: UsageReservation, *, tokens: int, dollars: int) -> None:
        """Replace a reservation by what the work really used."""
        now_s = self._clock.steady_s()
        for group in reservation.groups:
            group.in_flight -= 1
            if group.slots is not None:
                group.slots.free()
            _consume(group, tokens - reservation.tokens, dollars - reservation.dollars, now_s)

    def _streams_of(self, group: LimitGroup) -> int:
        """Return how many requests in progress this process may have."""
        if group.slots is not None:
            return group.slots.held
        return max(1, (group.rate.streams or 0) // self._processes)

    @property
    def of_accounts(self) -> RateLimits:
        """Return the limits that each account has."""
        return self._account

    def states(
        self, name: str, rate: RateLimits, full_us: Mapping[str, int], slots: Mapping[str, int]
    ) -> list[LimitState]:
        """Return the limits of `account ID` or `key FAMILY` and the units left, without counting anything.

        `full_us`: the rows of shared buckets by name, with the time at which each is full again. `slots`: the requests
        in progress by name, of all processes.
        """
        kind, _, number = name.partition(" ")
        group = self._accounts.get(int(number)) if kind == "account" else self._keys.get(number)
        limits: tuple[tuple[LimitKind, int | None], ...] = (
            ("requests", rate.requests_per_minute),
            ("tokens", rate.tokens_per_minute),
            ("dollars", rate.dollars_per_minute),
        )
        found = [
            LimitState(unit, limit, *self._left_of(f"{name}/{unit}", limit, getattr(group, unit, None), full_us))
            for unit, limit in limits
            if limit
        ]
        if rate.streams:
            in_flight = slots.get(f"{name}/streams", 0)
            if self.shared is None and group is not None:
                in_flight = group.in_flight * self._processes
            found.append(LimitState("streams", rate.streams, max(0, rate.streams - in_flight), 0.0))
        return found

    def _left_of(self, name: str, limit: int, bucket: Bucket | None, full_us: Mapping[str, int]) -> tuple[int, float]:
        """Return the units of a bucket that are left, and the seconds until it is full."""
        if self.shared is not None:
            missing_s = max(0.0, full_us.get(name, 0) / 1e6 - self._clock.lease_ms() / 1000)
            held = bucket.held if isinstance(bucket, LeasedBucket) else 0
            left = min(limit, int(limit - missing_s * limit / MINUTE_S + 1e-6) + held)
            return max(0, left), missing_s
        if bucket is None or bucket.limit != max(1, limit // self._processes):
            return limit, 0.0
        # Each process has counted about the same share of the requests.
        now_s = self._clock.steady_s()
        return min(limit, bucket.remaining(now_s) * self._processes), max(0.0, bucket.full_in_s(now_s))

    def _groups(self, caller: Caller) -> tuple[LimitGroup, ...]:
        account = self._accounts.get(caller.account_id)
        if account is None:
            self._evict_idle()
            account = self._accounts[caller.account_id] = LimitGroup(
                "This account", self._account, f"account {caller.account_id}", self._bucket, self._slots
            )
        if caller.rules is None or caller.rules.rate == RateLimits():
            return (account,)
        key = self._keys.get(caller.rotation_group)
        if key is None or key.rate != caller.rules.rate:
            key = self._keys[caller.rotation_group] = LimitGroup(
                "This key", caller.rules.rate, f"key {caller.rotation_group}", self._bucket, self._slots
            )
        return (key, account)

    def _bucket(self, name: str, limit: int) -> Bucket:
        if self.shared is not None:
            return self.shared.bucket(name, limit)
        return TokenBucket(max(1, limit // self._processes))

    def _slots(self, name: str, limit: int) -> LeasedSlots | None:
        return None if self.shared is None else self.shared.slots(name, limit)

    def _evict_idle(self) -> None:
        if len(self._accounts) + len(self._keys) < MAX_TRACKED:
            return
        now_s = self._clock.steady_s()
        self._accounts = {name: group for name, group in self._accounts.items() if not group.is_idle(now_s)}
        self._keys = {name: group for name, group in self._keys.items() if not group.is_idle(now_s)}


def _consume(group: LimitGroup, tokens: int, dollars: int, now_s: float) -> None:
    if group.tokens is not None:
        group.tokens.consume(tokens, now_s)
    if group.dollars is not None:
        group.dollars.consume(dollars, now_s)


def _refusal(group: LimitGroup, limit: str, wait_s: float) -> RateLimited:
    seconds = max(1, math.ceil(wait_s))
    return RateLimited(f"{group.owner} is limited to {limit}. Try again in {seconds} s.", retry_after_s=seconds)


def _count_one(group: LimitGroup, bucket: TokenBucket, now_s: float) -> tuple[Headers, RateLimited | None]:
    """Count a request that only one bucket limits, which is the common case.

    Written out instead of calling TokenBucket's methods, because every request runs it.
    """
    empty_s = max(bucket.empty_s, now_s) + bucket.unit_s
    left_s = MINUTE_S - (empty_s - now_s)
    refusal = None
    if left_s < -1e-6:
        refusal = _refusal(group, f"{bucket.limit} requests per minute", -left_s)
        empty_s, left_s = bucket.empty_s, 0.0
    bucket.empty_s = empty_s
    reset_s = empty_s - now_s
    headers = [
        bucket.limit_header,
        (b"x-ratelimit-remaining-requests", b"%d" % (left_s / bucket.unit_s + 1e-6)),
        (b"x-ratelimit-reset-requests", b"%dms" % (reset_s * 1000 + 0.5) if reset_s < 0.999 else _duration(reset_s)),
    ]
    return headers, refusal


def _headers(groups: tuple[LimitGroup, ...], now_s: float) -> Headers:
    """Return OpenAI's `x-ratelimit-*` headers for the group with the least left: the key or its account."""
    headers: Headers = []
    for kind in ("requests", "tokens"):
        buckets = [bucket for group in groups if (bucket := getattr(group, kind)) is not None]
        if buckets:
            bucket = min(buckets, key=lambda bucket: bucket.remaining(now_s))
            headers += [
                (f"x-ratelimit-limit-{kind}".encode(), str(bucket.limit).encode()),
                (f"x-ratelimit-remaining-{kind}".encode(), str(bucket.remaining(now_s)).encode()),
                (f"x-ratelimit-reset-{kind}".encode(), _duration(bucket.full_in_s(now_s))),
            ]
    return headers


def _duration(seconds: float) -> bytes:
    """Format a duration as OpenAI does: `60ms`, `1.5s`, `6m0s`."""
    ms = max(0, round(seconds * 1000))
    if ms < 1000:
        return f"{ms}ms".encode()
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes}m{ms // 1000}s".encode() if minutes else f"{ms / 1000:g}s".encode()


# ── throttling of sign-ins, sign-ups and vouchers ──────────────────────────────────────────────────────────────────


class Limit(msgspec.Struct, frozen=True):
    """At most `most` attempts at a time, then one every `per_s / most` seconds."""

    most: int
    per_s: float


class Throttle:
    """Limit attempts by key, such as an e-mail address or a client address: one token bucket per key."""

    def __init__(
        self,
        clock: Clock,
        factor: int = 1,
        *,
        most_tracked: int = MAX_TRACKED,
        shared: SharedBuckets | None = None,
    ) -> None:
        self._clock = clock
        self._shared = shared
        self._factor = max(factor, 1)
        self._most_tracked = most_tracked
        self._buckets: dict[str, TokenBucket] = {}

    def wait_s(self, key: str, limit: Limit) -> int:
        """Return 0 if another attempt is allowed now, and count it. Otherwise return the whole seconds to wait."""
        now_s = self._clock.steady_s()
        bucket = self._buckets.get(key)
        if bucket is None:
            self._evict_full(now_s)
            bucket = self._buckets[key] = TokenBucket(limit.most * self._factor, limit.per_s)
        if (wait_s := bucket.wait_s(1, now_s)) > 0:
            return math.ceil(wait_s)
        bucket.consume(1, now_s)
        return 0

    async def wait(self, key: str, limit: Limit) -> int:
        """Do what `wait_s` does, for all processes together if they share a database."""
        if (wait_s := self.wait_s(key, limit)) or self._shared is None:
            return wait_s
        most = limit.most * self._factor
        drawn = await self._shared.draw(Draw(bucket_name("tries", key), 1, 1, most, round(limit.per_s * 1e6)))
        return math.ceil(drawn.wait_us / 1e6)

    async def forgive(self, key: str) -> None:
        """Forget the attempts of this key, after one that succeeded, in all processes together."""
        self.reset(key)
        if self._shared is not None:
            await self._shared.refill(bucket_name("tries", key))

    def _evict_full(self, now_s: float) -> None:
        """Make room. The emptiest buckets stay, so that a limit is not lifted by filling the memory with others."""
        if len(self._buckets) < self._most_tracked:
            return
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if bucket.empty_s > now_s}
        if len(self._buckets) >= self._most_tracked:
            emptiest = sorted(self._buckets.items(), key=lambda item: item[1].empty_s - now_s, reverse=True)
            self._buckets = dict(emptiest[: self._most_tracked // 2])

    def reset(self, key: str) -> None:
        """Forget the attempts of this key, after one that succeeded."""
        self._buckets.pop(key, None)


def network_of(address: str) -> str:
    """Return the network that one client controls: an IPv4 address, or the /64 of an IPv6 address."""
    return networks_of(address)[0]


def networks_of(address: str) -> tuple[str, ...]:
    """Return the networks around a client, the smallest first: IPv4 itself, /24 and /16; IPv6 /64, /48 and /32."""
    try:
        found = ip_address(address)
    except ValueError:
        return (address[:45],)
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is None:
            return tuple(str(ip_network((int(found), size), strict=False)) for size in (64, 48, 32))
        found = found.ipv4_mapped
    return str(found), *(str(ip_network(f"{found}/{size}", strict=False)) for size in (24, 16))


#: Seconds by which one recent failure delays the next attempt, and the most: by the client's own network, the networks
#: around it, and the account. More than a waiting time, so that a first attempt goes before those that wait.
FAILURE_DELAYS_S = ((10.0, 120.0), (4.0, 120.0), (1.0, 60.0))
ACCOUNT_DELAY_S = (2.0, 60.0)
FAILURE_HALF_LIFE_S = 300.0


class Failures:
    """Count recent failed sign-ins by network and account. Who failed often goes later where many wait for a turn.

    An attempt counts as failed from its beginning until it succeeds, so a burst delays itself, too. No attempt is
    refused by this, and none is slowed down while no other waits.
    """

    def __init__(self, clock: Clock, *, most_tracked: int = MAX_TRACKED) -> None:
        self._clock = clock
        self._most_tracked = most_tracked
        self._counts: dict[str, tuple[float, float]] = {}

    def begin(self, address: str, account: str) -> float:
        """Count an attempt, and return by how many seconds it goes after others that arrive at the same time.

        The account counts whether it exists or not.
        """
        delay_s = self.delay_s(address, account)
        if len(self._counts) >= self._most_tracked:
            now_s = self._clock.steady_s()
            largest = sorted(self._counts, key=lambda key: self._count(key, now_s), reverse=True)
            self._counts = {key: self._counts[key] for key in largest[: self._most_tracked // 2]}
        self._add(address, account, 1.0)
        return delay_s

    def succeed(self, address: str, account: str) -> None:
        """Take back an attempt that succeeded."""
        self._add(address, account, -1.0)

    def delay_s(self, address: str, account: str) -> float:
        """Return the delay of an attempt without counting it."""
        now_s = self._clock.steady_s()
        networks = zip(networks_of(address), FAILURE_DELAYS_S, strict=False)
        delays = [min(self._count(key, now_s) * each_s, most_s) for key, (each_s, most_s) in networks]
        return sum(delays) + min(self._count(f"account {account}", now_s) * ACCOUNT_DELAY_S[0], ACCOUNT_DELAY_S[1])

    def _add(self, address: str, account: str, change: float) -> None:
        now_s = self._clock.steady_s()
        for key in (*networks_of(address), f"account {account}"):
            self._counts[key] = max(0.0, self._count(key, now_s) + change), now_s

    def _count(self, key: str, now_s: float) -> float:
        count, at_s = self._counts.get(key, (0.0, now_s))
        return count * math.pow(0.5, (now_s - at_s) / FAILURE_HALF_LIFE_S)


def build_limits(settings: Settings, clock: Clock, shared: SharedBuckets | None = None) -> Limits:
    """Return the limits of every account. Raises SettingsError."""
    dollars = None
    if settings.dollars_per_minute:
        try:
            dollars = parse_dollars(settings.dollars_per_minute)
        except ValueError as error:
            raise SettingsError(f"MINITOOLAI_DOLLARS_PER_MINUTE is wrong: {error}") from error
    rate = RateLimits(settings.requests_per_minute, settings.tokens_per_minute, dollars, settings.streams)
    return Limits(clock, rate, processes=settings.workers, shared=shared)
