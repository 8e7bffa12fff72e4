"""Serve `/metrics` on a port of its own, so that customers cannot reach it, and the health of the process beside it.

A worker has no other port, so a container platform asks here whether it is alive.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from minitoolai.core.errors import SettingsError
from minitoolai.settings import Settings

log = logging.getLogger(__name__)

#: Renders the page for an Accept header; returns body and content type.
Render = Callable[[str], Awaitable[tuple[bytes, str]]]
MAX_HEAD = 16_384
REQUEST_TIMEOUT_S = 10.0


def metrics_address(settings: Settings) -> tuple[str, int] | None:
    """Return host and port, or None if metrics are off.

    Raise SettingsError if the setting is invalid, or would show the metrics to other machines without a token.
    """
    text = settings.metrics_listen
    if not text:
        return None
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"MINITOOLAI_METRICS_LISTEN={text!r} is invalid: write it like 127.0.0.1:9464")
    if not settings.metrics_token and not is_loopback(host):
        raise SettingsError(
            f"MINITOOLAI_METRICS_LISTEN={text!r} would show your metrics to everyone who can reach this "
            "machine: set MINITOOLAI_METRICS_TOKEN too, or listen on 127.0.0.1"
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach this address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class MetricsPort:
    """A small HTTP server for GET /metrics, /healthz and /readyz, apart from the port that customers reach."""

    def __init__(
        self, settings: Settings, render: Render, why_not_ready: Callable[[], str | None] = lambda: None
    ) -> None:
        self._why_not_ready = why_not_ready
        self._address = metrics_address(settings)
        self._token = settings.metrics_token
        self._more_ports = 2 * max(1, settings.workers) + 8
        self._render = render
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Listen on the configured port or the next free one. Raise SettingsError if none is free.

        Several processes on one machine have the same setting, so each takes the next free port.
        """
        if self._address is None:
            return
        host, first = self._address
        last = first + self._more_ports if first else 0
        for port in range(first, last + 1):
            try:
                self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD)
            except OSError as error:
                if port == last:
                    raise SettingsError(
                        f"cannot listen on {host}:{first} for /metrics, nor on the next {self._more_ports} ports: "
                        f"{error.strerror or error}; choose another MINITOOLAI_METRICS_LISTEN"
                    ) from None
            else:
                self.port = self._server.sockets[0].getsockname()[1]
                log.info("metrics at http://%s:%d/metrics", f"[{host}]" if ":" in host else host, self.port)
                return

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                status, content_type, body = await self._respond(head)
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + (b"" if head[0].startswith("HEAD ") else body)
                )
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            log.debug("dropped a request to the metrics port: %s", error)
        finally:
            writer.close()

    async def _respond(self, head: list[str]) -> tuple[str, str, bytes]:
        method, _, rest = head[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if path not in ("/metrics", "/healthz", "/readyz"):
            return "404 Not Found", "text/plain", b"the paths here are /metrics, /healthz and /readyz\n"
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "text/plain", b"use GET\n"
        if path == "/healthz":
            return "200 OK", "text/plain", b"ok\n"
        if path == "/readyz":
            why_not = self._why_not_ready()
            return ("200 OK", "text/plain", b"ready\n") if why_not is None else (
                "503 Service Unavailable", "text/plain", f"not ready: {why_not}\n".encode()
            )  # fmt: skip
        sent = fields.get("authorization", "").encode("latin-1")
        if self._token and not hmac.compare_digest(sent, f"Bearer {self._token}".encode()):
            return "401 Unauthorized", "text/plain", b"send MINITOOLAI_METRICS_TOKEN as a Bearer token\n"
        try:
            body, content_type = await self._render(fields.get("accept", ""))
        except Exception:
            log.exception("rendering the metrics failed")
            return "500 Internal Server Error", "text/plain", b"see the log\n"
        return "200 OK", content_type, body
