"""What the remote image engines share: a server's address, headers and readiness, and requests to it."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.suppliers import EngineLabel
from minitoolai.core.errors import EngineError, EngineRefused, ServiceError
from minitoolai.engines.chat.failures import engine_error
from minitoolai.httpclient.client import HttpClient, HttpError, HttpResponse


@dataclass(frozen=True)
class RemoteServer:
    """One server of the catalog, built from its entry and the settings that override it."""

    name: str
    base_url: str
    headers: dict[str, str]
    label: EngineLabel
    #: Why the server cannot be called, with the remedy; None if it can.
    fault: str | None

    async def request(
        self, client: HttpClient, method: str, path: str, *, body: bytes = b"", read_timeout_s: float
    ) -> HttpResponse:
        """Send a request and return once the head of the response has arrived. Raises EngineError."""
        if self.fault:
            raise EngineError(f"{self.label} is not ready")
        try:
            return await client.request(
                method, self.base_url + path, headers=self.headers, body=body, read_timeout_s=read_timeout_s
            )
        except HttpError as error:
            raise engine_error(error, self.label) from error

    async def read(self, response: HttpResponse, max_bytes: int = 64 * 1024 * 1024) -> bytes:
        """Return the complete body and close the response in any case. Raises EngineError."""
        try:
            return await response.read(max_bytes)
        except HttpError as error:
            raise engine_error(error, self.label) from error
        finally:
            response.close()


def remote_server(name: str, entry: EngineEntry, *, base_url: str = "", key: str = "") -> RemoteServer:
    """Return the server of a catalog entry. `base_url` and `key` come from the settings and override the entry.

    The key of a web UI has the form `user:password`.
    """
    address = (base_url or entry.base_url).rstrip("/")
    headers = {"content-type": "application/json", **entry.headers}
    if key:
        is_basic = entry.kind == "webui"
        headers["authorization"] = f"Basic {base64.b64encode(key.encode()).decode()}" if is_basic else f"Bearer {key}"
    fault = None
    if not address:
        fault = f"no address: set MINITOOLAI_{name.upper()}_BASE_URL=http://host:7860 to a web UI started with --api"
    elif entry.needs_key and not key:
        fault = f"no key: set MINITOOLAI_{name.upper()}_API_KEY"
    return RemoteServer(name, address, headers, EngineLabel.of(name, entry, base_url), fault)


def as_image_error(error: ServiceError) -> EngineError:
    """Translate a failure for a worker: a refusal is final, anything else is worth another attempt."""
    if isinstance(error, EngineError):
        return error
    if not error.retryable:
        return EngineRefused(error.message, param=error.param)
    return EngineError(error.message, retry_after_s=error.retry_after_s)
