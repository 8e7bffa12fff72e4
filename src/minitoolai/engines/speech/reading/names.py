"""Read Roman numerals, numbers of houses, streets, states and abbreviations."""

from __future__ import annotations

import re

from minitoolai.engines.speech.reading.numbers import (
    amount,
    cardinal,
    digits,
    halves,
    ordinal,
    pair,
    roman,
    spelled,
    year,
)
from minitoolai.engines.speech.reading.patterns import DATA, Match, Rule, any_of

_ORDINAL_NAMES = frozenset(DATA["roman"]["ordinal"].split())
_FIRST_NAMES = frozenset(DATA["roman"]["first_names"].split())
_CARDINAL_NAMES = frozenset(DATA["roman"]["cardinal"].split())


def _roman(m: Match) -> str:
    name, letters = m[1], m[2]
    value = roman(letters)
    if not value:
        return m[0]
    if m[3]:
        return f"{name} {ordinal(value)} {m[3].strip()}"
    if name in _ORDINAL_NAMES:
        return f"{name} the {ordinal(value)}" if letters != "I" or name not in ("King", "Queen", "Pope") else m[0]
    before = re.search(r"\b([A-Z][a-z]+) \Z", m.string[: m.start()])
    if before is not None and before[1] in _FIRST_NAMES and letters in ("II", "III", "IV", "V"):
        return f"{name} the {ordinal(value)}"
    if name in _CARDINAL_NAMES:
        following = m.string[m.end() :]
        is_pronoun = letters == "I" and re.match(r"\s[a-z]", following) is not None
        return m[0] if is_pronoun else f"{name} {cardinal(value)}"
    return (
        f"{name} {cardinal(value)}" if len(letters) > 1 and set(letters) <= set("IVX") and name[0].isupper() else m[0]
    )


def _house(m: Match) -> str:
    number, letter, direction = m[1], m[2], m[3]
    size = len(number)
    if size == 3:
        words = f"{cardinal(int(number[0]))} {pair(int(number[1:]))}" if number[1:] != "00" else cardinal(int(number))
    elif size == 4 and number[1:] != "000":
        words = year(int(number)) if number[2:] != "00" else f"{cardinal(int(number[:2]))} hundred"
        if number[2] == "0" and number[3] != "0":
            words = f"{cardinal(int(number[:2]))} {pair(int(number[2:]))}"
    else:
        words = amount(number) if size < 5 else digits(number)
    return " ".join(filter(None, (words, letter, DATA["directions"].get(direction, "")))) + " " + m[4]


def _street(m: Match) -> str:
    rest = m.string[m.end() :]
    dot = "." if m[0].endswith(".") and not rest.strip() else ""
    return f"{m[1]} {DATA['streets'][m[2]]}{dot}"


def _abbreviation(m: Match) -> str:
    dot = "." if m[0].endswith(".") and not m.string[m.end() :].strip() else ""
    words: str = DATA["abbreviations"][m[0]]
    return words + dot


_STREET = (
    rf"(?:{any_of(DATA['streets'])}|Street|Avenue|Boulevard|Road|Drive|Lane|Court|Place|Square|Highway|Parkway|Terrace)"
)

#: Names that stand before a number with its own way of reading: models, flights, versions of programs.
_MODELS = any_of(DATA["models"]["words"].split())
_PROGRAMS = any_of(DATA["programs"]["words"].split())


def _model(m: Match) -> str:
    return " ".join(filter(None, (m[1], m[2], halves(m[3]), halves(m[4]) if m[4] else "")))


def _program(m: Match) -> str:
    """Read 3.12 as "three point twelve", and 22.04 as "twenty-two point zero four"."""
    parts = [digits(part) if part.startswith("0") else cardinal(int(part)) for part in m[2].split(".")]
    return f"{m[1]} {' point '.join(parts)}"


def _the_roman(m: Match) -> str:
    value = roman(m[2])
    return f"{m[1]} {ordinal(value)}" if value else m[0]


def _part_of(m: Match) -> str:
    part, whole = roman(m[2]), roman(m[3])
    return f"{m[1]} {cardinal(part)} of {cardinal(whole)}" if part and whole else m[0]


def _small_roman(m: Match) -> str:
    value = roman(m[2].upper())
    return f"{m[1]} {cardinal(value)}" if value else m[0]


#: Rules that come before those of dates and quantities.
NUMBERED: list[Rule] = [
    (
        re.compile(rf"\b((?:I|US|SR)-\d{{1,3}}|Route \d{{1,3}}|Highway \d{{1,3}}) ({any_of(DATA['directions'])})\b"),
        lambda m: f"{m[1]} {DATA['directions'][m[2]]}",
    ),
    (re.compile(r"\bT-(?=\d)"), lambda _: "T minus "),
    (re.compile(rf"\b({_PROGRAMS}) ?v?(\d{{1,4}}(?:\.\d{{1,4}})+)(?![\w]|\.\d)"), _program),
    (re.compile(rf"\b({_MODELS})(?:[ -]([A-Z]))?[ -]?(\d{{3,4}})(?:-(\d{{1,4}}))?(?![\w-])"), _model),
    (
        re.compile(r"\b(ISBN|ISSN)((?:-1[03])?:? )(?=\d)([\dXx-]{8,17})"),
        lambda m: f"{m[1]} {', '.join(map(spelled, m[3].split('-')))}",
    ),
    (re.compile(r"\b([A-Z]{1,2}\d[A-Z\d]?) (\d[A-Z]{2})\b"), lambda m: f"{spelled(m[1])}, {spelled(m[2])}"),
    (
        re.compile(
            r"\b([Cc]all|[Dd]ial|[Tt]ext) (\d{3,6})(?= (?:now|for|in|if|or|and|immediately|at|from)\b|[^\w\s.:]|[.:]?(?:\s|\Z))(?! [a-z]+s\b)"
        ),
        lambda m: f"{m[1]} {digits(m[2])}",
    ),
    (
        re.compile(rf"(?<![\w.])({any_of(DATA['before_numbers'])})\s?(?=\d)"),
        lambda m: DATA["before_numbers"][m[1]] + " ",
    ),
    (
        re.compile(
            rf"(?<![\w.,#])(\d{{1,5}})([A-Z])?(?: ({any_of(DATA['directions'])})\.?)? ((?:[A-Z][\w']+ |\d+(?:st|nd|rd|th) ){{1,3}}(?={_STREET}\b))"
        ),
        _house,
    ),
]

RULES: list[Rule] = [
    (
        re.compile(rf"\b({any_of(_CARDINAL_NAMES)}) ([IVX]+) of ([IVX]+)\b"),
        _part_of,
    ),
    (re.compile(r"\b([Tt]he) ((?!IV\b|II\b|XL\b|XX\b)[IVXL]{2,})(?= [A-Z])"), _the_roman),
    (re.compile(rf"\b({any_of(_CARDINAL_NAMES)}|page|pages) ([ivxl]{{2,7}})\b(?!')"), _small_roman),
    # houses and streets, Roman numerals, abbreviations
    (
        re.compile(
            rf"\b((?:[A-Z][\w']*|\d+(?:st|nd|rd|th))) ({any_of(DATA['streets'])})\b\.?(?! [A-Z][a-z]+ (?:said|was|is)\b)(?=\W|\Z)"
        ),
        _street,
    ),
    (
        re.compile(rf"(?:(?<=, )|(?<=[a-z] ))({any_of(DATA['states'])}) (\d{{5}})(?:-(\d{{4}}))?(?!\d)"),
        lambda m: f"{DATA['states'][m[1]]} {digits(m[2])}" + (f", {digits(m[3])}" if m[3] else ""),
    ),
    (
        re.compile(rf"(?<=(?:eet|nue|ive|oad) )({any_of(DATA['directions'])})(?=[,.;]|\Z)"),
        lambda m: DATA["directions"][m[1]],
    ),
    (re.compile(r"\bSt\.? (?=[A-Z])"), lambda _: "Saint "),
    (re.compile(r"\bDr\.? (?=[A-Z])"), lambda _: "Doctor "),
    (re.compile(r"\b([A-Z][a-z]+|[a-z]+) ([IVXLCDM]+)\b(?!['.-](?!s\b)\w)( century| centuries)?"), _roman),
    (re.compile(r"(?<!\S)()([IVX]{2,})\b( century| centuries)"), lambda m: _roman(m).strip()),
    (re.compile(rf"(?<![\w.])({any_of(DATA['abbreviations'])})(?![\w])"), _abbreviation),
]
