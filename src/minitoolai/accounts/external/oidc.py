"""Sign in with OpenID Connect: authorization code with PKCE, state and nonce, and a signed ID token of the issuer."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from minitoolai.accounts.external.protocol import (
    Attempt,
    ExternalIdentity,
    SignInFailed,
    check_provider_url,
    fetch_json,
    with_query,
)
from minitoolai.core.clock import Clock
from minitoolai.httpclient.client import HttpClient

#: Signatures with a public key only: a token "signed" with `none` or with our own secret proves nothing.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
LEEWAY_S = 60
METADATA_TTL_S = 3600.0
#: Load the keys again for a token with an unknown key, at most this often.
KEYS_AGAIN_S = 30.0
WELL_KNOWN = "/.well-known/openid-configuration"


class OpenIdProvider:
    """One issuer."""

    def __init__(
        self, http: HttpClient, clock: Clock, *, issuer: str, client_id: str, client_secret: str, name: str
    ) -> None:
        check_provider_url(issuer, "MINITOOLAI_OIDC_ISSUER")
        self.name = name
        self._http = http
        self._clock = clock
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._metadata: dict[str, Any] = {}
        self._metadata_until_s = 0.0
        self._keys: dict[str, Any] = {}
        self._keys_from_s = 0.0

    async def begin(self, attempt: Attempt, redirect_url: str) -> str:
        """Return the address of the authorization endpoint."""
        metadata = await self._discover()
        return with_query(
            _endpoint(metadata, "authorization_endpoint"),
            {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": redirect_url,
                "scope": "openid email",
                "state": attempt.state,
                "nonce": attempt.nonce,
                "code_challenge": attempt.challenge,
                "code_challenge_method": "S256",
            },
        )

    async def finish(self, attempt: Attempt, redirect_url: str, answer: Mapping[str, str]) -> ExternalIdentity:
        """Exchange the code and verify the ID token."""
        metadata = await self._discover()
        # RFC 9207: an answer of another issuer must not be taken to this one.
        if answer.get("iss", self._issuer) != self._issuer:
            raise SignInFailed("the answer is of another issuer")
        if metadata.get("authorization_response_iss_parameter_supported") and "iss" not in answer:
            raise SignInFailed("the answer does not name its issuer")
        form = {
            "grant_type": "authorization_code",
            "code": answer.get("code", ""),
            "redirect_uri": redirect_url,
            "code_verifier": attempt.verifier,
        }
        headers, form = self._authenticated(metadata, form)
        tokens = await fetch_json(self._http, "POST", _endpoint(metadata, "token_endpoint"), headers, form)
        if not isinstance(tokens, dict) or not isinstance(tokens.get("id_token"), str):
            raise SignInFailed("the token endpoint sent no ID token")
        claims = await self._verify(metadata, tokens["id_token"], attempt.nonce)
        if "email" not in claims and metadata.get("userinfo_endpoint") and tokens.get("access_token"):
            bearer = {"authorization": f"Bearer {tokens['access_token']}"}
            info = await fetch_json(self._http, "GET", _endpoint(metadata, "userinfo_endpoint"), bearer)
            if not isinstance(info, dict) or info.get("sub") != claims["sub"]:
                raise SignInFailed("the user info is of another user")
            claims = {**claims, **{name: info[name] for name in ("email", "email_verified") if name in info}}
        email = claims.get("email")
        # Some providers send the flag as text.
        is_verified = claims.get("email_verified") in (True, "true")
        return ExternalIdentity(self._issuer, claims["sub"], email if isinstance(email, str) else "", is_verified)

    def _authenticated(
        self, metadata: Mapping[str, Any], form: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return headers and form of a token request that prove which client asks."""
        if not self._client_secret:
            return {}, form | {"client_id": self._client_id}
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if "client_secret_basic" not in methods and "client_secret_post" in methods:
            return {}, form | {"client_id": self._client_id, "client_secret": self._client_secret}
        pair = f"{quote(self._client_id, safe='')}:{quote(self._client_secret, safe='')}"
        return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}, form

    async def _discover(self) -> dict[str, Any]:
        now_s = self._clock.steady_s()
        if now_s >= self._metadata_until_s:
            metadata = await fetch_json(self._http, "GET", self._issuer.rstrip("/") + WELL_KNOWN, {})
            if not isinstance(metadata, dict) or metadata.get("issuer") != self._issuer:
                raise SignInFailed(f"the metadata of {self._issuer} names another issuer")
            self._metadata, self._metadata_until_s = metadata, now_s + METADATA_TTL_S
        return self._metadata

    async def _verify(self, metadata: Mapping[str, Any], token: str, nonce: str) -> dict[str, Any]:
        """Return the claims of an ID token (OpenID Connect Core, 3.1.3.7)."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        claims: dict[str, Any] | None = None
        for is_again in (False, True):
            try:
                claims = jwt.decode(token, await self._key_set(metadata, load=is_again), algorithms=ALGORITHMS).claims
                break
            except (JoseError, ValueError) as error:
                # The issuer may have a new key since its keys were loaded.
                if is_again:
                    raise SignInFailed(f"the ID token is not valid: {error}") from error
        assert claims is not None
        now_s = self._clock.now_ms() // 1000
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if claims.get("iss") != self._issuer or self._client_id not in audiences:
            raise SignInFailed("the ID token is of another issuer or for another client")
        if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != self._client_id:
            raise SignInFailed("the ID token was issued to another client")
        if not isinstance(claims.get("exp"), int | float) or claims["exp"] + LEEWAY_S <= now_s:
            raise SignInFailed("the ID token has expired")
        if not isinstance(claims.get("iat"), int | float) or claims["iat"] - LEEWAY_S > now_s:
            raise SignInFailed("the ID token is of the future; check the server's clock")
        if claims.get("nonce") != nonce:
            raise SignInFailed("the ID token is of another attempt")
        if not isinstance(claims.get("sub"), str) or not claims["sub"]:
            raise SignInFailed("the ID token names no user")
        return claims

    async def _key_set(self, metadata: Mapping[str, Any], *, load: bool) -> Any:
        from joserfc.jwk import KeySet

        now_s = self._clock.steady_s()
        if not self._keys or (load and now_s - self._keys_from_s > KEYS_AGAIN_S):
            keys = await fetch_json(self._http, "GET", _endpoint(metadata, "jwks_uri"), {})
            if not isinstance(keys, dict) or not isinstance(keys.get("keys"), list):
                raise SignInFailed("the issuer publishes no keys")
            self._keys, self._keys_from_s = keys, now_s
        return KeySet.import_key_set(self._keys)  # type: ignore[arg-type]


def _endpoint(metadata: Mapping[str, Any], name: str) -> str:
    url = metadata.get(name)
    if not isinstance(url, str):
        raise SignInFailed(f"the metadata of the issuer has no {name}")
    return url
