"""Send request bodies over raw sockets, politely or not, and read the answer whenever it comes."""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STEP = 64 * 1024


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def connect(port: int) -> socket.socket:
    """Open a connection to the server."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def head(method: str, path: str, headers: Mapping[str, str], length: int | None) -> bytes:
    """The head of a request; a length of None announces a chunked body."""
    framing = {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in ({**headers, **framing}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def upload(
    connection: socket.socket,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | memoryview,
    *,
    chunked: bool = False,
    stubborn: bool = False,
) -> Reply:
    """Send all and return the answer. Stops sending once there is an answer, unless `stubborn`."""
    connection.sendall(head(method, path, headers, None if chunked else len(body)))
    view = memoryview(body)
    for at in range(0, len(view), STEP):
        piece = view[at : at + STEP]
        send(connection, [b"%x\r\n" % len(piece), piece, b"\r\n"] if chunked else [piece])
        if not stubborn and select.select([connection], [], [], 0)[0]:
            return read_reply(connection, method)
    if chunked:
        connection.sendall(b"0\r\n\r\n")
    return read_reply(connection, method)


def send(connection: socket.socket, parts: Sequence[bytes | memoryview]) -> None:
    """Send these one after the other."""
    for part in parts:
        connection.sendall(part)


def read_reply(connection: socket.socket, method: str = "POST") -> Reply:
    """Read one whole answer: with a length, in chunks, or up to the end of the connection.

    What follows an answer with a length is left for the next call.
    """
    start, body = b"", b""
    while not start.endswith(b"\r\n\r\n"):
        start += _receive(connection, 1)
    lines = start.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    status = int(lines[0].split(" ")[1])
    if status == 100 or method == "HEAD":
        return Reply(status, headers, b"")
    if "content-length" in headers:
        while missing := int(headers["content-length"]) - len(body):
            body += _receive(connection, missing)
    else:
        while not body.endswith(b"0\r\n\r\n"):
            body += _receive(connection)
    return Reply(status, headers, body)


def _receive(connection: socket.socket, most: int = 65536) -> bytes:
    data = connection.recv(most)
    if not data:
        raise ConnectionError("the server closed the connection before its answer was complete")
    return data
