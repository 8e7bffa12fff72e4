"""Languages: which there are, which one a visitor wants, texts from .po files, numbers and dates as written there."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from gettext import NullTranslations
from pathlib import Path
from typing import Any

from babel import Locale
from babel.dates import format_date, format_datetime, format_skeleton
from babel.messages.pofile import read_po
from babel.numbers import NumberPattern, format_decimal, format_percent, parse_pattern

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.money import NANO_PER_DOLLAR

#: Path prefix → what the language calls itself.
LANGUAGES = {
    "en": "English",
    "pt": "Português",
    "de": "Deutsch",
    "id": "Bahasa Indonesia",
    "tr": "Türkçe",
    "es": "Español",
    "fr": "Français",
}
DEFAULT = "en"
#: So many numbers, amounts and days are kept as they were written, in each language.
MOST_KEPT = 5_000
FOLDER = Path(__file__).parent / "locale"
_LOCALES = {lang: Locale.parse({"pt": "pt_BR", "en": "en_US"}.get(lang, lang)) for lang in LANGUAGES}


def N_(message: str) -> str:  # noqa: N802 - gettext's own name
    """Mark a text for translation where it stands; `Texts.gettext` translates it where it is shown."""
    return message


def preferred(accept_language: str, cookie: str = "") -> str:
    """The language for a visitor: the one chosen before, else the best of `Accept-Language`, else English."""
    if cookie in LANGUAGES:
        return cookie
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept_language[:500].split(",")):
        tag, _, quality = part.strip().partition(";q=")
        lang = tag.split("-")[0].lower()
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            continue
        # "in" is what some systems still call Indonesian.
        lang = "id" if lang == "in" else lang
        if lang in LANGUAGES and weight > 0:
            wanted.append((-weight, place, lang))
    return min(wanted)[2] if wanted else DEFAULT


def po_files(lang: str) -> list[Path]:
    """The catalogs of a language, one for each part of the portal."""
    return sorted((FOLDER / lang / "LC_MESSAGES").glob("*.po"))


def plural_form(lang: str, n: int) -> int:
    """Which of a language's forms a count takes."""
    if lang in ("id", "tr"):
        return 0
    return int(n > 1) if lang in ("fr", "pt") else int(n != 1)


class Texts(NullTranslations):
    """gettext over .po files, read once: no build step, no .mo files."""

    def __init__(self, lang: str) -> None:
        super().__init__()
        self.lang = lang
        self._texts: dict[str, tuple[str, ...]] = {}
        for path in po_files(lang):
            with path.open("rb") as file:
                catalog = read_po(file)
            for message in catalog:
                forms: Any = message.string if isinstance(message.string, tuple) else (message.string,)
                if message.id and all(forms):
                    self._texts[message.id if isinstance(message.id, str) else message.id[0]] = tuple(forms)

    def gettext(self, message: str) -> str:
        return self._texts.get(message, (message,))[0]

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        form = plural_form(self.lang, n)
        forms = self._texts.get(msgid1, (msgid1, msgid2))
        return forms[min(form, len(forms) - 1)]


@cache
def texts(lang: str) -> Texts:
    """The texts of a language; the first call reads its files."""
    return Texts(lang)


class Writing:
    """Numbers, money and moments as a language writes them. Moments are UTC."""

    def __init__(self, lang: str) -> None:
        self.locale = _LOCALES[lang]
        self._pattern = _money_pattern(self.locale)
        # A page of usage writes hundreds of them, and the next look at it mostly the same ones.
        self._number, self._money = lru_cache(MOST_KEPT)(self._write_number), lru_cache(MOST_KEPT)(self._write_money)
        self._day, self._short_day = lru_cache(MOST_KEPT)(self._write_day), lru_cache(MOST_KEPT)(self._write_short_day)

    def number(self, value: int | float | Decimal) -> str:
        """1234567 → 1,234,567"""
        return self._number(value)

    def _write_number(self, value: int | float | Decimal) -> str:
        return format_decimal(value, locale=self.locale)

    def percent(self, value: float) -> str:
        """0.125 → 12.5%"""
        return format_percent(value, locale=self.locale, format=None)

    def money(self, nano: int) -> str:
        """Nano-dollars, exact: as many places as it takes, two at least."""
        return self._money(nano)

    def _write_money(self, nano: int) -> str:
        amount = Decimal(nano) / NANO_PER_DOLLAR
        return str(self._pattern.apply(amount, self.locale, currency="USD", currency_digits=False))

    def cents(self, nano: int) -> str:
        """The same to the cent, rounded towards zero: what is shown is there."""
        cents = abs(nano) // 10_000_000 * (1 if nano >= 0 else -1)
        return self.money(cents * 10_000_000)

    def day(self, ms: int) -> str:
        """The date alone."""
        return self._day(ms // MS_PER_DAY)

    def _write_day(self, day: int) -> str:
        return format_date(_moment(day * MS_PER_DAY), format="medium", locale=self.locale)

    def short_day(self, ms: int) -> str:
        """Day and month, for the axis of a chart."""
        return self._short_day(ms // MS_PER_DAY)

    def _write_short_day(self, day: int) -> str:
        return str(format_skeleton("MMMd", _moment(day * MS_PER_DAY), locale=self.locale))

    def moment(self, ms: int) -> str:
        """Date and time, to the minute."""
        return format_datetime(_moment(ms), format="medium", locale=self.locale)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _money_pattern(locale: Locale) -> NumberPattern:
    pattern: Any = locale.currency_formats["standard"].pattern
    return parse_pattern(pattern.replace("0.00", "0.00#######"))


@cache
def writing(lang: str) -> Writing:
    """How a language writes numbers."""
    return Writing(lang)
