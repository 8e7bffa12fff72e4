"""Read amounts of dollars from forms: with a comma or a point, and never one for the other.

"10,000" is ten dollars in Berlin and ten thousand in London, and people type what they are used to on pages in any
language. Such an amount is refused, with both of its meanings. All forms read amounts here.
"""

from __future__ import annotations

import re

from minitoolai.core.money import parse_dollars, short_dollars
from minitoolai.portal.request import PageRequest

#: Separators of thousands, beside comma and point: blanks that languages use, and the apostrophe of Switzerland.
_BLANKS = re.compile(r"(?<=\d)[ \u00a0\u2009\u202f'’](?=\d{3}(?!\d))")
_PLAIN = re.compile(r"\d+(?:[.,]\d+)?")
_GROUPED = re.compile(r"(\d{1,3}(?:([.,])\d{3})(?:\2\d{3})*)(?:([.,])(\d+))?")
#: Three digits behind the only separator: a third decimal place, or thousands.
_AMBIGUOUS = re.compile(r"([1-9]\d{0,2})[.,](\d{3})")


class AmbiguousAmount(ValueError):
    """The amount has two meanings, in nano-dollars."""

    def __init__(self, small: int, large: int) -> None:
        super().__init__("the amount has two meanings")
        self.small = small
        self.large = large


def parse_amount(text: str) -> int:
    """Convert "5", "5.00", "5,00" or "1,234.50" to nano-dollars. Raise ValueError, or AmbiguousAmount for "10,000"."""
    plain = _BLANKS.sub("", text.strip().removeprefix("$").strip())
    if found := _AMBIGUOUS.fullmatch(plain):
        raise AmbiguousAmount(parse_dollars(f"{found[1]}.{found[2]}"), parse_dollars(found[1] + found[2]))
    if _PLAIN.fullmatch(plain):
        return parse_dollars(plain.replace(",", "."))
    grouped = _GROUPED.fullmatch(plain)
    if grouped is None or grouped[2] == grouped[3]:
        raise ValueError(f"{text!r} is not an amount in dollars; write it like 5.00")
    return parse_dollars(re.sub("[.,]", "", grouped[1]) + (f".{grouped[4]}" if grouped[4] else ""))


def read_amount(page: PageRequest, name: str, wrong: str = "") -> int | None:
    """Return the amount in a field of the form, None if it is empty or wrong. Record the error of the field.

    `wrong`: what to say about text that is no amount.
    """
    text = page.form[name]
    if not text:
        return None
    try:
        return parse_amount(text)
    except AmbiguousAmount as error:
        message = page.gettext("This could mean %(small)s or %(large)s. Enter it without a thousands separator.")
        amounts = {"small": page.formatter.money(error.small), "large": page.formatter.money(error.large)}
        page.form.add_error(name, message % amounts)
    except ValueError:
        page.form.add_error(name, wrong or page.gettext("Enter an amount in dollars, such as 5.00."))
    return None


def amount_text(nano: int) -> str:
    """Return an amount as a form shows it, such that `parse_amount` reads the same."""
    text = short_dollars(nano)
    return text + "0" if len(text.partition(".")[2]) == 3 else text
