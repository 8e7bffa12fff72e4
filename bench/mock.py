"""Run the mock upstream: an OpenAI-compatible server of precomputed bytes, too cheap to be the bottleneck.

A plain response is sent immediately; a stream is paced, one token every TOKEN_S, or as many and as fast as the prompt
asks for (`paced_prompt`). It listens on two ports: on the first every chunk carries all documented fields, on the
second chunks are lean, as many engines send them.
"""

import argparse
import asyncio
import json
import re
import resource
import signal
from functools import cache, partial
from typing import cast

import uvloop

TOKENS = 50
TOKEN_S = 0.005
PROMPT_TOKENS = 12
MODEL = "gpt-4o-mini"
_PACE = re.compile(rb"tokens=(\d+) every=(\d+)ms")


def paced_prompt(tokens: int, every_ms: int) -> str:
    """Return a prompt to which the mock streams so many tokens at this pace."""
    return f"tokens={tokens} every={every_ms}ms"


_USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": TOKENS,
    "total_tokens": PROMPT_TOKENS + TOKENS,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
_COMMON = {"id": "chatcmpl-bench", "created": 1_760_000_000, "model": MODEL}
_FULL = {"service_tier": "default", "system_fingerprint": "fp_bench"}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _response(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def _plain(*, lean: bool) -> bytes:
    message = {"role": "assistant", "content": " token" * TOKENS}
    choice: dict[str, object] = {"index": 0, "message": message, "finish_reason": "stop"}
    extra = {} if lean else _FULL
    if not lean:
        choice["logprobs"] = None
    answer = {"object": "chat.completion", **_COMMON, **extra, "choices": [choice], "usage": _USAGE}
    return _response(_dump(answer))


def _event(choices: list[dict[str, object]], usage: object, *, lean: bool) -> bytes:
    chunk: dict[str, object] = {"object": "chat.completion.chunk", **_COMMON, "choices": choices}
    if not lean:
        chunk |= {**_FULL, "usage": usage}
    elif usage:
        chunk["usage"] = usage
    data = b"data: " + _dump(chunk) + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _choice(delta: dict[str, str], reason: str | None, *, lean: bool) -> dict[str, object]:
    choice: dict[str, object] = {"index": 0, "delta": delta, "finish_reason": reason}
    if not lean:
        choice["logprobs"] = None
    return choice


@cache
def _stream(*, lean: bool, usage: bool, tokens: int = TOKENS) -> list[bytes]:
    """Return what each tick of a stream writes: the tokens, and with the last one the end of the stream."""
    token = _event([_choice({"content": " token"}, None, lean=lean)], None, lean=lean)
    ticks = [token] * tokens
    ticks[0] = _STREAM_HEAD + ticks[0]
    done = b"data: [DONE]\n\n"
    last = _event([_choice({}, "stop", lean=lean)], None, lean=lean)
    last += _event([], _USAGE, lean=lean) if usage else b""
    ticks[-1] += last + b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done)
    return ticks


class Upstream(asyncio.Protocol):
    """Serve requests one after the other on one keep-alive connection."""

    def __init__(self, *, lean: bool) -> None:
        self.buffer, self.lean = b"", lean
        self.plain = _plain(lean=lean)
        self.token_s = TOKEN_S
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.loop = asyncio.get_running_loop()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer = data = self.buffer + data if self.buffer else data
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            return
        if head.startswith(b"GET"):
            self.buffer = rest
            self.transport.write(_answer_get(head))
            return
        body = _whole_body(head.lower(), rest)
        if body is None:
            return
        self.buffer = b""
        compact = body.replace(b" ", b"")
        if b'"stream":true' in compact:
            paced = _PACE.search(body)
            self.token_s = int(paced[2]) / 1000 if paced else TOKEN_S
            tokens = int(paced[1]) if paced else TOKENS
            ticks = _stream(lean=self.lean, usage=b'"include_usage":true' in compact, tokens=tokens)
            self.tick(ticks, 0, self.loop.time())
        else:
            self.transport.write(self.plain)

    def tick(self, ticks: list[bytes], at: int, start: float) -> None:
        self.transport.write(ticks[at])
        if at + 1 < len(ticks):
            self.timer = self.loop.call_at(start + (at + 1) * self.token_s, self.tick, ticks, at + 1, start)


def _whole_body(head: bytes, rest: bytes) -> bytes | None:
    """Return the body once it is complete, None before."""
    if b"transfer-encoding: chunked" in head:
        return rest if rest.endswith(b"0\r\n\r\n") else None
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    return rest if len(rest) >= length else None


def _answer_get(head: bytes) -> bytes:
    path = head.split(b" ", 2)[1]
    if path.endswith(b"/models"):
        model = {"id": MODEL, "object": "model", "owned_by": "bench"}
        return _response(_dump({"object": "list", "data": [model]}))
    # smg queries the identity of its workers.
    return _response(_dump({"status": "ok", "model_path": MODEL, "model_id": MODEL, "is_generation": True}))


async def _serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    for port, lean in zip(ports, (False, True), strict=False):
        await loop.create_server(partial(Upstream, lean=lean), "127.0.0.1", port, backlog=4096)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ports", nargs="+", type=int, help="the port of full chunks, then that of lean ones")
    uvloop.run(_serve(parser.parse_args().ports))


if __name__ == "__main__":
    main()
