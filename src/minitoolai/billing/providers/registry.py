"""Find the payment providers of the settings: built in, or installed as entry points."""

from __future__ import annotations

import importlib.metadata
from typing import Any, cast

from minitoolai.billing.providers.epay import build_epay
from minitoolai.billing.providers.protocol import Provider
from minitoolai.billing.providers.stripe import build_stripe
from minitoolai.core.errors import SettingsError
from minitoolai.httpclient.client import HttpClient
from minitoolai.settings import Settings

#: Entry points of this group are callables of (Settings, HttpClient) that return a `Provider`. They read their own
#: settings from the environment.
ENTRY_POINTS = "minitoolai.payments.providers"
#: What a provider must have, as the protocol lists it.
_PARTS = tuple(Provider.__annotations__) + tuple(
    name for name, part in vars(Provider).items() if callable(part) and not name.startswith("_")
)


def build_providers(settings: Settings, http: HttpClient) -> dict[str, Provider]:
    """Return the providers by name: Stripe and EPay if they are configured, and the installed ones of the settings.

    Raises SettingsError, which lists the available providers.
    """
    built_in: list[Provider | None] = [build_stripe(settings), build_epay(settings, http)]
    providers = {provider.name: provider for provider in built_in if provider is not None}
    wanted = [name.strip() for name in settings.payment_providers.split(",") if name.strip()]
    installed = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)} if wanted else {}
    for name in wanted:
        if name not in installed:
            available = ", ".join(installed) or "none is installed"
            raise SettingsError(f"MINITOOLAI_PAYMENT_PROVIDERS: there is no provider {name!r}; available: {available}")
        provider = _load(name, installed[name], settings, http)
        providers[provider.name] = provider
    return providers


def _load(name: str, point: Any, settings: Settings, http: HttpClient) -> Provider:
    try:
        provider = point.load()(settings, http)
    except Exception as error:
        raise SettingsError(f"MINITOOLAI_PAYMENT_PROVIDERS: the provider {name} did not load: {error!r}") from error
    missing = [part for part in _PARTS if not hasattr(provider, part)]
    if missing:
        raise SettingsError(f"MINITOOLAI_PAYMENT_PROVIDERS: the provider {name} lacks {', '.join(missing)}")
    return cast(Provider, provider)
