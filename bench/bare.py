"""The floor: a bare ASGI proxy on the server and the upstream client that ours uses; it bills nobody."""

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
        answer = await self.client.request("POST", self.url, headers=_HEADERS, body=body)
        try:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                await _whole(send, answer.status, await answer.read())
                return
            await send({"type": "http.response.start", "status": answer.status, "headers": _STREAM})
            while data := await answer.next_bytes():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            answer.close()


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
