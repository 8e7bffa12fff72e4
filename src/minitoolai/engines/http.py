"""Stand-in until the own client is merged: the same interface over aiohttp."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp


class HttpError(Exception):
    sent = True


class Unreachable(HttpError):
    sent = False


class Silent(HttpError): ...


class Broken(HttpError): ...


def mapped(e):
    if isinstance(e, (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError)):
        return Unreachable(str(e))
    if isinstance(e, TimeoutError):
        return Silent(str(e))
    return Broken(str(e))


class HttpAnswer:
    def __init__(self, a):
        self.a = a
        self.status = a.status
        self.headers = {k.lower(): v for k, v in a.headers.items()}

    async def next_bytes(self) -> bytes:
        try:
            return await self.a.content.readany()
        except (aiohttp.ClientError, TimeoutError) as e:
            raise mapped(e) from e

    async def read(self, limit: int = 1 << 26) -> bytes:
        try:
            return await self.a.content.read()
        except (aiohttp.ClientError, TimeoutError) as e:
            raise mapped(e) from e

    def close(self) -> None:
        self.a.close() if not self.a.content.at_eof() else self.a.release()


class HttpClient:
    def __init__(self):
        self.s = None

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] = {}, body: bytes = b"", silence_s: float = 60.0
    ) -> HttpAnswer:
        if self.s is None:
            self.s = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=silence_s)
            )
        try:
            return HttpAnswer(await self.s.request(method, url, headers=headers, data=body))
        except (aiohttp.ClientError, TimeoutError) as e:
            raise mapped(e) from e

    async def close(self) -> None:
        if self.s:
            await self.s.close()
