"""Clock, IDs and randomness: the only source of each, so that tests can control all three."""

from __future__ import annotations

import datetime as dt
import random
import secrets
import time
from functools import lru_cache
from typing import Protocol

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
MS_PER_DAY = 86_400_000
#: An ID may be made this long before its row is written.
ID_SLACK_MS = 3_600_000
_EPOCH_MS = 1_700_000_000_000
_RANDOM_BITS = 21
#: On a shared database, this many of the random bits hold the process number instead.
_PROCESS_BITS = 8
_LEFT_BITS = _RANDOM_BITS - _PROCESS_BITS


def first_id_at(ms: int) -> int:
    """Return a lower bound for the IDs made since this time. IDs sort by time, so rows can be found by it."""
    return max(ms - _EPOCH_MS, 0) << _RANDOM_BITS


class Clock(Protocol):
    """Wall time for records, monotonic time for durations, the time of leases, and IDs for new rows."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970, UTC."""

    def steady_s(self) -> float:
        """Return monotonic seconds with an arbitrary origin."""

    def lease_ms(self) -> int:
        """Return milliseconds on the clock for leases, which is never this machine's wall clock.

        With a shared database it is the database server's clock, in all processes; else the monotonic clock.
        """

    def new_id(self) -> int:
        """Return a 63-bit ID that sorts roughly by time and is unique within this process."""


class SystemClock:
    """Clock and random source of the machine."""

    def __init__(self) -> None:
        self._last_id = 0
        #: Database server's clock minus the monotonic clock; 0 if the database is not shared.
        self._lease_offset_ms = 0
        #: Number of this process on a shared database: two processes never make the same ID.
        self.process_number: int | None = None

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    #: The builtin itself, without a Python frame around it: each request calls it several times.
    steady_s = staticmethod(time.monotonic)

    def lease_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000 + self._lease_offset_ms

    def follow(self, server_ms: int, steady_s: float) -> None:
        """Keep leases in the database server's time, which was `server_ms` at this monotonic time or just after it.

        May be called from any thread.
        """
        self._lease_offset_ms = server_ms - int(steady_s * 1000)

    def new_id(self) -> int:
        stamp = (self.now_ms() - _EPOCH_MS) << _RANDOM_BITS
        # IDs increase even in a burst within one millisecond or after the clock was set back.
        # The random bits keep processes apart. They are not secret, so they need no system call.
        if self.process_number is None:
            self._last_id = max(stamp | random.getrandbits(_RANDOM_BITS), self._last_id + 1)
            return self._last_id
        prefix = self.process_number << _LEFT_BITS
        following = self._last_id + 1
        if (following >> _LEFT_BITS) % (1 << _PROCESS_BITS) != self.process_number:
            # The range of this process in this millisecond is used up: continue in the next one.
            following = ((self._last_id >> _RANDOM_BITS) + 1) << _RANDOM_BITS | prefix
        self._last_id = max(stamp | prefix | random.getrandbits(_LEFT_BITS), following)
        return self._last_id


def wall_s() -> float:
    """Return seconds since 1970 on this machine's clock, to compare it with another clock or with a file's age."""
    return time.time()


def random_text(length: int) -> str:
    """Return unguessable letters and digits, 5.95 bits per character."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def random_bytes(length: int) -> bytes:
    """Return unguessable bytes, for keys."""
    return secrets.token_bytes(length)


def jitter_s(least_s: float, most_s: float) -> float:
    """Return a random wait (jitter), so that clients that failed together do not retry together."""
    return random.uniform(least_s, most_s)


def base62(number: int, width: int = 1) -> str:
    """Encode a non-negative integer in letters and digits, padded with zeros to `width`."""
    text = ""
    while number:
        number, digit = divmod(number, 62)
        text = ALPHABET[digit] + text
    return text.rjust(width, ALPHABET[0])


def from_base62(text: str) -> int:
    """Decode `base62`. Raise ValueError on any other character."""
    number = 0
    for character in text:
        number = number * 62 + ALPHABET.index(character)
    return number


def date_of(day: int) -> str:
    """Return a day, counted from 1970 in UTC, as in `2026-01-31`."""
    return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()


def created_ms(identifier: int) -> int:
    """Return when an ID was made, in milliseconds since 1970."""
    return (identifier >> _RANDOM_BITS) + _EPOCH_MS


def generation_name(generation_id: int) -> str:
    """Return the public ID of a generation, as in the header `x-generation-id`."""
    # Called for every request: cache the five digits that change only twice a minute.
    early, late = divmod(generation_id, 62**6)
    late, last = divmod(late, len(_PAIRS))
    return _first_digits(early) + _PAIRS[late // len(_PAIRS)] + _PAIRS[late % len(_PAIRS)] + _PAIRS[last]


@lru_cache(maxsize=256)
def _first_digits(early: int) -> str:
    return "gen-" + base62(early, 5)


def parse_generation_name(name: str) -> int | None:
    """Return the ID in `gen-…`, or None for any other text."""
    prefix, text = name[:4], name[4:]
    if prefix != "gen-" or not 1 <= len(text) <= 11 or not text.isascii() or not text.isalnum():
        return None
    number = from_base62(text)
    return number if number < 2**63 else None


def random_number(bits: int) -> int:
    """Return an unguessable number below 2 to the power of `bits`."""
    return secrets.randbits(bits)
