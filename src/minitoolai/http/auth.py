"""Header to Caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from minitoolai.accounts.keys import KeyPolicy, KeyVerifier
from minitoolai.core.errors import AccessDenied
from minitoolai.core.models import Caller
from minitoolai.http.asgi import header, headers_by_name
from minitoolai.http.request_context import NOTES

#: Where a request's Idempotency-Key, once it is claimed, stands in its scope.
CLAIM: Final = "minitoolai.claim"


async def authenticate(scope: Mapping[str, Any], keys: KeyVerifier) -> Caller:
    """The caller behind `Authorization: Bearer sk-…`; AccessDenied says what is missing.

    `scope` is the whole ASGI scope: what a key permits may depend on more than the headers.
    """
    value = headers_by_name(scope).get(b"authorization")
    if value is None:
        raise AccessDenied(
            "no key: send the header Authorization: Bearer sk-…", code="invalid_api_key", param="Authorization"
        )
    if value[:7].lower() != b"bearer ":
        raise AccessDenied("the header Authorization must read: Bearer sk-…", param="Authorization")
    key = value[7:].strip().decode("latin-1")
    caller = keys.remembered(key) or await keys.recognise(key)
    if keys.admission is not None:
        _admit(scope, caller, keys.admission)
    claim = scope.get(CLAIM)
    return caller if claim is None else replace(caller, claim=claim)


def _admit(scope: Mapping[str, Any], caller: Caller, admission: KeyPolicy) -> None:
    """KeyForbids, RateLimited; either way the answer tells how much is left. A request counts once."""
    if caller.rules is not None:
        peer = scope.get("client") or ("", 0)
        admission.check(caller, peer[0], header(scope, b"x-forwarded-for").decode("latin-1"))
    notes = scope.get(NOTES)
    if notes is None or notes.is_counted:
        return
    headers, refusal = admission.count(caller)
    notes.is_counted = True
    notes.add(headers)
    if refusal is not None:
        raise refusal
