"""Internationalisation: the languages, the choice for a visitor, translations from .po files, number formats."""

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

#: Path prefix → the language's name for itself.
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
#: Formatted numbers, amounts and days that each language caches.
FORMAT_CACHE_SIZE = 5_000
FOLDER = Path(__file__).parent / "locale"
_LOCALES = {lang: Locale.parse({"pt": "pt_BR", "en": "en_US"}.get(lang, lang)) for lang in LANGUAGES}


def N_(message: str) -> str:  # noqa: N802 - gettext's own name
    """Mark a text for translation at its definition; `Translations.gettext` translates it where it is shown."""
    return message


def preferred_language(accept_language: str, cookie: str = "") -> str:
    """Return the language for a visitor: the one in the cookie, else the best of `Accept-Language`, else English."""
    if cookie in LANGUAGES:
        return cookie
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept_language[:500].split(",")):
        # Blanks may stand around each of them, and the q may be a capital (RFC 9110, 12.4.2).
        tag, *parameters = (text.strip() for text in part.split(";"))
        lang = tag.split("-")[0].lower()
        weights = [
            value for name, _, value in (text.partition("=") for text in parameters) if name.strip().lower() == "q"
        ]
        try:
            weight = float(weights[0]) if weights else 1.0
        except ValueError:
            continue
        # Some systems still send "in", the old code of Indonesian.
        lang = "id" if lang == "in" else lang
        if lang in LANGUAGES and weight > 0:
            wanted.append((-weight, place, lang))
    return min(wanted)[2] if wanted else DEFAULT


def po_files(lang: str) -> list[Path]:
    """Return the message catalogs of a language, one per part of the portal."""
    return sorted((FOLDER / lang / "LC_MESSAGES").glob("*.po"))


def plural_form(lang: str, n: int) -> int:
    """Return the index of the plural form for a count."""
    if lang in ("id", "tr"):
        return 0
    return int(n > 1) if lang in ("fr", "pt") else int(n != 1)


class Translations(NullTranslations):
    """Translations for gettext, read once from .po files: no build step and no .mo files."""

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
def translations(lang: str) -> Translations:
    """Return the translations of a language. The first call reads its files."""
    return Translations(lang)


class Formatter:
    """Formats numbers, money and times as a language writes them. Times are UTC."""

    def __init__(self, lang: str) -> None:
        self.locale = _LOCALES[lang]
        self._pattern = _money_pattern(self.locale)
        # A usage page formats hundreds of values, and the next request mostly the same ones.
        self._number, self._money = (
            lru_cache(FORMAT_CACHE_SIZE)(self._format_number),
            lru_cache(FORMAT_CACHE_SIZE)(self._format_money),
        )
        self._day, self._short_day = (
            lru_cache(FORMAT_CACHE_SIZE)(self._format_day),
            lru_cache(FORMAT_CACHE_SIZE)(self._format_short_day),
        )

    def number(self, value: int | float | Decimal) -> str:
        """Format 1234567 as 1,234,567."""
        return self._number(value)

    def _format_number(self, value: int | float | Decimal) -> str:
        return format_decimal(value, locale=self.locale)

    def percent(self, value: float) -> str:
        """Format 0.1249 as 12.5%."""
        return format_percent(round(value, 3), locale=self.locale, decimal_quantization=False)

    def money(self, nano: int) -> str:
        """Format nano-dollars exactly, with at least two decimals."""
        return self._money(nano)

    def _format_money(self, nano: int) -> str:
        amount = Decimal(nano) / NANO_PER_DOLLAR
        return str(self._pattern.apply(amount, self.locale, currency="USD", currency_digits=False))

    def cents(self, nano: int) -> str:
        """Format nano-dollars to the cent, rounded towards zero, so that no more is shown than there is."""
        cents = abs(nano) // 10_000_000 * (1 if nano >= 0 else -1)
        return self.money(cents * 10_000_000)

    def foreign(self, cents: int, currency: str) -> str:
        """Format cents of another currency, with the code that says which."""
        amount = format_decimal(Decimal(cents) / 100, format="#,##0.00", locale=self.locale)
        return f"{amount}\u00a0{currency}"

    def rate(self, hundredths: int) -> str:
        """Format 1900 hundredths of a percent as 19%."""
        return format_percent(Decimal(hundredths) / 10_000, locale=self.locale, decimal_quantization=False)

    def day(self, ms: int) -> str:
        """Format the date."""
        return self._day(ms // MS_PER_DAY)

    def _format_day(self, day: int) -> str:
        return format_date(_utc(day * MS_PER_DAY), format="medium", locale=self.locale)

    def short_day(self, ms: int) -> str:
        """Format day and month, for the axis of a chart."""
        return self._short_day(ms // MS_PER_DAY)

    def _format_short_day(self, day: int) -> str:
        return str(format_skeleton("MMMd", _utc(day * MS_PER_DAY), locale=self.locale))

    def moment(self, ms: int) -> str:
        """Format date and time."""
        return format_datetime(_utc(ms), format="medium", locale=self.locale)


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _money_pattern(locale: Locale) -> NumberPattern:
    pattern: Any = locale.currency_formats["standard"].pattern
    return parse_pattern(pattern.replace("0.00", "0.00#######"))


@cache
def formatter(lang: str) -> Formatter:
    """Return the formatter of a language."""
    return Formatter(lang)
