"""Generate load: keep-alive connections in a closed loop, raw bytes, one JSON report on stdout.

Responses are checked only for being complete and successful; everything else is left to the tests.
"""

import argparse
import asyncio
import json
import os
import time
from functools import partial
from statistics import median, quantiles
from typing import cast

import uvloop

_BODY = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Name three rivers of Europe, and their sources."}],
    "max_completion_tokens": 64,
}


class Tally:
    """Count the results of all connections of a run."""

    def __init__(self) -> None:
        self.done = 0
        self.errors = 0
        self.first_s: list[float] = []
        self.samples: list[str] = []

    def fail(self, why: str) -> None:
        self.errors += 1
        if len(self.samples) < 3:
            self.samples.append(why[:300])


class Caller(asyncio.Protocol):
    """Send one request after the other on one connection until `ends`."""

    def __init__(self, request: bytes, *, stream: bool, ends: float, tally: Tally) -> None:
        self.request, self.stream, self.ends, self.tally = request, stream, ends, tally
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first: float | None = None
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        self.got, self.first, self.sent = b"", None, time.perf_counter()
        if self.sent >= self.ends:
            self.close()
            return
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.got = got = self.got + data
        if self.stream and self.first is None and b"data: {" in got:
            self.first = time.perf_counter() - self.sent
        if got.endswith(b"0\r\n\r\n") or (self.first is None and _whole(got)):
            self.judge(got)
            self.send()

    def judge(self, got: bytes) -> None:
        right = got.startswith(b"HTTP/1.1 200") and (b"[DONE]" in got if self.stream else b'"usage"' in got)
        if not right:
            self.tally.fail(got.decode("utf-8", "replace"))
            if not got.startswith(b"HTTP/1.1 200"):
                time.sleep(0.001)  # a gateway that only refuses must not be measured as fast
            return
        self.tally.done += 1
        if self.first is not None:
            self.tally.first_s.append(self.first)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self.tally.fail(f"connection lost: {exc} after {self.got[-200:]!r}")
            self.finished.set_result(None)

    def close(self) -> None:
        self.finished.set_result(None)
        self.transport.close()


def _whole(got: bytes) -> bool:
    head, found, body = got.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return bool(found) and length != b"" and len(body) >= int(length)


def _same(caller: Caller) -> Caller:
    return caller


def build_request(port: int, path: str, key: str, *, stream: bool, headers: list[str]) -> bytes:
    body = _BODY | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})
    data = json.dumps(body, separators=(",", ":")).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(data)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def run(port: int, request: bytes, *, stream: bool, callers: int, seconds: float) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    tally = Tally()
    start = time.perf_counter()
    protocols = []
    for _ in range(callers):
        caller = Caller(request, stream=stream, ends=start + seconds, tally=tally)
        protocols.append(caller)
        await loop.create_connection(partial(_same, caller), "127.0.0.1", port)
        if stream:
            await asyncio.sleep(0.25 / callers)  # spread the callers over one stream's length
    await asyncio.wait([c.finished for c in protocols], timeout=seconds + 30)
    for caller in protocols:
        if not caller.finished.done():
            tally.fail(f"response without an end: {caller.got[-200:]!r}")
    took = time.perf_counter() - start
    first = sorted(tally.first_s)
    return {
        "done": tally.done,
        "errors": tally.errors,
        "samples": tally.samples,
        "seconds": took,
        "first_median_ms": median(first) * 1000 if first else None,
        "first_p99_ms": quantiles(first, n=100)[98] * 1000 if len(first) > 1 else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/chat/completions")
    parser.add_argument("--key", default="sk-bench")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--cores", type=lambda text: {int(core) for core in text.split(",")})
    args = parser.parse_args()
    if args.cores:
        os.sched_setaffinity(0, args.cores)
    request = build_request(args.port, args.path, args.key, stream=args.stream, headers=args.header)
    result = uvloop.run(run(args.port, request, stream=args.stream, callers=args.callers, seconds=args.seconds))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
