"""Write a sentence as an English voice should read it: numbers, units, dates, addresses, abbreviations and symbols.

Each rule replaces one kind of notation by words. Later rules look for digits and symbols, so they leave those words alone: the
order of the rules decides what a number is. The words are in spoken_text.toml; dates, quantities and names have modules of their own.
"""

from __future__ import annotations

import re
import unicodedata

from minitoolai.engines.speech.reading import dates, names, quantities
from minitoolai.engines.speech.reading.numbers import amount, cardinal, digits, ordinal, signed, year
from minitoolai.engines.speech.reading.patterns import DATA, NUM, TO, Match, Rule, any_of


def speakable(text: str) -> str:
    """Return the sentence in words."""
    text = _clean(text)
    for pattern, replace in _RULES:
        text = pattern.sub(replace, text)
    return re.sub(r"\s+([,.;:!?])", r"\1", re.sub(r"\s+", " ", re.sub(r"(?:,\s*)+(?=[,.;:!?])", "", text))).strip(" ,")


# ── characters ────────────────────────────────────────────────────────────────────────────────────────────

_PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’ʼ′`", "'"),
        **dict.fromkeys("“”„«»″", '"'),
        "−": "-",
        "‑": "-",
        "‒": "–",
        "―": "—",
        "μ": "µ",
        "⁄": "/",
    }
)
_FRACTION_SIGN = re.compile("[¼½¾⅐-⅞]")
_SUBSCRIPT = {ord("₀") + digit: str(digit) for digit in range(10)}
_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹⁻]{2,}|(?<=10)[⁰¹²³⁴-⁹⁻]+|[⁰¹⁴-⁹]")
_STARS = re.compile(r"(?<=\d)(?:★|⭐)+(?!\s?stars)")
_SILENT = re.compile(
    "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\u20e3]"
    "|[\U0001f000-\U0001faff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\ud800-\udfff\ue000-\uf8ff]"
    "|[\x00-\x08\x0e-\x1f\x7f-\x9f]"
)


def _clean(text: str) -> str:
    """Return the text with plain quotes, blanks and digits, and without emoji and invisible characters."""
    text = _FRACTION_SIGN.sub(lambda m: " " + unicodedata.normalize("NFKC", m[0]).replace("⁄", "/"), text)
    text = _SUPERSCRIPT.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]).replace("−", "-"), text)
    text = _STARS.sub(" stars", text)
    text = _SILENT.sub("", text).translate(_PLAIN).translate(_SUBSCRIPT)
    if not text.isascii():
        # Full-width letters and digits of other scripts; signs such as ™ and ² keep their form.
        text = "".join(
            unicodedata.normalize("NFKC", c) if "\uff00" <= c <= "\uffef" else str(unicodedata.decimal(c, c))
            for c in text
        )
    return text


# ── addresses on the web, hashtags, telephones, codes ─────────────────────────────────────────────────────

_WEB: dict[str, str] = DATA["web"]
_SPELLED = frozenset(DATA["web_spelled"]["words"].split())
_WEB_PART = re.compile(r"\d+|[^\W\d_]+|[^\w]|_")


def _web(text: str) -> str:
    words = []
    for part in _WEB_PART.findall(text):
        if part.isdecimal():
            words.append(digits(part) if len(part) > 4 or part[0] == "0" else cardinal(int(part)))
        elif part.lower() in _SPELLED:
            words.append(" ".join(part.upper()))
        else:
            words.append(_WEB.get(part, part))
    return " ".join(words)


def _url(m: Match) -> str:
    tail = re.search(r"[.,;:!?)'\"]*\Z", m[0])
    address = m[0][: tail.start()] if tail else m[0]
    return _web(re.sub(r"^https?://", "", address, flags=re.I).rstrip("/")) + m[0][len(address) :]


def _hashtag(m: Match) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\d)(?=[A-Z])|_", " ", m[2])
    return ("hashtag " if m[1] == "#" else "at ") + words


def _telephone(m: Match) -> str:
    groups = re.findall(r"\d+", m[0])
    return ("plus " if "+" in m[0] else "") + ", ".join(digits(group) for group in groups)


def _version(m: Match) -> str:
    parts = " point ".join(cardinal(int(part)) for part in m[2].split("."))
    return (f"version {parts}" if m[1] else parts) + (f" {m[3]}" if m[3] else "")


def _address(m: Match) -> str:
    return (
        " dot ".join(digits(part) for part in m[1].split("."))
        + (f" port {amount(m[2])}" if m[2] else "")
        + (f" slash {amount(m[3])}" if m[3] else "")
    )


# ── mathematics, chess and plain numbers ──────────────────────────────────────────────────────────────────

_PIECES = {"K": "king", "Q": "queen", "R": "rook", "B": "bishop", "N": "knight"}
_OPERATORS = {
    "*": "times",
    "×": "times",
    "x": "times",
    "/": "divided by",
    "÷": "divided by",
    "-": "minus",
    "–": "minus",
    "+": "plus",
    "=": "equals",
    "≠": "is not equal to",
    "≤": "is less than or equal to",
    "≥": "is greater than or equal to",
    "≈": "approximately equals",
    "<": "is less than",
    ">": "is greater than",
}


def _chess(m: Match) -> str:
    takes = " takes" if m[3] else ""
    start = f" {m[2].upper()}" if m[2] else ""
    check = {"+": " check", "#": " checkmate"}.get(m[5], "")
    return f"{_PIECES[m[1]]}{start}{takes} {m[4][0].upper()} {cardinal(int(m[4][1]))}{check}"


def _castling(m: Match) -> str:
    return "castles queenside" if len(m[0]) == 5 else "castles kingside"


def _operators(m: Match) -> str:
    """Read the signs of an equation. A hyphen in it is a minus."""
    return re.sub(r"\s*([*×÷/=<>+–-])\s*", lambda sign: f" {_OPERATORS[sign[1]]} ", m[0])


def _power(m: Match) -> str:
    if m[1] in ("2", "3") and not m.string[: m.start()][-1:].isdecimal():
        return " squared" if m[1] == "2" else " cubed"
    return f" to the power of {signed(m[1])}"


def _range(m: Match) -> str:
    return f"{_plain_number(m[1], m)} to {_plain_number(m[2], m)}"


_YEAR_BEFORE = frozenset(DATA["years"]["before"].split())
#: Before any year. The others come before a number that could be one.
_SURE_YEAR_BEFORE = frozenset(("in", "In", "year", "Year", "since", "Since"))
_NOT_PLURAL = frozenset(DATA["years"]["not_plural"].split())


def _plain_number(text: str, m: Match) -> str:
    if len(text) == 4 and text.isdecimal() and 1000 <= int(text) <= 2999:
        before = re.search(r"([A-Za-z]+)\W*\Z", m.string[: m.start()])
        if not 1100 <= int(text) <= 2099 and (before is None or before[1] not in _SURE_YEAR_BEFORE):
            return amount(text)
        after = re.match(r"\s([a-z]+s)\b", m.string[m.end() :])
        is_counted = after is not None and after[1] not in _NOT_PLURAL and not after[1].endswith("ss")
        if not is_counted or (before is not None and before[1] in _YEAR_BEFORE):
            return year(int(text))
    # A long number without separators is a code: an account, a telephone.
    return digits(text) if text.isdecimal() and len(text) >= 10 else amount(text)


def _number(m: Match) -> str:
    return _plain_number(m[0], m)


def _symbol(m: Match) -> str:
    word: str = DATA["symbols"][m[0]]
    return word


#: Currencies of countries that group thousands by points.
_POINTED = any_of(DATA["pointed_currencies"]["signs"].split())


def _grouped(text: str) -> str:
    return f"{int(text.replace(',', '')):,}"


_GROUPS: list[Rule] = [
    (re.compile(r"(?<![\w.,])0,(\d{1,3})(?![\w,])"), lambda m: f"0.{m[1]}"),
    (re.compile(r"\b401\(k\)"), lambda _: "four oh one K"),
    (re.compile(r"(?<=\w)\((?=\w)"), lambda _: " ("),
    (re.compile(r"\b([A-Z])–([A-Z])\b|\b(A)-(Z)\b"), lambda m: f"{m[1] or m[3]} to {m[2] or m[4]}"),
    (re.compile(r"\b50-50\b"), lambda _: "fifty-fifty"),
    (re.compile(r"(?<=\d)!(?= ?[=+*×/÷-])"), lambda _: " factorial"),
    (re.compile(r"\b7-(?=Eleven|Up\b)"), lambda _: "7 "),
    # thousands as in India, and with points in prices of currencies that are written so
    (re.compile(r"(?<![\w.,])\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])"), lambda m: _grouped(m[0])),
    (
        re.compile(
            rf"((?:{_POINTED})\.?\s?)(\d{{1,3}}(?:\.\d{{3}})+)(?![\d.]\d|\d)|(?<![\w.,])(\d{{1,3}}(?:\.\d{{3}})+)(?=\s?(?:{_POINTED})(?!\w))"
        ),
        lambda m: (m[1] or "") + (m[2] or m[3]).replace(".", ","),
    ),
    # thousands with blanks, points and apostrophes; decimal commas beside a unit
    (
        re.compile(r"(?<![\w.,])\d{1,3}(?:([ \u00a0\u2009\u202f'])\d{3})(?:\1\d{3})*(?![\d\w]|[ \u00a0-]\d|\.\d{3})"),
        lambda m: re.sub(r"\D", ",", m[0]),
    ),
    (re.compile(r"\s"), lambda _: " "),
    (
        re.compile(r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,}(?![\w.]\d)|(?<![\w.,])\d{1,3}(?:\.\d{3})+(?=,\d{1,2}(?!\d))"),
        lambda m: m[0].replace(".", ","),
    ),
    (
        re.compile(
            r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d+),(\d{1,2})(?=\s?(?:[€£$₺₽%]|zł|Kč|°|(?:EUR|CHF|USD|km|kg|cm|mm|m)\b))"
        ),
        lambda m: f"{m[1]}.{m[2]}",
    ),
    (re.compile(r"(?<![\w.,])(\d{1,3}(?:,\d{3})*|\d+),(\d{2})(?![\w,]|\.\d)"), lambda m: f"{m[1]}.{m[2]}"),
]
_ADDRESSES: list[Rule] = [
    # the web
    (re.compile(r"\bhttps?://[^\s<>\"]+|\bwww\.[^\s<>\"]+", re.I), _url),
    (re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"), lambda m: _web(m[0])),
    (
        re.compile(
            r"(?<![\w.@/-])(?:[a-z0-9-]+\.)+(?:com|org|net|io|ai|dev|edu|gov|co|app|de|uk|eu|info)(?:/[\w./?=&%#~+-]*[\w/])?(?![\w])",
            re.I,
        ),
        _url,
    ),
    (
        re.compile(r"\b(localhost|[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}):(\d{2,5})\b"),
        lambda m: f"{_web(m[1])} port {amount(m[2])}",
    ),
    (re.compile(r"(?<!\S)(?:~|\.{1,2})?(?:/[\w.-]*\w){2,}/?(?![\w/])"), lambda m: _web(m[0])),
    (re.compile(r"(?<![\w&])([#@])([A-Za-z]\w*|\d+[A-Za-z]{3}\w*)"), _hashtag),
    # telephones, network addresses, versions
    (
        re.compile(
            r"\(\d{3}\)\s?\d{3}[-. ]\d{4}\b|\(0\d{2,4}\) ?\d{3,4}[ -]?\d{3,4}(?![\w-])|(?<![\w.-])\+\d{1,3}(?:[ .-]?\(?\d{1,5}\)?){2,6}(?![\d-])|(?<![\w.-])(?:1-)?\d{3}([-.])\d{3}\1\d{4}(?![\w-])|(?<![\w.-])\d{3}-\d{4}(?![\w-])|(?<![\w.-])0\d{2,4}[ /-]\d{3,4}(?:[ -]?\d{3,4})?(?![\w-])"
        ),
        _telephone,
    ),
    (re.compile(r"(?<![\w.])(\d{1,3}(?:\.\d{1,3}){3})(?::(\d{1,5})|/(\d{1,2}))?(?![\w]|\.\d)"), _address),
    (
        re.compile(
            r"(?<![\w.])(v\.?\s?(?=\d)|V\.?(?=\d+\.\d))(\d{1,4}(?:\.\d{1,4})*)(?:-?((?:alpha|beta|rc)\d*))?(?![\w]|\.\d)"
        ),
        _version,
    ),
    (
        re.compile(r"(?<![\w.])()(\d{1,4}(?:\.\d{1,4}){2,})()(?![\w]|\.\d)"),
        lambda m: dates.point_date(m) or _version(m),
    ),
]
_SIGNS: list[Rule] = [
    # chess and mathematics
    (re.compile(r"\b([KQRBN])([a-h]?[1-8]?)(x?)([a-h][1-8])([+#]?)(?!\w)"), _chess),
    (
        re.compile(r"\b([a-h])x([a-h])([1-8])([+#]?)(?!\w)"),
        lambda m: (
            f"{m[1].upper()} takes {m[2].upper()} {cardinal(int(m[3]))}"
            + {"+": " check", "#": " checkmate"}.get(m[4], "")
        ),
    ),
    (re.compile(r"\b([CF])#(?!\w)"), lambda m: f"{m[1]} sharp"),
    (
        re.compile(
            r"(?<!\w)\.(?=[A-Za-z])|(?<=\w)\.(?=(?:txt|pdf|py|js|ts|html?|css|json|csv|xml|ya?ml|md|docx?|xlsx?|pptx?|zip|tar|gz|exe|png|jpe?g|gif|svg|mp[34]|wav|toml|sh|net|js)\b)"
        ),
        lambda m: " dot " if m.start() and m.string[m.start() - 1].isalnum() else "dot ",
    ),
    (re.compile(r"\bO-O(?:-O)?\b|\b0-0-0\b"), _castling),
    (re.compile(r"(?<!\w)([a-h])([1-8])(?!\w)"), lambda m: f"{m[1].upper()} {cardinal(int(m[2]))}"),
    (
        re.compile(
            r"[\w.,()²³^%]+(?:\s?[*×÷/<>+–-]\s?[\w.,()²³^]+)*\s?[=<>]\s?[-\w.,()²³^]+(?:\s?[*×÷/=<>+–-]\s?[\w.,()²³^]+)*|(?<![\w.])\d+(?:\.\d+)?(?:\s[*×÷/+]\s\d+(?:\.\d+)?)+|(?<=[\w²³)])\s[+]\s(?=[\w(])"
        ),
        _operators,
    ),
    (
        re.compile(r"\^([-+]?\d+)"),
        _power,
    ),
]
_PLAIN_NUMBERS: list[Rule] = [
    (re.compile(rf"(?<=\d(?:st|nd|rd|th)){TO}(?=\d+(?:st|nd|rd|th)\b)"), lambda _: " to "),
    # plain numbers
    (
        re.compile(rf"\b({any_of(DATA['codes']['words'].split())})(:? (?:is )?)(\d{{3,}})(?![\w.])"),
        lambda m: f"{m[1]}{m[2]}{digits(m[3])}",
    ),
    (re.compile(r"(?<![\w.])(\d+)(?:st|nd|rd|th)\b"), lambda m: ordinal(int(m[1])) if len(m[1]) < 30 else digits(m[1])),
    (
        re.compile(
            rf"(?<![\w.,–-])(\d{{1,3}}(?:,\d{{3}})+|\d{{1,6}}(?:\.\d+)?){TO}(\d{{1,3}}(?:,\d{{3}})+|\d{{1,6}}(?:\.\d+)?)(?![\w–-]|\.\d)"
        ),
        _range,
    ),
    (re.compile(r"(?<=[A-Za-z])-?(?=\d)|(?<=\d)(?=[A-Za-z])"), lambda _: " "),
    (re.compile(r"~\s?(?=\d)"), lambda _: "about "),
    (re.compile(rf"(?<![\w.)])-(?={NUM})"), lambda _: "minus "),
    (re.compile(rf"(?<![\w.+])\+(?={NUM})"), lambda _: "plus "),
    (re.compile(r"(?<=\w)\+\+"), lambda _: " plus plus"),
    (re.compile(NUM), _number),
    # remaining symbols
    (re.compile(any_of(DATA["symbols"])), _symbol),
    (re.compile(r"([!?.,])\1+(?<!\.\.\.)"), lambda m: m[1]),
]
_RULES = [
    *_GROUPS,
    *_ADDRESSES,
    *names.NUMBERED,
    *dates.RULES,
    *quantities.RULES,
    *names.RULES,
    *_SIGNS,
    *_PLAIN_NUMBERS,
]
