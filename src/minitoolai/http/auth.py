"""Authenticate a request by its API key, and enforce the key's rules and rate limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from minitoolai.accounts.keys import KeyPolicy, KeyVerifier
from minitoolai.core.errors import AccessDenied
from minitoolai.core.models import Caller
from minitoolai.http.asgi import header, headers_by_name
from minitoolai.http.request_context import REQUEST_CONTEXT

#: Key of the request's idempotency claim in the ASGI scope.
CLAIM: Final = "minitoolai.claim"


async def authenticate(scope: Mapping[str, Any], keys: KeyVerifier) -> Caller:
    """Return the caller of `Authorization: Bearer sk-…` or `x-api-key: sk-…`. Raises AccessDenied with the reason.

    Needs the whole ASGI scope, because a key's rules may depend on the client's address.
    """
    headers = headers_by_name(scope)
    value = headers.get(b"authorization")
    if value is None:
        if b"x-api-key" not in headers:
            raise AccessDenied("Missing API key. Send the header Authorization: Bearer sk-…", param="Authorization")
        value = b"Bearer " + headers[b"x-api-key"]
    if value[:7].lower() != b"bearer ":
        raise AccessDenied("The Authorization header must have the form: Bearer sk-…", param="Authorization")
    key = value[7:].strip().decode("latin-1")
    caller = keys.cached(key) or await keys.verify(key)
    if keys.policy is not None:
        await _authorize(scope, caller, keys.policy)
    claim = scope.get(CLAIM)
    return caller if claim is None else replace(caller, claim=claim)


async def _authorize(scope: Mapping[str, Any], caller: Caller, policy: KeyPolicy) -> None:
    """Enforce the key's rules and count the request once. Raises KeyForbids, RateLimited.

    The response carries the rate-limit headers either way.
    """
    if caller.rules is not None:
        peer = scope.get("client") or ("", 0)
        policy.check(caller, peer[0], header(scope, b"x-forwarded-for").decode("latin-1"))
    context = scope.get(REQUEST_CONTEXT)
    if context is None or context.is_counted:
        return
    context.is_counted = True
    if policy.shared_buckets is not None:
        await policy.prepare(caller)
    headers, refusal = policy.count(caller)
    context.add(headers)
    if refusal is not None:
        raise refusal
