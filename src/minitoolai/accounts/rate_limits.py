"""How much an account and a key may ask for in a minute, and at once. In the memory of one process.

The generic cell rate algorithm: a meter is full after a minute of silence and gives what it has, all at once if
need be; then so much as flows back. Where several processes serve one database, each is given its share of every limit.
"""

from __future__ import annotations

import math

import msgspec

from minitoolai.core.clock import Clock
from minitoolai.core.errors import RateLimited, SettingsError
from minitoolai.core.models import Caller, RateLimits
from minitoolai.core.money import parse_dollars
from minitoolai.settings import Settings

Headers = list[tuple[bytes, bytes]]
MINUTE_S = 60.0
#: Accounts and keys remembered at once; beyond that, those whose meters are full again are forgotten.
LARGEST_MEMORY = 50_000


class TokenBucket:
    """So many units a minute. `empty_s` is the moment at which all of them would be back."""

    __slots__ = ("empty_s", "limit", "limit_header", "unit_s")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.limit_header = (b"x-ratelimit-limit-requests", str(limit).encode())
        self.unit_s = MINUTE_S / limit
        self.empty_s = 0.0

    def wait_s(self, units: int, now_s: float) -> float:
        """0 where so many are there, else seconds until they are; more than a minute's are never there."""
        # A microsecond of grace, for sums of binary fractions.
        return max(self.empty_s, now_s) + units * self.unit_s - now_s - MINUTE_S - 1e-6

    def take(self, units: int, now_s: float) -> None:
        """They are used. A negative number gives back."""
        self.empty_s = max(self.empty_s, now_s) + units * self.unit_s

    def left(self, now_s: float) -> int:
        """Units that are there."""
        return max(0, int((MINUTE_S - max(0.0, self.empty_s - now_s)) / self.unit_s + 1e-6))


class LimitGroup:
    """The meters of one account or one key."""

    __slots__ = ("at_work", "dollars", "rate", "requests", "tokens", "what")

    def __init__(self, what: str, rate: RateLimits, processes: int) -> None:
        self.what = what
        self.rate = rate
        self.requests = _meter(rate.requests_per_minute, processes)
        self.tokens = _meter(rate.tokens_per_minute, processes)
        self.dollars = _meter(rate.dollars_per_minute, processes)
        self.at_work = 0

    def is_idle(self, now_s: float) -> bool:
        """Nothing would be lost with it."""
        meters = (self.requests, self.tokens, self.dollars)
        return not self.at_work and all(meter is None or meter.empty_s <= now_s for meter in meters)


class UsageReservation(msgspec.Struct, frozen=True):
    """What one piece of work took before it began, to be corrected at its end."""

    shares: tuple[LimitGroup, ...]
    tokens: int
    dollars: int


class Limits:
    """Asked before every request, and before and after all paid work."""

    def __init__(self, clock: Clock, account: RateLimits, *, processes: int = 1) -> None:
        self._clock = clock
        self._account = account
        self._processes = processes
        self._accounts: dict[int, LimitGroup] = {}
        self._keys: dict[str, LimitGroup] = {}
        self._measures_work = any((account.tokens_per_minute, account.dollars_per_minute, account.streams))

    def count(self, caller: Caller) -> tuple[Headers, RateLimited | None]:
        """One request: the headers that tell what is left, and the refusal where nothing is."""
        now_s = self._clock.steady_s()
        account = self._accounts.get(caller.account_id)
        if account is not None and caller.rules is None and account.tokens is None and account.requests is not None:
            return _count_one(account, account.requests, now_s)
        shares = self._shares(caller)
        metered = [share for share in shares if share.requests is not None]
        refusal = None
        for share in metered:
            assert share.requests is not None
            if (wait_s := share.requests.wait_s(1, now_s)) > 0:
                refusal = _refusal(share, f"{share.requests.limit} requests a minute", wait_s)
                break
        else:
            for share in metered:
                assert share.requests is not None
                share.requests.take(1, now_s)
        return _headers(shares, now_s), refusal

    def measures_work_of(self, caller: Caller) -> bool:
        """Whether paid work may meet a limit of this caller's, and so is to `begin` and `end` here."""
        return self._measures_work or caller.rules is not None

    def begin(self, caller: Caller, *, tokens: int, dollars: int) -> UsageReservation:
        """Paid work of at most so many tokens and nano-dollars. RateLimited."""
        now_s, shares = self._clock.steady_s(), self._shares(caller)
        for share in shares:
            if share.rate.streams and share.at_work >= max(1, share.rate.streams // self._processes):
                raise RateLimited(
                    f"{share.what} may have {share.rate.streams} answers under way at once", retry_after_s=1
                )
            for meter, units, unit in ((share.tokens, tokens, "tokens"), (share.dollars, dollars, "dollars")):
                if meter is not None and units and (wait_s := meter.wait_s(min(units, meter.limit), now_s)) > 0:
                    much = str(meter.limit) if unit == "tokens" else f"{meter.limit / 10**9:g}"
                    raise _refusal(share, f"{much} {unit} a minute", wait_s)
        for share in shares:
            share.at_work += 1
            _take(share, tokens, dollars, now_s)
        return UsageReservation(shares, tokens, dollars)

    def end(self, taken: UsageReservation, *, tokens: int, dollars: int) -> None:
        """What it really was."""
        now_s = self._clock.steady_s()
        for share in taken.shares:
            share.at_work -= 1
            _take(share, tokens - taken.tokens, dollars - taken.dollars, now_s)

    def _shares(self, caller: Caller) -> tuple[LimitGroup, ...]:
        account = self._accounts.get(caller.account_id)
        if account is None:
            self._make_room()
            account = self._accounts[caller.account_id] = LimitGroup("this account", self._account, self._processes)
        if caller.rules is None or caller.rules.rate == RateLimits():
            return (account,)
        key = self._keys.get(caller.rotation_group)
        if key is None or key.rate != caller.rules.rate:
            key = self._keys[caller.rotation_group] = LimitGroup("this key", caller.rules.rate, self._processes)
        return (key, account)

    def _make_room(self) -> None:
        if len(self._accounts) + len(self._keys) < LARGEST_MEMORY:
            return
        now_s = self._clock.steady_s()
        self._accounts = {name: share for name, share in self._accounts.items() if not share.is_idle(now_s)}
        self._keys = {name: share for name, share in self._keys.items() if not share.is_idle(now_s)}


def _meter(limit: int | None, processes: int) -> TokenBucket | None:
    return TokenBucket(max(1, limit // processes)) if limit else None


def _take(share: LimitGroup, tokens: int, dollars: int, now_s: float) -> None:
    if share.tokens is not None:
        share.tokens.take(tokens, now_s)
    if share.dollars is not None:
        share.dollars.take(dollars, now_s)


def _refusal(share: LimitGroup, limit: str, wait_s: float) -> RateLimited:
    seconds = max(1, math.ceil(wait_s))
    return RateLimited(f"{share.what} may have {limit}; come back in {seconds} s", retry_after_s=seconds)


def _count_one(share: LimitGroup, meter: TokenBucket, now_s: float) -> tuple[Headers, RateLimited | None]:
    """As most requests are: one meter, nothing to compare it with. Written out, for every request comes by here."""
    empty_s = max(meter.empty_s, now_s) + meter.unit_s
    left_s = MINUTE_S - (empty_s - now_s)
    refusal = None
    if left_s < -1e-6:
        refusal = _refusal(share, f"{meter.limit} requests a minute", -left_s)
        empty_s, left_s = meter.empty_s, 0.0
    meter.empty_s = empty_s
    reset_s = empty_s - now_s
    headers = [
        meter.limit_header,
        (b"x-ratelimit-remaining-requests", b"%d" % (left_s / meter.unit_s + 1e-6)),
        (b"x-ratelimit-reset-requests", b"%dms" % (reset_s * 1000 + 0.5) if reset_s < 0.999 else _duration(reset_s)),
    ]
    return headers, refusal


def _headers(shares: tuple[LimitGroup, ...], now_s: float) -> Headers:
    """`x-ratelimit-*` as OpenAI names them, of whichever has the least left: the key or its account."""
    headers: Headers = []
    for kind in ("requests", "tokens"):
        meters = [meter for share in shares if (meter := getattr(share, kind)) is not None]
        if meters:
            meter = min(meters, key=lambda meter: meter.left(now_s))
            headers += [
                (f"x-ratelimit-limit-{kind}".encode(), str(meter.limit).encode()),
                (f"x-ratelimit-remaining-{kind}".encode(), str(meter.left(now_s)).encode()),
                (f"x-ratelimit-reset-{kind}".encode(), _duration(meter.empty_s - now_s)),
            ]
    return headers


def _duration(seconds: float) -> bytes:
    """As OpenAI writes it: `60ms`, `1.5s`, `6m0s`."""
    ms = max(0, round(seconds * 1000))
    if ms < 1000:
        return f"{ms}ms".encode()
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes}m{ms // 1000}s".encode() if minutes else f"{ms / 1000:g}s".encode()


# (merged from attempts) How often something may be tried: sign-ins, sign-ups, vouchers. In memory; each process counts for itself.


class Limit(msgspec.Struct, frozen=True):
    """At most `most` at once, and then again one every `per_s / most` seconds."""

    most: int
    per_s: float


class Throttle:
    """Counts tries by key (the generic cell rate algorithm: one number a key)."""

    def __init__(self, clock: Clock, factor: int = 1) -> None:
        self._clock = clock
        self._factor = max(factor, 1)
        self._full_at_s: dict[str, float] = {}

    def wait_s(self, key: str, limit: Limit) -> int:
        """0 where another try is allowed now (it is counted), else in how many whole seconds."""
        now_s = self._clock.steady_s()
        step_s = limit.per_s / (limit.most * self._factor)
        at_s = max(self._full_at_s.get(key, now_s), now_s) + step_s
        if at_s - now_s > limit.per_s + step_s / 2:
            return math.ceil(at_s - now_s - limit.per_s)
        if len(self._full_at_s) >= LARGEST_MEMORY:
            self._full_at_s = {k: v for k, v in self._full_at_s.items() if v > now_s}
            if len(self._full_at_s) >= LARGEST_MEMORY:
                self._full_at_s.clear()
        self._full_at_s[key] = at_s
        return 0

    def forgive(self, key: str) -> None:
        """Forget the tries of this key: it came right."""
        self._full_at_s.pop(key, None)


def build_limits(settings: Settings, clock: Clock) -> Limits:
    """Return the limits that apply to every account of this process. Raises SettingsError."""
    dollars = None
    if settings.dollars_per_minute:
        try:
            dollars = parse_dollars(settings.dollars_per_minute)
        except ValueError as error:
            raise SettingsError(f"MINITOOLAI_DOLLARS_PER_MINUTE is wrong: {error}") from error
    rate = RateLimits(settings.requests_per_minute, settings.tokens_per_minute, dollars, settings.streams)
    return Limits(clock, rate, processes=settings.workers)
