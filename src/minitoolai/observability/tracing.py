"""Settings to traces: nothing where no collector is set, else every part that tells, put together."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from minitoolai import __version__
from minitoolai.core.clock import Clock
from minitoolai.core.errors import SettingsError
from minitoolai.core.tracing import Spans
from minitoolai.http.asgi import App, Scope
from minitoolai.observability.middleware import TracedApp
from minitoolai.settings import Settings

if TYPE_CHECKING:
    from minitoolai.observability.otel import Traces

REMEDY: Final = "pip install 'minitoolai[otel]', or unset MINITOOLAI_OTLP_ENDPOINT"
_PATH: Final = "/v1/traces"


def collector(settings: Settings) -> tuple[str, dict[str, str]] | None:
    """Address and headers of the collector, or None where there is none. SettingsError for what is neither."""
    text = settings.otlp_endpoint
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise SettingsError(
            "MINITOOLAI_OTLP_ENDPOINT is wrong: write it like http://127.0.0.1:4318, without user, password or query; "
            "what the collector wants to see goes into MINITOOLAI_OTLP_HEADERS"
        )
    headers: dict[str, str] = {}
    for pair in filter(None, (pair.strip() for pair in settings.otlp_headers.split(","))):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise SettingsError("MINITOOLAI_OTLP_HEADERS is wrong: write it like authorization=Bearer abc,x-tenant=7")
        headers[name.strip()] = value.strip()
    if settings.trace_ratio > 1:
        raise SettingsError(f"MINITOOLAI_TRACE_RATIO={settings.trace_ratio:g} is wrong: it is a share, from 0 to 1")
    url = text.rstrip("/")
    return (url if url.endswith(_PATH) else url + _PATH), headers


def try_collector(settings: Settings) -> str:
    """The collector's address, once it has taken a message. SettingsError where it does not, or none is set."""
    found = collector(settings)
    if found is None:
        raise SettingsError("no collector of traces is set")
    _check_installed()
    from minitoolai.observability import otel as traces

    if not traces.try_collector(*found):
        raise SettingsError(
            f"{found[0]} does not take traces: start the collector, or correct MINITOOLAI_OTLP_ENDPOINT"
        )
    return found[0]


def make_tracing(settings: Settings, clock: Clock) -> Tracing | None:
    """None where nobody is to be told. SettingsError."""
    found = collector(settings)
    if found is None:
        return None
    _check_installed()
    from minitoolai.observability.otel import Traces

    url, headers = found
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
    """The tracing of one process: where its spans go, and what records them."""

    def __init__(self, traces: Traces, clock: Clock) -> None:
        self._traces = traces
        self.spans = Spans(traces.job, clock)

    def app(self, app: App, route_of: Callable[[Scope], str | None]) -> App:
        """`app`, seen. `route_of`: under which of its routes an answered request came in."""
        return TracedApp(app, self._traces, route_of)

    def close(self) -> None:
        """Send what is queued; blocks, for a few seconds at most."""
        self._traces.close()
