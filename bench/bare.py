"""A bare ASGI proxy on the same server and HTTP client as MiniToolAI, without billing: the lower bound of the bench."""

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from minitoolai.httpclient.client import HttpClient

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


_HEADERS = {"content-type": "application/json", "authorization": "Bearer sk-upstream"}


class Proxy:
    """Forward every POST to the upstream."""

    def __init__(self, upstream: str) -> None:
        self.url = f"{upstream}/chat/completions"
        self.client = HttpClient()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        if scope["method"] != "POST":
            await _whole(send, 200, b"ok")
            return
        response = await self.client.request("POST", self.url, headers=_HEADERS, body=body)
        try:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                await _whole(send, response.status, await response.read())
                return
            await send({"type": "http.response.start", "status": response.status, "headers": _STREAM})
            while data := await response.next_bytes():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            response.close()


async def _whole(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("upstream", help="base URL, such as http://127.0.0.1:9000/v1")
    args = parser.parse_args()
    uvicorn.run(
        Proxy(args.upstream),
        host="127.0.0.1",
        port=args.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
