"""Forged, old and foreign answers of an OpenID issuer: none of them proves an identity."""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from minitoolai.accounts.external.oidc import OpenIdProvider
from minitoolai.accounts.external.protocol import ExternalIdentity, SignInFailed, new_attempt
from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import SettingsError
from minitoolai.httpclient.client import HttpClient

CLIENT = "portal"
ATTEMPT = new_attempt("oidc", "/en/keys", 0)


class Issuer(ThreadingHTTPServer):
    """An issuer that answers with whatever a test wants."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.key = RSAKey.generate_key(2048, {"kid": "one"})
        self.published = [self.key]
        self.metadata: dict[str, Any] = {
            "issuer": self.url, "authorization_endpoint": f"{self.url}/auth", "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys", "userinfo_endpoint": f"{self.url}/me",
        }  # fmt: skip
        self.info: dict[str, Any] = {}
        self.token = ""
        self.loads = 0
        Thread(target=self.serve_forever, daemon=True).start()

    def claims(self, **changes: Any) -> dict[str, Any]:
        now_s = int(time.time())
        claims = {
            "iss": self.url, "aud": CLIENT, "sub": "u1", "exp": now_s + 300, "iat": now_s, "nonce": ATTEMPT.nonce,
            "email": "ann@example.com", "email_verified": True,
        }  # fmt: skip
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def sign(self, claims: dict[str, Any], key: Any = None, alg: str = "RS256") -> None:
        key = key or self.key
        header = {"alg": alg} | ({"kid": key.kid} if key.kid else {})
        self.token = jwt.encode(header, claims, key, algorithms=[alg])


class _Page(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        issuer = self.server
        if self.path == "/keys":
            issuer.loads += 1
        answers = {
            "/.well-known/openid-configuration": issuer.metadata,
            "/keys": {"keys": [key.as_dict(private=False) for key in issuer.published]},
            "/me": issuer.info,
        }
        self._answer(answers[self.path])

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer({"id_token": self.server.token, "access_token": "t"})

    def _answer(self, value: object) -> None:
        body = msgspec.json.encode(value)
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    server = Issuer()
    yield server
    server.shutdown()
    server.server_close()


def finish(issuer: Issuer, **answer: str) -> ExternalIdentity:
    async def work() -> ExternalIdentity:
        http = HttpClient()
        try:
            provider = OpenIdProvider(
                http, SystemClock(), issuer=issuer.url, client_id=CLIENT, client_secret="s", name="SSO"
            )
            return await provider.finish(ATTEMPT, "https://shop.example/done", {"code": "c"} | answer)
        finally:
            await http.close()

    return asyncio.run(work())


def test_a_valid_token_proves_an_identity(issuer: Issuer) -> None:
    issuer.sign(issuer.claims())
    assert finish(issuer) == ExternalIdentity(issuer.url, "u1", "ann@example.com", True)
    issuer.sign(issuer.claims(aud=[CLIENT, "x"], azp=CLIENT, email_verified="true"))
    assert finish(issuer, iss=issuer.url).is_verified


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"aud": "another"}, "another issuer or for another client"),
        ({"aud": [CLIENT, "x"]}, "another client"),
        ({"azp": "another"}, "another client"),
        ({"nonce": "other"}, "another attempt"),
        ({"nonce": None}, "another attempt"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "expired"),
        ({"iat": 2**40}, "future"),
        ({"iat": None}, "future"),
        ({"sub": ""}, "no user"),
        ({"sub": None}, "no user"),
    ],
)
def test_wrong_claims_are_refused(issuer: Issuer, changes: dict[str, Any], why: str) -> None:
    issuer.sign(issuer.claims(**changes))
    with pytest.raises(SignInFailed, match=why):
        finish(issuer)


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()


def test_a_token_of_another_key_or_without_a_public_key_is_refused(issuer: Issuer) -> None:
    stranger = RSAKey.generate_key(2048, {"kid": "one"})
    issuer.sign(issuer.claims(), stranger)
    with pytest.raises(SignInFailed, match="not valid"):
        finish(issuer)
    # Signed with the public key as if it were a shared secret.
    signed = f"{_part({'alg': 'HS256', 'kid': 'one'})}.{_part(issuer.claims())}"
    mac = hmac.digest(issuer.key.as_pem(private=False), signed.encode(), "sha256")
    issuer.token = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    with pytest.raises(SignInFailed, match="not valid"):
        finish(issuer)
    issuer.token = "eyJhbGciOiJub25lIn0." + issuer.token.split(".")[1] + "."
    with pytest.raises(SignInFailed, match="not valid"):
        finish(issuer)
    issuer.token = "rubbish"
    with pytest.raises(SignInFailed, match="not valid"):
        finish(issuer)


def test_the_issuer_of_metadata_and_answer_is_checked(issuer: Issuer) -> None:
    issuer.sign(issuer.claims())
    with pytest.raises(SignInFailed, match="another issuer"):
        finish(issuer, iss="https://evil.example")
    issuer.metadata["authorization_response_iss_parameter_supported"] = True
    with pytest.raises(SignInFailed, match="does not name its issuer"):
        finish(issuer)
    issuer.metadata["issuer"] = "https://evil.example"
    with pytest.raises(SignInFailed, match="names another issuer"):
        finish(issuer)


def test_the_address_may_come_from_the_user_info_of_the_same_user(issuer: Issuer) -> None:
    issuer.sign(issuer.claims(email=None, email_verified=None))
    issuer.info = {"sub": "u1", "email": "ann@example.com", "email_verified": False, "iss": "x"}
    assert finish(issuer) == ExternalIdentity(issuer.url, "u1", "ann@example.com", False)
    issuer.info["sub"] = "u2"
    with pytest.raises(SignInFailed, match="another user"):
        finish(issuer)


def test_an_issuer_must_be_https() -> None:
    for url in ("http://login.example.com", "ftp://x", "login.example.com", "https://x/?a=b"):
        with pytest.raises(SettingsError, match="MINITOOLAI_OIDC_ISSUER"):
            OpenIdProvider(None, SystemClock(), issuer=url, client_id="c", client_secret="", name="x")  # type: ignore[arg-type]
