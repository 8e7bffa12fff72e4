"""Read dates, times, decades and spans of them."""

from __future__ import annotations

import re

from minitoolai.engines.speech.reading.numbers import amount, cardinal, ordinal, pair, plural, year
from minitoolai.engines.speech.reading.patterns import DATA, TO, Match, Rule, any_of

_MONTHS = "January February March April May June July August September October November December".split()
_MONTH = r"(Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"

_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_DAY = r"(Mon(?:day)?|Tue(?:s(?:day)?)?|Wed(?:nesday)?|Thu(?:rs(?:day)?)?|Fri(?:day)?|Sat(?:urday)?|Sun(?:day)?)\b\.?"


def _day(name: str) -> str:
    return next(day for day in _DAYS if day.startswith(name[:3]))


_BOOKS = any_of(DATA["scripture"]["books"].split())


def _verse(m: Match) -> str:
    book = "Revelation" if m[1] == "Rev" else m[1]
    last = f" to {cardinal(int(m[4]))}" if m[4] else ""
    return f"{book} {cardinal(int(m[2]))} {cardinal(int(m[3]))}{last}"


def _date(y: str, month: int, day: int, otherwise: str) -> str:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return otherwise
    return f"{_MONTHS[month - 1]} {ordinal(day)}" + (f", {year(_full_year(y))}" if y else "")


def _full_year(text: str) -> int:
    return int(text) if len(text) > 2 else int(text) + (1900 if int(text) > 30 else 2000)


def _iso(m: Match) -> str:
    time = f" {_clock(int(m[4]), int(m[5]), '')}" if m[4] else ""
    return _date(m[1], int(m[2]), int(m[3]), m[0]) + time + (" U T C" if m[6] else "")


def _us_date(m: Match) -> str:
    first, second = int(m[1]), int(m[2])
    return _date(m[3], first, second, "") or _date(m[3], second, first, m[0])


def _month(name: str) -> str:
    return next(month for month in _MONTHS if month.startswith(name[:3]))


def _month_day(m: Match) -> str:
    if not 1 <= int(m[2]) <= 31:
        return m[0]
    last = f" to {ordinal(int(m[3]))}" if m[3] else ""
    return f"{_month(m[1])} {ordinal(int(m[2]))}{last}" + (f", {year(int(m[4]))}" if m[4] else "")


def _day_month(m: Match) -> str:
    if not 1 <= int(m[2]) <= 31:
        return m[0]
    return f"{m[1] or 'the '}{ordinal(int(m[2]))} of {_month(m[3])}" + (f", {year(int(m[4]))}" if m[4] else "")


def _clock(hour: int, minute: int, half: str) -> str:
    if half:
        return cardinal(hour) + (f" {pair(minute)}" if minute else "") + f" {half.upper()}M"
    return (
        f"{cardinal(hour)} {pair(minute)}"
        if minute
        else f"{cardinal(hour)} o'clock"
        if 0 < hour <= 12
        else f"{cardinal(hour)} hundred"
    )


def _time(m: Match) -> str:
    hour, minute, second, half = int(m[1]), int(m[2] or 0), m[3], m[4] or ""
    if hour > 24 or minute > 59 or (m[2] is None and not half):
        return m[0]
    if second:
        if second == "00":
            return f"{cardinal(hour)} {pair(minute)}"
        return f"{cardinal(hour)} {pair(minute)} and {cardinal(int(second))} second{'s' * (int(second) != 1)}"
    dot = "." if m[0].endswith(".") and not m.string[m.end() :].strip() else ""
    return _clock(hour, minute, half) + dot


def _decade(m: Match) -> str:
    if len(m[1]) == 2:
        return plural(cardinal(int(m[1])))
    century, rest = int(m[1][:2]), int(m[1][2:])
    if rest:
        return f"{cardinal(century)} {plural(cardinal(rest))}"
    return f"{cardinal(century)} hundreds" if century % 10 else f"{cardinal(century // 10)} thousands"


def point_date(m: Match) -> str:
    """Read 15.03.2024 as a date; "" if it is none."""
    parts = m[2].split(".")
    if len(parts) != 3 or len(parts[2]) != 4 or not 1900 <= int(parts[2]) <= 2100:
        return ""
    return _date(parts[2], int(parts[1]), int(parts[0]), "")


RULES: list[Rule] = [
    (re.compile(rf"(?<=\d){TO}(?={_MONTH}\.? \d)|(?<=\d\d\d\d){TO}(?=\d{{1,2}} {_MONTH}\b)"), lambda _: " to "),
    (re.compile(rf"\b({_BOOKS})\.? (\d{{1,3}}):(\d{{1,3}})(?:{TO}(\d{{1,3}}))?(?![\d:])"), _verse),
    # dates and times
    (
        re.compile(
            r"(?<![\w-])(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::\d{2}(?:\.\d+)?)?(Z|\+00:00)?)?(?![\w-])"
        ),
        _iso,
    ),
    (re.compile(r"(?<![\w/])(\d{4})/(\d{1,2})/(\d{1,2})(?![\w/])"), lambda m: _date(m[1], int(m[2]), int(m[3]), m[0])),
    (re.compile(r"(?<![\w/])(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?![\w/])"), _us_date),
    (
        re.compile(
            rf"\b{_MONTH}\.? (\d{{1,2}})(?:st|nd|rd|th)?(?:{TO}(\d{{1,2}})(?:st|nd|rd|th)?)?(?![\w:%.]\d|\d|,\d)(?:,? (\d{{4}})(?!\w))?"
        ),
        _month_day,
    ),
    (re.compile(rf"\b([Tt]he )?(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?{_MONTH}\b\.?(?:,? (\d{{4}})(?!\w))?"), _day_month),
    (re.compile(rf"\b{_MONTH}\.? (?=\d{{4}}\b)"), lambda m: _month(m[1]) + " "),
    (re.compile(r"(?<![\w:.])(\d{1,3}):(\d|\d{3})(?![\w:])"), lambda m: f"{amount(m[1])} to {amount(m[2])}"),
    (re.compile(r"\b(noon|midnight)[-–](?=\d)"), lambda m: f"{m[1]} to "),
    (re.compile(rf"(?<![\w-])(\d{{4}}){TO}(?=(?:present|now|today)\b)"), lambda m: f"{year(int(m[1]))} to "),
    (re.compile(r"(?<![\w'])'(\d\d)\b(?!['s])"), lambda m: pair(int(m[1]))),
    (
        re.compile(
            r"(?<![\w:.])(\d{1,4}):(\d{1,4})(?= (?:scale|ratio|mix|mixture|odds|replica|model|aspect|monitor|screen|video|odds)\b)"
        ),
        lambda m: f"{amount(m[1])} to {amount(m[2])}",
    ),
    (re.compile(r"(?<=\d:\d\d) ?(?:h|hrs|Uhr)\b"), lambda _: ""),
    (re.compile(rf"\b{_DAY}{TO}{_DAY}"), lambda m: f"{_day(m[1])} to {_day(m[2])}"),
    (re.compile(rf"\b{_MONTH}\.?{TO}{_MONTH}\b\.?"), lambda m: f"{_month(m[1])} to {_month(m[2])}"),
    (re.compile(r"\b(UTC|GMT) ?([-+–]) ?(?=\d)"), lambda m: f"{m[1]} {'plus' if m[2] == '+' else 'minus'} "),
    (re.compile(r"(?<![\w/])((?:19|20)\d\d)/(\d\d)(?![\w/])"), lambda m: f"{year(int(m[1]))} {pair(int(m[2]))}"),
    (re.compile(r"(?<=\d:\d\d)\s?[-–—]\s?(?=\d{1,2}:\d\d)"), lambda _: " to "),
    (
        re.compile(
            r"(?<![\w:.])(\d{1,2})(?::(\d{2})(?::(\d{2}))?)?(?:\s?([AaPp])\.?[Mm]\b\.?|(?=:)|(?<=:\d\d))(?![\d:])"
        ),
        _time,
    ),
    (re.compile(rf"(?<=M){TO}(?=[a-z]+(?: [a-z-]+)? [AP]M\b)"), lambda _: " to "),
    (
        re.compile(rf"(?<![\w.:-])(\d{{1,2}}){TO}(?=[a-z]+(?: [a-z-]+)? [AP]M\b)"),
        lambda m: f"{cardinal(int(m[1]))} to ",
    ),
    (re.compile(r"(?<![\w.,])'?(\d{4}|\d{2})'?s\b"), lambda m: _decade(m) if m[1].endswith("0") else m[0]),
]
