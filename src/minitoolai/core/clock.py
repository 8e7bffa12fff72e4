"""The only source of time, identifiers and randomness, so that a test can fix all three."""

from __future__ import annotations

import random
import secrets
import time
from functools import lru_cache
from typing import Protocol

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
MS_PER_DAY = 86_400_000
_EPOCH_MS = 1_700_000_000_000
_RANDOM_BITS = 21
#: Where several processes share a database, this many of the bits above are the number of the process.
_NUMBER_BITS = 8
_LEFT_BITS = _RANDOM_BITS - _NUMBER_BITS


def first_id_at(ms: int) -> int:
    """A number that no identifier drawn since that moment is below: they sort by time, so rows are found by it."""
    return max(ms - _EPOCH_MS, 0) << _RANDOM_BITS


class Clock(Protocol):
    """Wall time for records, steady time for durations, and names for new rows."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""

    def steady_s(self) -> float:
        """Seconds that only ever go forward; the origin means nothing."""

    def new_id(self) -> int:
        """A 63-bit identifier that sorts roughly by time and is never handed out twice by one process."""


class SystemClock:
    """The machine's own clock and random source."""

    def __init__(self) -> None:
        self._last_id = 0
        #: Ours among the processes on a shared database: no two then draw the same identifier.
        self.process_number: int | None = None

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    #: As it is, without a frame of ours around it: each request asks a handful of times.
    steady_s = staticmethod(time.monotonic)

    def new_id(self) -> int:
        stamp = (self.now_ms() - _EPOCH_MS) << _RANDOM_BITS
        # A burst within one millisecond, or a clock set back, still moves forward.
        # The random bits keep processes apart; nothing is secret about them, so no system call is spent.
        if self.process_number is None:
            self._last_id = max(stamp | random.getrandbits(_RANDOM_BITS), self._last_id + 1)
            return self._last_id
        ours = self.process_number << _LEFT_BITS
        following = self._last_id + 1
        if (following >> _LEFT_BITS) % (1 << _NUMBER_BITS) != self.process_number:
            # Past our share of this millisecond: go on in the next one.
            following = ((self._last_id >> _RANDOM_BITS) + 1) << _RANDOM_BITS | ours
        self._last_id = max(stamp | ours | random.getrandbits(_LEFT_BITS), following)
        return self._last_id


def random_text(length: int) -> str:
    """Letters and digits, unguessable: 5.95 bits a character."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def random_bytes(length: int) -> bytes:
    """Unguessable bytes, for keys."""
    return secrets.token_bytes(length)


def jitter_s(least_s: float, most_s: float) -> float:
    """Seconds to wait, drawn anew each time, so that those who failed together do not come back together."""
    return random.uniform(least_s, most_s)


def base62(number: int, width: int = 1) -> str:
    """A non-negative integer in letters and digits, padded with zeros to `width`."""
    text = ""
    while number:
        number, digit = divmod(number, 62)
        text = ALPHABET[digit] + text
    return text.rjust(width, ALPHABET[0])


def from_base62(text: str) -> int:
    """The inverse of `base62`; ValueError on a foreign character."""
    number = 0
    for character in text:
        number = number * 62 + ALPHABET.index(character)
    return number


def created_ms(identifier: int) -> int:
    """When an identifier of ours was drawn, in milliseconds since 1970."""
    return (identifier >> _RANDOM_BITS) + _EPOCH_MS


def generation_name(generation_id: int) -> str:
    """The public name of a generation, as in the header `x-generation-id`."""
    # Every request comes by here: the five digits that change twice a minute are remembered.
    early, late = divmod(generation_id, 62**6)
    late, last = divmod(late, len(_PAIRS))
    return _first_digits(early) + _PAIRS[late // len(_PAIRS)] + _PAIRS[late % len(_PAIRS)] + _PAIRS[last]


@lru_cache(maxsize=256)
def _first_digits(early: int) -> str:
    return "gen-" + base62(early, 5)


def parse_generation_name(name: str) -> int | None:
    """The identifier inside `gen-…`, or None for anything else."""
    prefix, text = name[:4], name[4:]
    if prefix != "gen-" or not 1 <= len(text) <= 11 or not text.isascii() or not text.isalnum():
        return None
    number = from_base62(text)
    return number if number < 2**63 else None


def random_number(bits: int) -> int:
    """An unguessable number below 2 to the power of `bits`."""
    return secrets.randbits(bits)
