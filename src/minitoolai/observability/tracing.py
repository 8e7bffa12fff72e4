"""Set up tracing from the settings. Without a collector, OpenTelemetry is not even imported."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from minitoolai import __version__
from minitoolai.core.clock import Clock
from minitoolai.core.errors import SettingsError
from minitoolai.core.telemetry.tracing import Spans
from minitoolai.http.asgi import App, Scope
from minitoolai.observability.middleware import TracingMiddleware
from minitoolai.settings import Settings

if TYPE_CHECKING:
    from minitoolai.observability.otel import Traces

REMEDY: Final = "pip install 'minitoolai[otel]', or unset MINITOOLAI_OTLP_ENDPOINT"
_PATH: Final = "/v1/traces"


def collector_address(settings: Settings) -> tuple[str, dict[str, str]] | None:
    """Return the URL and headers of the collector, or None if tracing is off. Raise SettingsError."""
    text = settings.otlp_endpoint
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise SettingsError(
            "MINITOOLAI_OTLP_ENDPOINT is invalid: write it like http://127.0.0.1:4318, without user, password or "
            "query; put the collector's credentials into MINITOOLAI_OTLP_HEADERS"
        )
    headers: dict[str, str] = {}
    for pair in filter(None, (pair.strip() for pair in settings.otlp_headers.split(","))):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise SettingsError("MINITOOLAI_OTLP_HEADERS is invalid: write it like authorization=Bearer abc,x-tenant=7")
        headers[name.strip()] = value.strip()
    if settings.trace_ratio > 1:
        raise SettingsError(f"MINITOOLAI_TRACE_RATIO={settings.trace_ratio:g} is invalid: set it from 0 to 1")
    url = text.rstrip("/")
    return (url if url.endswith(_PATH) else url + _PATH), headers


def try_collector(settings: Settings) -> str:
    """Send an empty message to the collector and return its URL. Raise SettingsError if it does not accept it."""
    address = collector_address(settings)
    if address is None:
        raise SettingsError("tracing is off: set MINITOOLAI_OTLP_ENDPOINT")
    _check_installed()
    from minitoolai.observability import otel

    url, headers = address
    if not otel.try_collector(url, headers):
        raise SettingsError(f"{url} does not accept traces: start the collector, or correct MINITOOLAI_OTLP_ENDPOINT")
    return url


def make_tracing(settings: Settings, clock: Clock) -> Tracing | None:
    """Return the tracing of this process, or None if it is off. Raise SettingsError if the settings are invalid."""
    address = collector_address(settings)
    if address is None:
        return None
    _check_installed()
    from minitoolai.observability.otel import Traces

    url, headers = address
    instance = f"{socket.gethostname()}:{os.getpid()}"
    return Tracing(
        Traces(url=url, headers=headers, ratio=settings.trace_ratio, version=__version__, instance=instance), clock
    )


def _check_installed() -> None:
    try:
        import minitoolai.observability.otel  # noqa: F401
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"MINITOOLAI_OTLP_ENDPOINT needs a package that is missing ({error.name}): {REMEDY}"
        ) from error


class Tracing:
    """The tracing of one process: the spans of a request's parts, and the middleware for requests."""

    def __init__(self, traces: Traces, clock: Clock) -> None:
        self._traces = traces
        self.spans = Spans(traces.job, clock)

    def middleware(self, app: App, route_template: Callable[[Scope], str | None]) -> App:
        """Wrap the app. `route_template` names the route of a request that was served."""
        return TracingMiddleware(app, self._traces, route_template)

    def close(self) -> None:
        """Send the queued spans. Blocks for a few seconds at most."""
        self._traces.close()
