"""Parse and format money: a 64-bit count of nano-dollars, never a float."""

from __future__ import annotations

import re
from decimal import Decimal

NANO_PER_DOLLAR = 1_000_000_000
#: Largest single amount: $1,000,000,000. The sum of nine of them still fits in 64 bits.
LARGEST_NANO = 10**9 * NANO_PER_DOLLAR
#: Largest sum of all credits: $4,000,000,000. The audit adds all credits and all charges: twice this fits in 64 bits.
LARGEST_TOTAL_NANO = 4 * LARGEST_NANO
#: Highest price: one dollar per unit. The cost of any request then fits in 64 bits.
LARGEST_PRICE_NANO = NANO_PER_DOLLAR
_PLAIN = re.compile(r"[0-9]{1,15}(\.[0-9]+)?")


def parse_dollars(text: str) -> int:
    """Convert `"5.00"` to 5_000_000_000 nano-dollars.

    Raise ValueError, with a message for the user, unless it is a positive decimal number with at most nine places.
    """
    plain = text.strip().removeprefix("$")
    if _PLAIN.fullmatch(plain.removeprefix("-")) is None:
        raise ValueError(f"{text!r} is not an amount in dollars; write it like 5.00")
    amount = Decimal(plain)
    if amount <= 0:
        raise ValueError(f"{text!r} must be more than zero dollars")
    if amount > LARGEST_NANO // NANO_PER_DOLLAR:
        raise ValueError(f"{text!r} is more than the largest amount, $1,000,000,000")
    if len(_decimals(plain)) > 9:
        raise ValueError(f"{text!r} has more than nine decimal places; a nano-dollar is the smallest unit")
    return int(amount * NANO_PER_DOLLAR)


def format_dollars(nano: int) -> str:
    """Convert 4_998_500_000 to `"4.998500000"`. Always nine places, so that a column lines up."""
    sign = "-" if nano < 0 else ""
    whole, fraction = divmod(abs(nano), NANO_PER_DOLLAR)
    return f"{sign}{whole}.{fraction:09d}"


def short_dollars(nano: int) -> str:
    """Convert 10_000_000_000 to `"10.00"` and 14_400 to `"0.0000144"`: exact, for messages."""
    whole, _, fraction = format_dollars(nano).partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def format_pico(pico: int) -> str:
    """Convert 37_500 pico-dollars to `"0.000000037500"`. Always twelve places."""
    whole, fraction = divmod(pico, NANO_PER_DOLLAR * 1000)
    return f"{whole}.{fraction:012d}"


def price_per_unit(dollars_per_million: str) -> int:
    """Convert a price in dollars per million units to pico-dollars per unit.

    Raise ValueError unless the result is whole.
    """
    if _PLAIN.fullmatch(dollars_per_million) is None:
        raise ValueError(f"{dollars_per_million!r} is not a price; write it like 0.15")
    pico = Decimal(dollars_per_million) * 10**6
    if len(_decimals(dollars_per_million)) > 6 or pico > LARGEST_PRICE_NANO * 1000:
        text = f"{dollars_per_million!r} per million"
        raise ValueError(f"{text} is not a whole number of pico-dollars per unit, at most $1")
    return int(pico)


def price_per_character(dollars_per_million: str) -> int:
    """Convert a price in dollars per million characters to nano-dollars per character.

    Raise ValueError unless the result is whole.
    """
    pico = price_per_unit(dollars_per_million)
    if pico % 1000:
        raise ValueError(f"{dollars_per_million!r} per million is not a whole number of nano-dollars per unit")
    return pico // 1000


def price_per_request(dollars: str) -> int:
    """Convert a fee in dollars per request to pico-dollars.

    Raise ValueError for more than nine decimals or more than a dollar.
    """
    return price_per_image(dollars) * 1000


def price_per_image(dollars: str) -> int:
    """Convert a price in dollars per image to nano-dollars.

    Raise ValueError for more than nine decimals or more than a dollar.
    """
    if _PLAIN.fullmatch(dollars) is None:
        raise ValueError(f"{dollars!r} is not a price; write it like 0.0015")
    nano = Decimal(dollars) * NANO_PER_DOLLAR
    if len(_decimals(dollars)) > 9 or nano > LARGEST_PRICE_NANO:
        raise ValueError(f"{dollars!r} per image is not a whole number of nano-dollars, at most $1")
    return int(nano)


def _decimals(number: str) -> str:
    return number.partition(".")[2].rstrip("0")
