"""Generate load: keep-alive connections in a closed loop, raw bytes, one JSON report on stdout.

Responses are checked only for being complete and successful; everything else is left to the tests. `--watch` checks
every token of every stream and the time between them.
"""

import argparse
import asyncio
import json
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from typing import cast

import uvloop

from bench.mock import MODEL, paced_prompt

_PROMPT = "Name three rivers of Europe, and their sources."
_TOKEN = b'" token"'
#: A stream has stalled if nothing comes for so many times its pace.
STALLED_AFTER = 10


class Tally:
    """Count the results of all connections of a run."""

    def __init__(self) -> None:
        self.done = 0
        self.errors = 0
        self.stalled = 0
        self.worst_gap_s = 0.0
        self.first_s: list[float] = []
        self.whole_s: list[float] = []
        self.samples: list[str] = []

    def fail(self, why: str) -> None:
        self.errors += 1
        if len(self.samples) < 3:
            self.samples.append(why[:300])

    def report(self, took_s: float, used_s: float) -> dict[str, object]:
        """Return the figures of the run. `used_s`: CPU time of this process."""
        return {
            "done": self.done,
            "errors": self.errors,
            "stalled": self.stalled,
            "worst_gap_ms": self.worst_gap_s * 1000,
            "samples": self.samples,
            "seconds": took_s,
            "load_cpu_s": used_s,
            **_spread("first", self.first_s),
            **_spread("whole", self.whole_s),
        }


def _spread(name: str, times_s: list[float]) -> dict[str, float | None]:
    return {
        f"{name}_median_ms": median(times_s) * 1000 if times_s else None,
        f"{name}_p99_ms": quantiles(times_s, n=100)[98] * 1000 if len(times_s) > 1 else None,
    }


class Connection(asyncio.Protocol):
    """Send one request after the other until `ends`."""

    def __init__(self, next_request: Callable[[], bytes], ends: float, tally: Tally) -> None:
        self.next_request, self.ends, self.tally = next_request, ends, tally
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        self.got, self.sent = b"", time.perf_counter()
        if self.sent >= self.ends:
            self.close()
            return
        self.start()
        self.transport.write(self.next_request())

    def start(self) -> None:
        """Prepare for the response to the next request."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self.tally.fail(f"connection lost: {exc} after {self.got[-200:]!r}")
            self.finished.set_result(None)

    def close(self) -> None:
        self.finished.set_result(None)
        self.transport.close()


class Caller(Connection):
    """Measure the time to the first token and to the end of each response."""

    #: Whether streams are expected. A stream's time to its end is the mock's pace, and not kept.
    stream = False

    def start(self) -> None:
        self.first: float | None = None

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
        if not self.stream:
            self.tally.whole_s.append(time.perf_counter() - self.sent)


class StreamCaller(Caller):
    stream = True


class Intruder(Caller):
    """Send keys that do not exist; only a refusal of the key is right."""

    def judge(self, got: bytes) -> None:
        if not got.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.1 403", b"HTTP/1.1 429")):
            self.tally.fail(got.decode("utf-8", "replace"))
            return
        self.tally.done += 1
        self.tally.whole_s.append(time.perf_counter() - self.sent)

    def connection_lost(self, exc: Exception | None) -> None:
        # A gateway may hang up on it.
        if not self.finished.done():
            self.finished.set_result(None)


class Watcher(Connection):
    """Check that every token of a stream comes, and that no two are further apart than `patience_s`."""

    tokens = 0
    patience_s = 0.0

    def start(self) -> None:
        self.seen, self.heard, self.is_stalled = 0, self.sent, False

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        gap, self.heard = now - self.heard, now
        if gap > self.tally.worst_gap_s:
            self.tally.worst_gap_s = gap
        if gap > self.patience_s:
            self.is_stalled = True
        # What was kept is shorter than a token, so that no token counts twice.
        text = self.got + data
        self.seen += text.count(_TOKEN)
        self.got = text[1 - len(_TOKEN) :]
        if text.endswith(b"0\r\n\r\n"):
            self.judge(text)
            self.send()

    def judge(self, end: bytes) -> None:
        if self.seen != self.tokens:
            self.tally.fail(f"{self.seen} of {self.tokens} tokens: {end[-200:]!r}")
        elif self.is_stalled:
            self.tally.stalled += 1
        self.tally.done += 1


def _whole(got: bytes) -> bool:
    head, found, body = got.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return bool(found) and length != b"" and len(body) >= int(length)


def build_request(
    port: int, path: str, key: str, *, model: str, prompt: str, stream: bool, headers: list[str]
) -> bytes:
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    body["max_completion_tokens"] = 64
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
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


def _same(caller: Connection) -> Connection:
    return caller


async def run(
    new: Callable[[float, Tally], Connection], *, port: int, callers: int, seconds: float, spread_s: float
) -> dict[str, object]:
    """Open the connections, spread over `spread_s`, and report once each has had its last response."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    start, used_s = time.perf_counter(), time.process_time()
    connections = []
    for number in range(callers):
        caller = new(start + seconds, tally)
        connections.append(caller)
        await loop.create_connection(partial(_same, caller), "127.0.0.1", port)
        if (early_s := start + (number + 1) * spread_s / callers - time.perf_counter()) > 0:
            await asyncio.sleep(early_s)
    await asyncio.wait([c.finished for c in connections], timeout=seconds + 30)
    for caller in connections:
        if not caller.finished.done():
            tally.fail(f"response without an end: {caller.got[-200:]!r}")
    return tally.report(time.perf_counter() - start, time.process_time() - used_s)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/chat/completions")
    parser.add_argument("--key", default="sk-bench")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--words", type=int, default=0, help="send a prompt of so many words")
    parser.add_argument("--bad-keys", type=Path, metavar="FILE", help="send the keys of this file, which do not exist")
    parser.add_argument("--watch", action="store_true", help="check every token of every stream")
    parser.add_argument("--tokens", type=int, default=40, help="of each watched stream")
    parser.add_argument("--every-ms", type=int, default=50, help="pace of watched streams")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--cores", type=lambda text: {int(core) for core in text.split(",")})
    return parser.parse_args()


def _connections(args: argparse.Namespace) -> tuple[Callable[[float, Tally], Connection], float]:
    """Return what makes a connection, and the time over which connections are opened."""
    prompt = "word " * args.words if args.words else _PROMPT
    if args.watch:
        prompt = paced_prompt(args.tokens, args.every_ms)
        Watcher.tokens, Watcher.patience_s = args.tokens, STALLED_AFTER * args.every_ms / 1000
    make = partial(build_request, args.port, args.path, model=args.model, prompt=prompt, headers=args.header)
    if args.bad_keys:
        requests = cycle([make(key, stream=False) for key in args.bad_keys.read_text().split()])
        return partial(Intruder, partial(next, requests)), 0.0
    request = make(args.key, stream=args.stream or args.watch)
    if args.watch:
        return partial(Watcher, lambda: request), args.tokens * args.every_ms / 1000
    return partial(StreamCaller if args.stream else Caller, lambda: request), 0.25 if args.stream else 0.0


def main() -> None:
    args = _parse()
    if args.cores:
        os.sched_setaffinity(0, args.cores)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    new, spread_s = _connections(args)
    load = run(new, port=args.port, callers=args.callers, seconds=args.seconds, spread_s=spread_s)
    print(json.dumps(uvloop.run(load)))


if __name__ == "__main__":
    main()
