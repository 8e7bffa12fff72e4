"""The search: one box that takes part of an e-mail address or any ID, and leads to the account or the request.

The text is sent in the body of a form, because it may be a voucher or a whole API key: neither belongs in an address,
which browsers and proxies keep.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from starlette.responses import Response

from minitoolai.billing.payments import CODE_ALPHABET, CODE_LENGTH, code_hmac
from minitoolai.chat.stored.items import parse_item_name, parse_response_name
from minitoolai.core.clock import generation_name, parse_generation_name
from minitoolai.core.models import Payment, User, Voucher
from minitoolai.core.signing import SecretKeys, all_keys
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, page
from minitoolai.storage.database import Connection
from minitoolai.storage.insight.requests import FoundKey, find_request, search_keys
from minitoolai.storage.tables import payments, reports

MAX_ROWS = 50
MAX_KEYS = 20
#: A shorter beginning of a key is not looked for: it would find everything.
LEAST_PREFIX = 4
KEY_PREFIX = "sk-mt-"
KEY_ID_LENGTH = 12


class Found(NamedTuple):
    """What a search found beside accounts: `place` is the page to redirect to."""

    place: str = ""
    keys: tuple[FoundKey, ...] = ()
    voucher: Voucher | None = None


@form("/admin/search", access="admin")
async def search(page: PageRequest) -> Response:
    """Redirect to the result if there is only one; otherwise list all."""
    words = page.form["q"][:200].replace("\0", "").strip()
    found = await page.report(_find, words, page.site.secret_keys)
    if found.place:
        return page.redirect(found.place)
    if found.keys or found.voucher:
        return page.render(
            "admin/accounts.html", words=_without_secret(words), found=[], keys=found.keys, voucher=found.voucher,
            older=None, newer=False,
        )  # fmt: skip
    return page.redirect(f"/admin/accounts?q={quote(_without_secret(words))}")


def _find(connection: Connection, words: str, secret_keys: SecretKeys) -> Found:
    """Find by ID first, then by key, then by e-mail address."""
    if place := _by_id(connection, words):
        return Found(place)
    if (voucher := _voucher(connection, words, secret_keys)) is not None:
        return Found(_account(voucher.account_id) if voucher.account_id is not None else "", voucher=voucher)
    keys = tuple(search_keys(connection, prefix, MAX_KEYS)) if (prefix := _key_prefix(words)) else ()
    users = [] if words.startswith(KEY_PREFIX) else reports.search_users(connection, words, 2)
    accounts = {key.account_id for key in keys} | {user.account_id for user in users}
    if words and len(accounts) == 1:
        return Found(_account(accounts.pop()))
    # Part of an e-mail address may look like the beginning of a key.
    return Found(keys=() if users else keys)


def _by_id(connection: Connection, words: str) -> str:
    """Return the page of what has exactly this ID, or ""."""
    item = parse_item_name(words)
    generation_id = parse_generation_name(words) or parse_response_name(words) or (item.response if item else None)
    if generation_id is not None and find_request(connection, generation_id) is not None:
        return f"/admin/requests/{generation_name(generation_id)}"
    if words.isascii() and words.isdigit() and len(words) < 16:
        return "" if reports.find_customer(connection, int(words)) is None else _account(int(words))
    payment = _payment(connection, words)
    return "" if payment is None else _account(payment.account_id)


def _payment(connection: Connection, words: str) -> Payment | None:
    """Return the payment with this number, or this reference of the provider."""
    if words.isascii() and words.isdigit() and 15 < len(words) < 19:
        return payments.find_payment(connection, int(words))
    if "_" not in words:
        return None
    return payments.payment_by_ref(connection, words) or payments.payment_by_intent(connection, words)


def _voucher(connection: Connection, words: str, secret_keys: SecretKeys) -> Voucher | None:
    code = words.upper().replace("-", "").replace(" ", "")
    if len(code) != CODE_LENGTH or set(code) - set(CODE_ALPHABET):
        return None
    hmacs = (code_hmac(code, secret) for secret in all_keys(secret_keys))
    return next((found for one in hmacs if (found := payments.find_voucher(connection, one)) is not None), None)


def _key_prefix(words: str) -> str:
    """Return the beginning of a key's ID that these words may be, or ""."""
    text = words.removeprefix(KEY_PREFIX).partition("-")[0].rstrip("…")
    return text if LEAST_PREFIX <= len(text) <= KEY_ID_LENGTH and text.isascii() and text.isalnum() else ""


def _without_secret(words: str) -> str:
    """Return the words without the secret part of a key."""
    return words[: len(KEY_PREFIX) + KEY_ID_LENGTH] if words.startswith(KEY_PREFIX) else words


def _account(account_id: int) -> str:
    return f"/admin/accounts/{account_id}"


@page("/admin/accounts", access="admin")
async def accounts(page: PageRequest) -> Response:
    """List accounts, newest first, with this text in the e-mail address or with this number."""
    words = page.query.get("q", "")[:200].replace("\0", "").strip()
    below = page.query_number("below")
    found: list[User] = await page.report(reports.search_users, words, MAX_ROWS + 1, below)
    older = found[MAX_ROWS - 1] if len(found) > MAX_ROWS else None
    return page.render(
        "admin/accounts.html", words=words, found=found[:MAX_ROWS], keys=(), voucher=None, older=older,
        newer=below is not None,
    )  # fmt: skip


HANDLERS: list[Handler] = [search, accounts]
