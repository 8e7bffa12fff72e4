"""Normalize e-mail addresses and passwords: one mailbox is one account, and a password works on every keyboard."""

from __future__ import annotations

import re
import unicodedata

from minitoolai.core.errors import InvalidRequest

MAX_EMAIL_LENGTH = 254
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")
_ASCII_DOMAIN = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
#: Categories of characters that are not seen or have no meaning: controls, formats, separators, unassigned ones.
_INVISIBLE_CATEGORIES = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"))
#: Characters of other categories that have no glyph of their own either (Unicode's Default_Ignorable_Code_Point).
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


# ── e-mail addresses ──────────────────────────────────────────────────────────────────────────────────────


def check_email(text: str) -> str:
    """Return the address as it is stored. Two spellings of one mailbox give the same text. Raise InvalidRequest.

    The local part is NFC and lower case: no provider in use distinguishes case. The domain is mapped by UTS 46 and
    checked by IDNA 2008; it is kept in its Unicode form, which people read. `ascii_email` is the one for mail servers.
    """
    email = unicodedata.normalize("NFC", text.strip(" \t\r\n"))
    local, _, domain = email.rpartition("@")
    if not _ADDRESS.fullmatch(email) or _has_invisible(email):
        raise _refusal(text)
    # Lower case may compose anew, as for a dotted capital I.
    local = unicodedata.normalize("NFC", local.lower())
    ascii_domain = _ascii_domain(domain, text)
    found = f"{local}@{_display_domain(ascii_domain)}"
    if len(f"{local}@{ascii_domain}".encode()) > MAX_EMAIL_LENGTH or not _ADDRESS.fullmatch(found):
        raise _refusal(text)
    return found


def ascii_email(email: str) -> str:
    """Return the address with its domain in the ASCII form, which every mail server understands."""
    local, _, domain = email.rpartition("@")
    return f"{local}@{_ascii_domain(domain, email)}"


def email_forms(text: str) -> list[str]:
    """Return the forms under which this mailbox may be stored: the present one first, then those of older versions."""
    forms = [text.strip().lower()]
    try:
        email = check_email(text)
    except InvalidRequest:
        # An account of an older version may have an address that is not accepted any more.
        return forms
    composed = [email, ascii_email(email), *forms]
    return list(dict.fromkeys([*composed, *(unicodedata.normalize("NFD", form) for form in composed)]))


def _has_invisible(text: str) -> bool:
    return (
        not text.isascii()
        and (
            _INVISIBLE.search(text) is not None
            or any(unicodedata.category(character) in _INVISIBLE_CATEGORIES for character in text)
        )
    ) or any(ord(character) < 0x20 or ord(character) == 0x7F for character in text)


def _ascii_domain(domain: str, text: str) -> str:
    # A trailing dot names the same domain.
    domain = domain.removesuffix(".")
    if domain.isascii() and "xn--" not in domain.lower():
        if len(domain) <= 253 and _ASCII_DOMAIN.fullmatch(domain.lower()):
            return domain.lower()
        raise _refusal(text)
    import idna  # its tables take 10 ms, and few addresses need them

    try:
        return idna.encode(domain, uts46=True, std3_rules=True).decode().removesuffix(".")
    except idna.IDNAError as error:
        raise _refusal(text) from error


def _display_domain(domain: str) -> str:
    if "xn--" not in domain:
        return domain
    import idna

    return idna.decode(domain)


def _refusal(text: str) -> InvalidRequest:
    shown = text.encode("unicode_escape", "backslashreplace").decode() if not text.isprintable() else text
    return InvalidRequest(f"{shown[:100]!r} is not an e-mail address. Use the form ann@example.com.", param="email")


# ── passwords ─────────────────────────────────────────────────────────────────────────────────────────────


def normalize_password(password: str) -> str:
    """Return the password as it is hashed (RFC 8265, OpaqueString): NFC, and every other space is a plain space."""
    if password.isascii():
        return password
    spaced = "".join(" " if unicodedata.category(character) == "Zs" else character for character in password)
    return unicodedata.normalize("NFC", spaced)


def password_forms(password: str) -> list[str]:
    """Return the forms under which a password may have been hashed: the normalized one, then as older versions did."""
    normalized = normalize_password(password)
    return list(dict.fromkeys((normalized, password, unicodedata.normalize("NFD", normalized))))
