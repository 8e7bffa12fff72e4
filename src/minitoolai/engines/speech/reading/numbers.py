"""English words for numbers: cardinals, ordinals, years, decimals, fractions, single digits and Roman numerals."""

from __future__ import annotations

import re

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = "thousand million billion trillion quadrillion quintillion sextillion septillion octillion nonillion".split()
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
#: Numbers with more digits are read digit by digit.
MAX_DIGITS = 30
_ROMAN = re.compile(r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_GROUPS = re.compile(r"\d+|[A-Za-z]+")


def cardinal(number: int) -> str:
    """Return the words of a whole number: 1234 is "one thousand two hundred thirty-four"."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + ("-" + _ONES[ones] if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_ONES[hundreds]} hundred" + (" " + cardinal(rest) if rest else "")
    words: list[str] = []
    scale = -1
    while number:
        number, group = divmod(number, 1000)
        if group:
            words.insert(0, cardinal(group) + (" " + _SCALES[scale] if scale >= 0 else ""))
        scale += 1
    return " ".join(words)


def ordinal(number: int) -> str:
    """Return the words of an ordinal: 21 is "twenty-first"."""
    head, mark, last = re.fullmatch(r"(?:(.*)([ -]))?(\w+)", cardinal(number)).groups(default="")  # type: ignore[union-attr]
    last = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return f"{head}{mark}{last}"


def year(number: int) -> str:
    """Return the words of a year: 1905 is "nineteen oh five", 2005 "two thousand five"."""
    century, rest = divmod(number, 100)
    if century < 10 or century > 99 or (century % 10 == 0 and rest < 10):
        return cardinal(number)
    return f"{cardinal(century)} {pair(rest)}" if rest else f"{cardinal(century)} hundred"


def pair(number: int) -> str:
    """Return the words of the second half of a year, house number or time: 5 is "oh five"."""
    return cardinal(number) if number >= 10 else f"oh {cardinal(number)}"


def plural(words: str) -> str:
    """Return the plural of a number's words: "nineties", "sixes"."""
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith(("s", "x")) else "s")


def digits(text: str) -> str:
    """Return the digits of a text one by one, without anything else."""
    return " ".join(_ONES[int(digit)] for digit in text if digit.isdecimal())


def spelled(text: str) -> str:
    """Return a code such as "4B" digit by digit and letter by letter."""
    return " ".join(
        digits(group) if group[0].isdecimal() else " ".join(group.upper()) for group in _GROUPS.findall(text)
    )


def amount(text: str) -> str:
    """Return the words of a number like "1,250", "0.50", ".5" or "007"."""
    whole, point, rest = text.replace(",", "").partition(".")
    if (len(whole) > 1 and whole[0] == "0" and not point) or len(whole) > MAX_DIGITS:
        return digits(whole)
    words = cardinal(int(whole)) if whole else ""
    return f"{words} point {digits(rest)}".strip() if point and rest else words or "zero"


def signed(text: str) -> str:
    """Return the words of a number that may have a sign."""
    words = amount(text.lstrip("+-"))
    return f"minus {words}" if text.startswith("-") else f"plus {words}" if text.startswith("+") else words


def halves(text: str) -> str:
    """Return three or four digits as models, flights and screens are read: 737 is "seven thirty-seven"."""
    if len(text) not in (3, 4) or text[0] == "0":
        return amount(text)
    head, rest = int(text[:-2]), int(text[-2:])
    if rest:
        return f"{cardinal(head)} {pair(rest)}"
    return cardinal(int(text)) if head % 10 == 0 else f"{cardinal(head)} hundred"


def fraction(above: int, below: int) -> str:
    """Return the words of a fraction: 3/4 is "three quarters"."""
    if below == 2:
        return "one half" if above == 1 else f"{cardinal(above)} halves"
    name = "quarter" if below == 4 else ordinal(below)
    return f"{cardinal(above)} {name}" + ("" if above == 1 else "s")


def roman(text: str) -> int:
    """Return the value of a Roman numeral; 0 if it is none."""
    if not text or _ROMAN.fullmatch(text) is None:
        return 0
    values = [_ROMAN_VALUES[letter] for letter in text]
    return sum(
        -value if value < following else value for value, following in zip(values, [*values[1:], 0], strict=True)
    )
