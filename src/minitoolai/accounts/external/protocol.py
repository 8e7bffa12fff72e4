"""What all providers of sign-ins have in common: an attempt in one browser, and the identity that it proves."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import msgspec

from minitoolai.core.clock import random_text
from minitoolai.core.errors import SettingsError
from minitoolai.httpclient.client import HttpClient
from minitoolai.httpclient.connection import HttpError

ATTEMPT_MS = 600_000
MAX_ANSWER_BYTES = 256 * 1024
TIMEOUT_S = 10.0


class SignInFailed(Exception):
    """The provider's answer proves no identity. The message is for the operator's log."""


class ExternalIdentity(msgspec.Struct, frozen=True):
    """A user at a provider: `issuer` and `subject` never change, the address may.

    `is_verified`: the provider says that the mailbox is the user's.
    """

    issuer: str
    subject: str
    email: str
    is_verified: bool


class Attempt(msgspec.Struct, frozen=True):
    """A sign-in that a browser began: `state` and `nonce` tie the answer to it, `verifier` is the secret of PKCE."""

    provider: str
    next_path: str
    until_ms: int
    #: The signed-in user who connects the identity. 0: a sign-in.
    user_id: int
    state: str
    nonce: str
    verifier: str

    @property
    def challenge(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def new_attempt(provider: str, next_path: str, now_ms: int, user_id: int = 0) -> Attempt:
    """Return an attempt with fresh secrets."""
    return Attempt(provider, next_path, now_ms + ATTEMPT_MS, user_id, random_text(32), random_text(32), random_text(64))


class ExternalProvider(Protocol):
    """A provider of sign-ins. `name` is on its button."""

    name: str

    async def begin(self, attempt: Attempt, redirect_url: str) -> str:
        """Return the provider's address to which the browser goes. Raises SignInFailed."""

    async def finish(self, attempt: Attempt, redirect_url: str, answer: Mapping[str, str]) -> ExternalIdentity:
        """Return the identity that the query of the returning browser proves. Raises SignInFailed."""


def check_provider_url(url: str, setting: str) -> str:
    """Return the URL without a trailing slash. Raises SettingsError unless it is https, or of this machine."""
    parts = urlsplit(url)
    is_local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    if not parts.hostname or not (parts.scheme == "https" or is_local) or parts.query or parts.fragment:
        raise SettingsError(f"{setting} must be an https:// address, not {url!r}")
    return url.rstrip("/")


def with_query(url: str, values: Mapping[str, str]) -> str:
    """Return the URL with these values added to its query."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(values)}"


async def fetch_json(
    http: HttpClient, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
) -> Any:
    """Send a request to a provider and return its JSON. Raises SignInFailed."""
    sent = {"accept": "application/json", **headers}
    body = b""
    if form is not None:
        sent["content-type"] = "application/x-www-form-urlencoded"
        body = urlencode(form).encode()
    try:
        response = await http.request(method, url, headers=sent, body=body, read_timeout_s=TIMEOUT_S)
        text = await response.read(MAX_ANSWER_BYTES)
    except (HttpError, OSError, ValueError) as error:
        raise SignInFailed(f"{url.partition('?')[0]} does not answer: {error}") from error
    if response.status != 200:
        raise SignInFailed(f"{url.partition('?')[0]} answered {response.status}: {text[:200]!r}")
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise SignInFailed(f"{url.partition('?')[0]} answered no JSON") from error
