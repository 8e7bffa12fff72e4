"""Money is a 64-bit count of nano-dollars; it meets text at the edges only, and never a float."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

NANO_PER_DOLLAR = 1_000_000_000
#: The largest single amount anyone may move: $1,000,000,000. Sums of nine of them still fit 64 bits.
LARGEST_NANO = 10**9 * NANO_PER_DOLLAR


def parse_dollars(text: str) -> int:
    """`"5.00"` → 5_000_000_000 nano-dollars.

    Raises ValueError, with a sentence for the user, on anything but a plain positive decimal number of at
    most nine places.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        raise ValueError(f"{text!r} is not an amount of dollars; write it like 5.00") from None
    if not amount.is_finite() or amount <= 0:
        raise ValueError(f"{text!r} must be more than zero dollars")
    if amount * NANO_PER_DOLLAR > LARGEST_NANO:
        raise ValueError(f"{text!r} is more than the largest amount, $1,000,000,000")
    nano = amount * NANO_PER_DOLLAR
    if nano != nano.to_integral_value():
        raise ValueError(f"{text!r} has more than nine decimal places; a nano-dollar is the smallest unit")
    return int(nano)


def format_dollars(nano: int) -> str:
    """4_998_500_000 → `"4.998500000"`; always nine places, so that strings of one column line up."""
    sign = "-" if nano < 0 else ""
    whole, rest = divmod(abs(nano), NANO_PER_DOLLAR)
    return f"{sign}{whole}.{rest:09d}"


def price_per_token(dollars_per_million: str) -> int:
    """The listed price, dollars per million units, as whole nano-dollars per unit.

    Raises ValueError where the price does not come out whole: the ledger holds no fractions.
    """
    nano = Decimal(dollars_per_million) * 1000
    if nano < 0 or nano != nano.to_integral_value():
        raise ValueError(f"{dollars_per_million!r} per million is not a whole number of nano-dollars a unit")
    return int(nano)
