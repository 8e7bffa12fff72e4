"""A TCP proxy in front of PostgreSQL that breaks connections at chosen moments."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: In the PostgreSQL protocol: the message that requests a commit, and the one that confirms it.
COMMIT_ASKED = b"COMMIT\x00"
COMMIT_DONE = b"COMMIT\x00"


class Proxy:
    """Forwards bytes. `fate(is_answer, data)` returns True to forward the data, False to break the connection first."""

    def __init__(self, to_port: int) -> None:
        self._to = ("127.0.0.1", to_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._is_over = False
        self.port = int(self._listener.getsockname()[1])
        self.broken = 0
        self.fate: Callable[[bool, bytes], bool] = lambda is_answer, data: True
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._to)
            except OSError:
                client.close()
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append((client, server))
            self._start(self._pump, client, server, False)
            self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.fate(is_answer, data):
                    self.broken += 1
                    break
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break all connections and stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for pair in self._pairs:
            for one in pair:
                one.close()


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """Run a proxy during the block."""
    made = Proxy(port)
    try:
        yield made
    finally:
        made.close()


def loses_commits(draw: random.Random, *, asked: float = 0.0, answered: float = 0.0) -> Callable[[bool, bytes], bool]:
    """Return a fate that loses the share `asked` of commit requests and `answered` of their confirmations."""

    def fate(is_answer: bool, data: bytes) -> bool:
        if is_answer:
            return not (COMMIT_DONE in data and draw.random() < answered)
        return not (COMMIT_ASKED in data and draw.random() < asked)

    return fate
