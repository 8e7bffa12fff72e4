"""A server elsewhere: its address, what is sent with every request, and what is missing before it can be called."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.errors import EngineError, EngineRefused, ServiceError
from minitoolai.engines.chat.openai import mapped
from minitoolai.httpclient.client import HttpClient, HttpError, HttpResponse

_LARGEST_ERROR = 65_536


@dataclass(frozen=True)
class Remote:
    """One server of the catalog. Made of its entry and of the settings that replace or complete it."""

    name: str
    base_url: str
    headers: dict[str, str]
    #: None, or a sentence with the remedy.
    fault: str | None

    async def request(
        self, client: HttpClient, method: str, path: str, *, body: bytes = b"", silence_s: float
    ) -> HttpResponse:
        """Send; the head of the answer is here when this returns. EngineError."""
        if self.fault:
            raise EngineError(f"{self.name}: {self.fault}")
        try:
            return await client.request(
                method, self.base_url + path, headers=self.headers, body=body, read_timeout_s=silence_s
            )
        except HttpError as error:
            raise mapped(error, self.name) from error

    async def read(self, answer: HttpResponse, most_bytes: int = 64 * 1024 * 1024) -> bytes:
        """The whole body; the answer is closed, whatever happens. EngineError."""
        try:
            return await answer.read(most_bytes)
        except HttpError as error:
            raise mapped(error, self.name) from error
        finally:
            answer.close()

    async def read_error(self, answer: HttpResponse) -> bytes:
        """The body of a refusal, or nothing where it cannot be read; the answer is closed."""
        try:
            return await answer.read(_LARGEST_ERROR)
        except HttpError:
            return b""
        finally:
            answer.close()


def remote_of(name: str, entry: EngineEntry, *, base_url: str = "", key: str = "") -> Remote:
    """The server of an entry; `base_url` and `key` are the engine's settings. A web UI's key is `user:password`."""
    address = (base_url or entry.base_url).rstrip("/")
    headers = {"content-type": "application/json", **entry.headers}
    if key:
        is_basic = entry.kind == "webui"
        headers["authorization"] = f"Basic {base64.b64encode(key.encode()).decode()}" if is_basic else f"Bearer {key}"
    fault = None
    if not address:
        fault = f"no address: set MINITOOLAI_{name.upper()}_BASE_URL=http://host:7860, a web UI started with --api"
    elif entry.needs_key and not key:
        fault = f"no key: set MINITOOLAI_{name.upper()}_API_KEY"
    return Remote(name, address, headers, fault)


def as_picture_error(error: ServiceError) -> EngineError:
    """What a picture's failure is to a worker: a refusal ends it, anything else is worth another attempt."""
    if isinstance(error, EngineError):
        return error
    if not error.retryable:
        return EngineRefused(error.message, param=error.param)
    return EngineError(error.message, retry_after_s=error.retry_after_s)
