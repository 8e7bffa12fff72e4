"""Read money, quantities with units, fractions and ratios."""

from __future__ import annotations

import re

from minitoolai.engines.speech.reading.numbers import amount, cardinal, fraction, halves, ordinal, pair, plural, signed
from minitoolai.engines.speech.reading.patterns import DATA, MAGNITUDE, NUM, SIGN, TO, Match, Rule, any_of, magnitude

_CURRENCIES: dict[str, list[str]] = DATA["currencies"]
_SIGNS: dict[str, str] = DATA["currency_signs"]
_CODES: dict[str, str] = DATA["currency_codes"]
_UNITS: dict[str, list[str]] = DATA["units"]


def _money(number: str, currency: str, magnitude: str | None, per: str | None, sign: str, *, is_adjective: bool) -> str:
    one, many, cent, cents = _CURRENCIES[currency]
    whole, _, rest = number.replace(",", "").partition(".")
    minus = "minus " if "-" in sign else "plus " if "+" in sign else ""
    tail = f" per {DATA['per'].get(per, per)}" if per else ""
    if magnitude:
        return f"{minus}{amount(number)} {DATA['magnitudes'][magnitude]} {one if is_adjective else many}{tail}"
    if len(rest) == 2 and cent:
        parts = []
        if int(whole or 0) or not int(rest):
            parts.append(f"{amount(whole or '0')} {one if int(whole or 0) == 1 else many}")
        if int(rest):
            parts.append(f"{cardinal(int(rest))} {cent if int(rest) == 1 else cents}")
        return minus + " and ".join(parts) + tail
    if rest and not int(rest):
        number, rest = whole, ""
    is_one = is_adjective or (not rest and int(whole) == 1)
    return f"{minus}{amount(number)} {one if is_one else many}{tail}"


#: After these nouns "$5" is "five dollar".
_PRICED = r"(?=[- ](?:bill|note|coin|fee|ticket|discount|deposit|deal|voucher|gift|budget|investment|prize|fine|menu|meal|loan|tip|grant|contract|house|home|lawsuit|salary|bonus|check|donation|penalty|settlement)\b)"
_SIGN_BEFORE = re.compile(
    rf"(?<!\w)([-+]?)({any_of(_SIGNS)}|\b(?:{any_of(_CODES)}))\.?\s?([-+]?)({NUM}){MAGNITUDE}(?:{TO}(?:\2)?({NUM}){MAGNITUDE})?(?:\s?/\s?({any_of(DATA['per'])})\b)?({_PRICED})?(?![\d])"
)
_SIGN_AFTER = re.compile(
    rf"{SIGN}({NUM}){MAGNITUDE}(?:(?:\s?(?:{any_of(_SIGNS)}))?{TO}({NUM}){MAGNITUDE})?\s?({any_of(_SIGNS)}|(?:{any_of(_CODES)})\b)(?:\s?/\s?({any_of(DATA['per'])})\b)?({_PRICED})?(?!\w)"
)


def _money_before(m: Match) -> str:
    currency = _SIGNS.get(m[2]) or _CODES[m[2]]
    is_adjective = m[9] is not None
    if m[6]:
        last = _money(m[6], currency, m[7], m[8], "", is_adjective=is_adjective)
        return f"{amount(m[4])}{magnitude(m[5])} to {last}"
    return _money(m[4], currency, m[5], m[8], m[1] + m[3], is_adjective=is_adjective)


def _money_after(m: Match) -> str:
    currency = _SIGNS.get(m[5]) or _CODES[m[5]]
    is_adjective = m[7] is not None
    if m[3]:
        return f"{amount(m[1])}{magnitude(m[2])} to " + _money(
            m[3], currency, m[4], m[6], "", is_adjective=is_adjective
        )
    return _money(m[1], currency, m[2], m[6], m[0][0], is_adjective=is_adjective)


def _cents(m: Match) -> str:
    number = m[1] or m[2]
    return f"{amount(number)} cent{'' if number == '1' else 's'}"


def _quantity(m: Match) -> str:
    """Read `5 km`, `-3.5 °C`, `5-10 kg`, `10 x 20 cm` and `30 km/day`."""
    one, many = _UNITS[re.sub(r"\^", "", m[5]).replace("m2", "m²").replace("m3", "m³").replace("ft2", "ft²")]
    number = signed(m[1])
    if m[3]:
        number += (" by " if m[2].strip() in ("x", "×") else " to ") + amount(m[3])
    number += magnitude(m[4])
    is_one = (m[1].lstrip("+-") in ("1", "1.0") and not m[3] and not m[4]) or _is_adjective(m)
    per = "".join(f" per {DATA['per'].get(name) or _UNITS[name][0]}" for name in (m[6], m[7]) if name)
    return f"{number} {one if is_one else many}{per}"


def _is_adjective(m: Match) -> bool:
    """Return True for a quantity before a noun: "a 5 km run" is "a five kilometer run"."""
    has_article = re.search(r"\b(?:[Aa]n?|[Oo]ne|[Ee]very|[Ee]ach) \Z", m.string[: m.start()]) is not None
    after = re.match(r" ([a-z]+)\b", m.string[m.end() :])
    return has_article and after is not None and after[1] not in _NO_NOUNS


def _inches(m: Match) -> str:
    words = fraction(int(m[1]), int(m[2])) if m[2] else cardinal(int(m[1]))
    after = re.match(r" ([a-z]+)\b", m.string[m.end() :])
    is_adjective = m[1] == "1" or m[2] is not None or (after is not None and after[1] not in _NO_NOUNS)
    return f"{words} inch{'' if is_adjective else 'es'}"


def _feet(m: Match) -> str:
    feet = "foot" if m[1] == "1" else "feet"
    return f"{cardinal(int(m[1]))} {feet}" + (f" {cardinal(int(m[2] or m[3]))}" if m[2] or m[3] else "")


def _ratio(m: Match) -> str:
    """Read 3/4 as a fraction, 8/10 as "eight out of ten", 24/7 as it is known."""
    whole, above, below = m[1], int(m[2]), int(m[3])
    if ((above, below) in ((24, 7), (9, 11)) or above == below) and not whole:
        return f"{cardinal(above)} {cardinal(below)}"
    if below == 0 or (above > below and not whole) or (below > 20 and below not in (32, 64)):
        return (
            f"{cardinal(above)} out of {cardinal(below)}"
            if below == 100
            else f"{cardinal(above)} over {cardinal(below)}"
        )
    if below == 10 and not whole and not re.match(r"\s(?:of\b|inch|mile)", m.string[m.end() :]):
        return f"{cardinal(above)} out of ten"
    words = fraction(above, below)
    if not whole:
        return _part(m, above, below) or words
    if above == 1:
        words = "a half" if below == 2 else "a quarter" if below == 4 else words
    return f"{amount(whole.strip())} and {words}"


def _part(m: Match, above: int, below: int) -> str:
    """Read a fraction that is part of a word, as in "a 1/2-inch bolt"; "" if it is none."""
    if re.match(r"-[a-z]", m.string[m.end() :]) is None:
        return ""
    part = "half" if below == 2 else "quarter" if below == 4 else ordinal(below)
    has_article = re.search(r"\b(?:[Aa]n?|[Tt]he|[Pp]er|this|that|every) *\Z", m.string[: m.start()]) is not None
    return part if above == 1 and has_article and below in (2, 4) else f"{cardinal(above)}-{part}"


def _by(m: Match) -> str:
    """Read `8 x 10`, and the size of a screen such as 1920×1080."""
    if m[2] == " × ":
        return f"{amount(m[1])} times {amount(m[3])}"
    read = halves if re.fullmatch(r"\d{3,4}", m[1]) and re.fullmatch(r"\d{3,4}", m[3]) else amount
    return f"{read(m[1])} by {read(m[3])}"


def _unit_alone(m: Match) -> str:
    return _UNITS[m[0]][1]


def _hours_minutes(m: Match) -> str:
    hours, minutes = int(m[1]), int(m[2])
    seconds = f" {cardinal(int(m[3]))} second{'s' * (m[3] != '1')}" if m[3] else ""
    return f"{amount(m[1])} hour{'s' * (hours != 1)} {amount(m[2])} minute{'s' * (minutes != 1)}{seconds}"


def _scientific(m: Match) -> str:
    power = m[2] or m[3]
    return f"{signed(m[1])} times ten to the power of {signed(power)}"


#: Words after a quantity that do not make it an adjective.
_NO_NOUNS = frozenset(DATA["quantities"]["no_nouns"].split())
#: Signs before a number that has nothing before it to be compared with.
_COMPARED = {
    "<": "less than ",
    ">": "more than ",
    "≤": "at most ",
    "≥": "at least ",
    "~": "about ",
    "≈": "about ",
}
_UNIT = any_of({*_UNITS, "m2", "m3", "km2", "cm2", "ft2", "m^2", "m^3", "km^2", "cm^2", "ft^2"})

RULES: list[Rule] = [
    # money
    (_SIGN_BEFORE, _money_before),
    (_SIGN_AFTER, _money_after),
    (re.compile(r"(?<![\w.])(\d{1,2})p\b"), lambda m: "one penny" if m[1] == "1" else f"{amount(m[1])} pence"),
    (re.compile(rf"(?<![\w.])({NUM})\s?¢|¢\s?({NUM})"), _cents),
    # science and quantities
    (re.compile(r"\b(7\d7)s\b"), lambda m: plural(halves(m[1]))),
    (re.compile(r"\b(\d{1,4})ers\b"), lambda m: f"{cardinal(int(m[1])).removesuffix('e')}ers"),
    (re.compile(rf"(?<![\w)\]²³%])(?<![\w)\]²³%] )([<>≤≥~≈])\s?(?={SIGN}(?:{NUM}))"), lambda m: _COMPARED[m[1]]),
    (
        re.compile(r"(?<![\w.])(\d{1,3})\s?hr?s?,? ?(\d{1,2})\s?m(?:ins?)?(?: ?(\d{1,2})\s?s(?:ecs?)?)?\b"),
        _hours_minutes,
    ),
    (re.compile(rf"({SIGN}(?:{NUM}))(?:[eE]([-+]?\d+)|\s?[x×*·]\s?10\^([-+]?\d+))(?![\w.]\d)"), _scientific),
    (re.compile(r"(?<![\w.'])(\d{1,2})'(?:\s?(\d{1,2})\"|(\d{1,2})\b)?(?!\w)"), _feet),
    (re.compile(r"(?<![\w.\"/])(\d{1,3})(?:/(\d{1,2}))?\"(?!\w)(?=[^\"]*\Z)"), _inches),
    (re.compile(r"(?<![\w./:])(?:(\d+) )?(\d{1,3})/(\d{1,3})(?![\w/]|\.\d)"), _ratio),
    (
        re.compile(
            rf"(?<![\w.])({NUM})m(?= (?:people|users|views|followers|subscribers|downloads|customers|jobs|copies|years|tons|homes|voters)\b)"
        ),
        lambda m: f"{amount(m[1])} million",
    ),
    (
        re.compile(
            rf"({SIGN}(?:{NUM}))(?:(\s?[-–—x×]\s?|\s?%\s?[-–—]\s?)({NUM}))?(?:\s(million|billion|thousand))?[\s-]?({_UNIT})(?:\s?/\s?({any_of({*DATA['per'], *_UNITS})}))?(?:/({any_of(DATA['per'])}))?(?![\w²³^/])(?!'[a-z])"
        ),
        _quantity,
    ),
    (
        re.compile(rf"(?<![\w/])(?:{any_of(unit for unit in _UNITS if '/' in unit or unit == 'mmHg')})(?![\w/²³])"),
        _unit_alone,
    ),
    (re.compile(r"(?<=feet )[x×](?= )"), lambda _: "by"),
    (re.compile(r"(?<=feet )(\d{1,2}) ?in\b\.?"), lambda m: f"{cardinal(int(m[1]))} inch{'' if m[1] == '1' else 'es'}"),
    (re.compile(rf"(?<![\w.])({NUM})x(?![\w])"), lambda m: f"{amount(m[1])} times"),
    (
        re.compile(rf"(?<![\w.])({NUM})(\s?[x×]\s?)({NUM})(?![\w])(?!\s?=)"),
        _by,
    ),
    (re.compile(r"(?<![\w.])(\d{3,4})([pP])\b"), lambda m: f"{cardinal(int(m[1][:-2]))} {pair(int(m[1][-2:]))} P"),
    (re.compile(r"(?<![\w.])([48])K\b"), lambda m: f"{cardinal(int(m[1]))} K"),
    (
        re.compile(rf"(?<![\w.$])({NUM})\s?(k|K|M|bn|mn|million|billion|trillion|thousand)\b(?!/)"),
        lambda m: amount(m[1]) + magnitude(m[2]),
    ),
]
