"""A process that sends large bodies, always several at once: python -m tests.support.barrage FOLDER

Prints the port of an upstream that answers everything, once it has read it. Reads the port of the server, then jobs, a
list of them a line; does all jobs of a line and prints their outcomes: status, milliseconds, and what went wrong.
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.manners import completion
from tests.support.uploads import connect, upload

AT_ONCE = 8


class Sink(socketserver.StreamRequestHandler):
    """One connection to the upstream."""

    def handle(self) -> None:
        while (length := self._length()) is not None:
            while length:
                length -= len(self.rfile.read(min(length, 1 << 20)))
            body = json.dumps(completion(["fine"])).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body)

    def _length(self) -> int | None:
        lines = list(iter(self.rfile.readline, b"\r\n")) if self.rfile.peek(1) else []
        headers = dict(line.lower().split(b":", 1) for line in lines[1:])
        return int(headers[b"content-length"]) if lines else None


def do(port: int, folder: Path, job: dict[str, Any]) -> tuple[int, float, str]:
    """Send one request."""
    body = bodies(folder, job["body"])
    started_s = time.perf_counter()
    try:
        with closing(connect(port)) as connection:
            reply = upload(
                connection,
                job["method"],
                job["path"],
                job["headers"],
                body,
                chunked=job["chunked"],
                stubborn=job["stubborn"],
            )
    except OSError as error:
        return 0, (time.perf_counter() - started_s) * 1000, repr(error)
    wrong = reply.body.decode("utf-8", "replace")[:200] if reply.status >= 500 else ""
    return reply.status, (time.perf_counter() - started_s) * 1000, wrong


_last: dict[str, bytes] = {}


def bodies(folder: Path, name: str) -> bytes:
    """The body of this name; the last one is kept."""
    if name not in _last:
        _last.clear()
        _last[name] = (folder / name).read_bytes()
    return _last[name]


def lines() -> Iterator[str]:
    """What is told."""
    return iter(sys.stdin.readline, "")


def main() -> None:
    """Work until there are no more lines."""
    folder = Path(sys.argv[1])
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Sink) as sink:
        threading.Thread(target=sink.serve_forever, daemon=True).start()
        print(sink.server_address[1], flush=True)
        told = lines()
        port = int(next(told))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for line in told:
                jobs = json.loads(line)
                for job in jobs[:1]:
                    bodies(folder, job["body"])
                print(json.dumps(list(pool.map(lambda job: do(port, folder, job), jobs))), flush=True)
        sink.shutdown()


if __name__ == "__main__":
    main()
