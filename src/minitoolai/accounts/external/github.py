"""Sign in with OAuth as GitHub has it: no ID token, so the user is read from the API with the access token."""

from __future__ import annotations

from collections.abc import Mapping

from minitoolai.accounts.external.protocol import (
    Attempt,
    ExternalIdentity,
    SignInFailed,
    check_provider_url,
    fetch_json,
    with_query,
)
from minitoolai.httpclient.client import HttpClient

GITHUB = "https://github.com"


class GitHubProvider:
    """GitHub, or a server with the same paths."""

    name = "GitHub"

    def __init__(self, http: HttpClient, *, client_id: str, client_secret: str, url: str = "") -> None:
        self._http = http
        self._url = check_provider_url(url or GITHUB, "MINITOOLAI_GITHUB_URL")
        self._api = "https://api.github.com" if self._url == GITHUB else f"{self._url}/api/v3"
        self._client_id = client_id
        self._client_secret = client_secret

    async def begin(self, attempt: Attempt, redirect_url: str) -> str:
        """Return the address of the authorization page."""
        return with_query(
            f"{self._url}/login/oauth/authorize",
            {
                "client_id": self._client_id,
                "redirect_uri": redirect_url,
                "scope": "user:email",
                "state": attempt.state,
                "code_challenge": attempt.challenge,
                "code_challenge_method": "S256",
            },
        )

    async def finish(self, attempt: Attempt, redirect_url: str, answer: Mapping[str, str]) -> ExternalIdentity:
        """Exchange the code, and read the user's number and verified primary address."""
        form = {
            "client_id": self._client_id,
            "client_secret": self._client_secret,
            "code": answer.get("code", ""),
            "redirect_uri": redirect_url,
            "code_verifier": attempt.verifier,
        }
        tokens = await fetch_json(self._http, "POST", f"{self._url}/login/oauth/access_token", {}, form)
        token = tokens.get("access_token") if isinstance(tokens, dict) else None
        if not isinstance(token, str):
            # GitHub answers a wrong code with status 200 and an error.
            raise SignInFailed(f"no access token: {str(tokens)[:200]}")
        headers = {"authorization": f"Bearer {token}", "x-github-api-version": "2022-11-28"}
        user = await fetch_json(self._http, "GET", f"{self._api}/user", headers)
        emails = await fetch_json(self._http, "GET", f"{self._api}/user/emails", headers)
        if not isinstance(user, dict) or not isinstance(user.get("id"), int) or not isinstance(emails, list):
            raise SignInFailed("the API names no user")
        primary = next((one for one in emails if isinstance(one, dict) and one.get("primary")), {})
        email = primary.get("email")
        is_verified = primary.get("verified") is True
        # The login can be given to another user; the number cannot.
        return ExternalIdentity(self._url, str(user["id"]), email if isinstance(email, str) else "", is_verified)
