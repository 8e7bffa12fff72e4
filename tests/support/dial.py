"""A chat request over a raw socket, for tests of slow clients and disconnects."""

from __future__ import annotations

import json
import socket

from tests.support.ask import HELLO
from tests.support.server import Account


def head(account: Account, length: int) -> bytes:
    """Return the head of a chat request on a persistent connection."""
    return (
        f"POST /api/chat-completions/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {account.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def dial(account: Account, receive_buffer: int = 0, **fields: object) -> socket.socket:
    """Send a request and return its connection. Closing it is a disconnect."""
    body = json.dumps({"messages": HELLO, **fields}).encode()
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", account.server.port))
    request = head(account, len(body)) + body
    connection.sendall(request.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n"))
    return connection
