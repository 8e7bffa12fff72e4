"""The shop's own name, colours and pages: the table `[shop]` of the catalog, validated.

Everything that customers see carries this name. Without the table, the shop has the name of the program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import parseaddr
from pathlib import Path

import msgspec

from minitoolai import __version__

#: The name of the program, and of a shop without a name of its own.
PROGRAM = "MiniToolAI"
#: The languages of the portal (a test compares them with its own).
LANGUAGES = ("en", "pt", "de", "id", "tr", "es", "fr")
LARGEST_LOGO, LARGEST_PAGE = 256 * 1024, 256 * 1024
#: Least contrast of text (WCAG 2.2, 1.4.3).
LEAST_CONTRAST = 4.5
#: Backgrounds of the portal in light and in dark: paper and cards.
LIGHT, DARK = ("#fafaf8", "#ffffff"), ("#14161b", "#1b1e25")
_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
_SIGNATURES = {".png": b"\x89PNG\r\n", ".webp": b"RIFF", ".jpg": b"\xff\xd8\xff"}

#: One file for all languages, or one for each.
PageFiles = str | dict[str, str]


class ShopEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shop in the file: what customers see instead of the program's name. Files are relative to the catalog."""

    #: name of the shop, at most 60 characters.
    name: str = ""
    #: file of the logo: SVG, PNG, WebP or JPEG, at most 256 kB. Absent: the first letter of the name.
    logo: str = ""
    #: colour of links and buttons, like "#0b6e4f", on light and on dark pages. Text in it needs a contrast of 4.5:1.
    accent: str = ""
    accent_dark: str = ""
    #: host at which customers reach the shop, like "ai.example.com"; MINITOOLAI_PUBLIC_URL overrides it.
    domain: str = ""
    #: e-mail address for questions, shown on every page and in every e-mail.
    support: str = ""
    #: sender of e-mails, like "Acme AI <hello@example.com>". Absent: MINITOOLAI_MAIL_FROM.
    mail_from: str = ""
    #: Markdown files of the terms, the privacy policy and the imprint: one, or one for each language, like
    #: { en = "terms.md", de = "agb.md" }. A language without a file shows that of `language`.
    terms: PageFiles = ""
    privacy: PageFiles = ""
    imprint: PageFiles = ""
    #: Markdown file of the shop's own changelog, with `## version or day` and `### subject`; files as above.
    changelog: PageFiles = ""
    #: on invoices: the legal name of the seller, its postal address (lines separated by \n), its country as two capital
    #: letters, and its tax number.
    company: str = ""
    address: str = ""
    country: str = ""
    tax_number: str = ""
    #: language of the pages for readers whose language has none.
    language: str = "en"
    #: a line at the foot of every page.
    footer: str = ""
    #: show "Powered by MiniToolAI" at the foot of every page.
    powered_by: bool = True


class Logo(msgspec.Struct, frozen=True):
    """The logo: its bytes, and their media type."""

    body: bytes
    media_type: str


class Shop(msgspec.Struct, frozen=True):
    """The shop, validated. `pages` are Markdown texts by page and language."""

    name: str = PROGRAM
    logo: Logo | None = None
    accent: str = ""
    accent_dark: str = ""
    domain: str = ""
    support: str = ""
    mail_from: str = ""
    pages: dict[str, dict[str, str]] = {}
    language: str = "en"
    footer: str = ""
    powered_by: bool = True
    company: str = ""
    address: str = ""
    country: str = ""
    tax_number: str = ""

    @property
    def is_own(self) -> bool:
        """Return True if the shop has a name of its own."""
        return self.name != PROGRAM

    @property
    def slug(self) -> str:
        """Return the name as programs write it: `acme-ai`."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "shop"

    @property
    def plain_name(self) -> str:
        """Return the name, or the slug of one that metadata of files cannot hold."""
        return self.name if self.name.isascii() and ")" not in self.name else self.slug

    @property
    def key_variable(self) -> str:
        """Return the environment variable in which examples expect the API key: `ACME_AI_API_KEY`."""
        return f"{self.slug.replace('-', '_').upper()}_API_KEY" if self.is_own else "MINITOOL_API_KEY"

    @property
    def user_agent(self) -> str:
        """Return the name with which the server calls addresses of customers."""
        return self.slug if self.is_own else f"{self.slug}/{__version__}"

    @property
    def generator(self) -> tuple[str, ...]:
        """Return the name that images and manifests give the program, and its version if that is its own name."""
        return (self.name,) if self.is_own else (PROGRAM, __version__)

    @property
    def version(self) -> str:
        """Return the value of `Version` in the parameters of an image: the shop's name, or this program's."""
        return self.name if self.is_own else f"{PROGRAM.lower()} {__version__}"

    @property
    def public_url(self) -> str:
        """Return the address of the shop, or "" if the catalog names none."""
        return f"https://{self.domain}" if self.domain else ""

    def page(self, name: str, lang: str) -> str:
        """Return the Markdown of a page in a language, else in the shop's own; "" if there is none."""
        texts = self.pages.get(name, {})
        return texts.get(lang) or texts.get(self.language) or next(iter(texts.values()), "")

    def page_language(self, name: str, lang: str) -> str:
        """Return the language of the text that `page` returns."""
        texts = self.pages.get(name, {})
        return next((one for one in (lang, self.language, *texts) if one in texts), lang)


#: The shop of a catalog without `[shop]`.
UNNAMED = Shop()


class InvalidShop(ValueError):
    """A key of `[shop]` is wrong: its name, and what to write instead."""

    def __init__(self, key: str, remedy: str) -> None:
        super().__init__(f"{key}: {remedy}")
        self.key, self.remedy = key, remedy


def read_shop(entry: ShopEntry, folder: Path) -> Shop:
    """Return the shop of an entry whose files are relative to this folder. Raise InvalidShop."""
    for key in ("name", "footer"):
        _check_line(key, getattr(entry, key), 60 if key == "name" else 300)
    if not entry.name and entry != ShopEntry():
        raise InvalidShop("name", 'a shop needs name = "Acme AI"')
    if PROGRAM.lower() in entry.name.lower():
        raise InvalidShop("name", f"{PROGRAM} is the name of the program; write the name of your shop")
    if entry.language not in LANGUAGES:
        raise InvalidShop("language", f"{entry.language!r} is not a language of the pages: {', '.join(LANGUAGES)}")
    _check_domain(entry.domain)
    _check_mail("support", entry.support, "help@example.com")
    _check_mail("mail_from", parseaddr(entry.mail_from)[1] if entry.mail_from else "", "Acme AI <hello@example.com>",
                entry.mail_from)  # fmt: skip
    _check_colours(entry.accent, entry.accent_dark)
    _check_seller(entry)
    return Shop(
        name=entry.name or PROGRAM,
        logo=_read_logo(entry.logo, folder) if entry.logo else None,
        accent=entry.accent.lower(),
        accent_dark=entry.accent_dark.lower(),
        domain=entry.domain.lower(),
        support=entry.support,
        mail_from=entry.mail_from,
        pages=dict(_read_pages(entry, folder)),
        language=entry.language,
        footer=entry.footer,
        powered_by=entry.powered_by,
        company=entry.company,
        address=entry.address.strip(),
        country=entry.country,
        tax_number=entry.tax_number,
    )


def _check_seller(entry: ShopEntry) -> None:
    """Check what invoices show of the seller."""
    _check_line("company", entry.company, 100)
    _check_line("tax_number", entry.tax_number, 40)
    if len(entry.address) > 400 or not entry.address.replace("\n", "").isprintable():
        raise InvalidShop("address", 'write the postal address in a few lines: address = "1 Main St\\nIzmir"')
    if entry.country and not re.fullmatch("[A-Z]{2}", entry.country):
        raise InvalidShop("country", f'{entry.country!r} is not a country; write its two capital letters, like "DE"')
    if entry.company and not (entry.address and entry.country):
        raise InvalidShop("company", "invoices with a company also need its address and country")


def _check_line(key: str, text: str, longest: int) -> None:
    if len(text) > longest:
        raise InvalidShop(key, f"{key} has {len(text)} characters; shorten it to {longest}")
    if text != text.strip() or not text.isprintable():
        raise InvalidShop(key, f"{key} must be one line of visible characters, without blanks around it")


def _check_domain(domain: str) -> None:
    labels = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
    if domain and not re.fullmatch(rf"{labels}(\.{labels})*(:\d{{1,5}})?", domain.lower()):
        raise InvalidShop("domain", f'{domain!r} is not a host; write it without https:// and path: "ai.example.com"')


def _check_mail(key: str, address: str, example: str, written: str | None = None) -> None:
    written = address if written is None else written
    if not written:
        return
    if not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", address) or not written.isprintable():
        raise InvalidShop(key, f'{written!r} is not an e-mail address; write it like "{example}"')


# ── colours ───────────────────────────────────────────────────────────────────────────────────────────────


def _check_colours(accent: str, accent_dark: str) -> None:
    if bool(accent) != bool(accent_dark):
        missing = "accent_dark" if accent else "accent"
        raise InvalidShop(missing, "accent is for light pages and accent_dark for dark ones: write both or neither")
    for key, colour, pages, towards in (
        ("accent", accent, LIGHT, "#000000"),
        ("accent_dark", accent_dark, DARK, "#ffffff"),
    ):
        if not colour:
            continue
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
            raise InvalidShop(key, f'{colour!r} is not a colour; write it like "#0b6e4f"')
        least = min(contrast(colour, page) for page in pages)
        if least < LEAST_CONTRAST:
            better = _readable(colour, pages, towards)
            mode, shade = ("light", "darker") if key == "accent" else ("dark", "lighter")
            raise InvalidShop(
                key,
                f"text in {colour} has a contrast of {least:.1f}:1 on {mode} pages and needs {LEAST_CONTRAST}:1; "
                f'choose a {shade} colour, such as "{better}"',
            )


def _readable(colour: str, pages: tuple[str, ...], towards: str) -> str:
    for share in range(1, 21):
        better = mix(colour, towards, share / 20)
        if all(contrast(better, page) >= LEAST_CONTRAST for page in pages):
            return better
    return towards


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def mix(colour: str, other: str, share: float) -> str:
    """Return a colour with this share of the other one."""
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round(mine + (theirs - mine) * share):02x}" for mine, theirs in pairs)


def contrast(colour: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2.2), 1 to 21."""
    darker, lighter = sorted((_luminance(colour), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────


def _read(key: str, path: Path, largest: int) -> bytes:
    try:
        with path.open("rb") as file:
            body = file.read(largest + 1)
    except OSError as error:
        raise InvalidShop(key, f"{path} cannot be read: {error.strerror}; write a path beside the catalog") from None
    if len(body) > largest:
        raise InvalidShop(key, f"{path.name} is larger than {largest // 1024} kB; make it smaller")
    return body


def _read_logo(name: str, folder: Path) -> Logo:
    path = folder / name
    suffix = path.suffix.lower().replace(".jpeg", ".jpg")
    if suffix not in _MEDIA_TYPES:
        raise InvalidShop("logo", f"{path.name} is not an image; save it as SVG, PNG, WebP or JPEG")
    body = _read("logo", path, LARGEST_LOGO)
    is_image = body.startswith(_SIGNATURES[suffix]) if suffix in _SIGNATURES else b"<svg" in body[:4096]
    if not is_image:
        raise InvalidShop("logo", f"{path.name} is not what its name says; save it as SVG, PNG, WebP or JPEG")
    return Logo(body, _MEDIA_TYPES[suffix])


def _read_pages(entry: ShopEntry, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for key in ("terms", "privacy", "imprint", "changelog"):
        files: PageFiles = getattr(entry, key)
        if not files:
            continue
        by_language = files if isinstance(files, dict) else {entry.language: files}
        for lang in by_language:
            if lang not in LANGUAGES:
                raise InvalidShop(key, f"{lang!r} is not a language of the pages: {', '.join(LANGUAGES)}")
        texts: dict[str, str] = {}
        for lang, name in by_language.items():
            try:
                texts[lang] = _read(key, folder / name, LARGEST_PAGE).decode().removeprefix("\ufeff")
            except UnicodeDecodeError:
                raise InvalidShop(key, f"{name} is not UTF-8; save the file as UTF-8") from None
            if not texts[lang].strip():
                raise InvalidShop(key, f"{name} is empty; write the text, or remove the key")
        if entry.language not in texts:
            raise InvalidShop(key, f"readers of other languages get the file of {entry.language!r}; add one")
        yield key, texts
