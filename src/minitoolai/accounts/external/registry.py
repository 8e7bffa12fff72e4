"""The providers of sign-ins that the settings name."""

from __future__ import annotations

from minitoolai.accounts.external.github import GitHubProvider
from minitoolai.accounts.external.oidc import OpenIdProvider
from minitoolai.accounts.external.protocol import ExternalProvider
from minitoolai.core.clock import Clock
from minitoolai.core.errors import SettingsError
from minitoolai.httpclient.client import HttpClient
from minitoolai.settings import Settings


def build_sign_ins(settings: Settings, http: HttpClient, clock: Clock) -> dict[str, ExternalProvider]:
    """Return name in paths → provider. Raises SettingsError if passwords are off and there is no provider."""
    found: dict[str, ExternalProvider] = {}
    if settings.oidc_issuer:
        if not settings.oidc_client_id:
            raise SettingsError("MINITOOLAI_OIDC_ISSUER needs MINITOOLAI_OIDC_CLIENT_ID")
        found["oidc"] = OpenIdProvider(
            http, clock, issuer=settings.oidc_issuer, client_id=settings.oidc_client_id,
            client_secret=settings.oidc_client_secret, name=settings.oidc_name,
        )  # fmt: skip
    if settings.github_client_id:
        found["github"] = GitHubProvider(
            http, client_id=settings.github_client_id, client_secret=settings.github_client_secret,
            url=settings.github_url,
        )  # fmt: skip
    if not settings.password_signin and not found:
        raise SettingsError(
            "MINITOOLAI_PASSWORD_SIGNIN is off and no other sign-in is set, so nobody could sign in. "
            "Set MINITOOLAI_OIDC_ISSUER or MINITOOLAI_GITHUB_CLIENT_ID."
        )
    return found
