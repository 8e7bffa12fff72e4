"""A request to upgrade the connection is ignored, and its body is read as its own: RFC 9110 7.8."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import closing

import pytest

from tests.support.ask import HELLO, OPENAI
from tests.support.programs import program
from tests.support.server import Account

BODY = json.dumps({"model": "quick", "messages": HELLO}).encode()
#: The head of java.net.http of JDK 17, which Spring's RestClient uses, too.
JAVA = [
    "Connection: Upgrade, HTTP2-Settings",
    "Host: 127.0.0.1",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    "Upgrade: h2c",
    "User-Agent: Java-http-client/17.0.15",
    "Content-Type: application/json",
]
CURL = [
    "Host: 127.0.0.1",
    "User-Agent: curl/8.5.0",
    "Accept: */*",
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    "Content-Type: application/json",
]
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def head(account: Account, *lines: str, first: str = f"POST {OPENAI} HTTP/1.1") -> bytes:
    return "\r\n".join([first, *lines, f"Authorization: Bearer {account.key}", "", ""]).encode()


def talk(account: Account, *parts: bytes, answers: int = 1) -> list[tuple[int, bytes]]:
    """Send the parts one after the other; the status and the body of each answer until the server is silent."""
    with closing(socket.create_connection(("127.0.0.1", account.server.port), timeout=5)) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        received = b""
        try:
            while data := connection.recv(65_536):
                received += data
                if received.count(b"HTTP/1.1 ") >= answers:
                    connection.settimeout(0.3)
        except TimeoutError:
            pass
    found = []
    while received:
        status = int(received[9:12])
        headers, _, received = received.partition(b"\r\n\r\n")
        length = next((int(h[15:]) for h in headers.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
        found.append((status, received[:length]))
        received = received[length:]
    return found


def statuses(account: Account, *parts: bytes, answers: int = 1) -> list[int]:
    return [status for status, _ in talk(account, *parts, answers=answers)]


@pytest.mark.parametrize("lines", [JAVA, CURL], ids=["java", "curl"])
def test_the_body_of_a_request_that_asks_for_http2_is_read(account: Account, lines: list[str]) -> None:
    whole = head(account, *lines, f"Content-Length: {len(BODY)}")
    models = head(account, *lines, first="GET /v1/models HTTP/1.1")
    assert statuses(account, whole + BODY) == [200]
    assert statuses(account, whole, BODY[:9], BODY[9:]) == [200]
    assert statuses(account, models) == [200]
    assert statuses(account, whole + BODY + models + whole + BODY, answers=3) == [200, 200, 200]


@pytest.mark.parametrize("lines", [JAVA, CURL], ids=["java", "curl"])
def test_a_chunked_body_in_three_segments_is_followed_by_another_request(account: Account, lines: list[str]) -> None:
    chunked = head(account, *lines, "Transfer-Encoding: chunked")
    assert statuses(account, chunked, CHUNKED[:9], CHUNKED[9:-3], CHUNKED[-3:]) == [200]
    second = head(account, first="GET /healthz HTTP/1.1")
    assert statuses(account, chunked, CHUNKED[:9], CHUNKED[9:-3], CHUNKED[-3:] + second, answers=2) == [200, 200]
    assert statuses(account, chunked + CHUNKED, chunked, CHUNKED, second, answers=3) == [200, 200, 200]


def test_a_client_that_expects_100_is_told_to_go_on(account: Account) -> None:
    lines = [*JAVA, "Expect: 100-continue", f"Content-Length: {len(BODY)}"]
    assert statuses(account, head(account, *lines), BODY, answers=2) == [100, 200]


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("split", [True, False])
def test_the_body_of_such_a_request_is_no_request_of_its_own(account: Account, split: bool, framing: str) -> None:
    hidden = head(account, first="GET /v1/models HTTP/1.1")
    line, body = f"Content-Length: {len(hidden)}", hidden
    if framing == "chunked":
        line, body = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
    parts = [head(account, *JAVA, line), body]
    ((status, answer),) = talk(account, *(parts if split else [b"".join(parts)]))
    assert (status, json.loads(answer)["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    "lines",
    [
        ["Transfer-Encoding: chunked", f"Content-Length: {len(BODY)}"],
        [f"Content-Length: {len(BODY)}", "Content-Length: 0"],
        ["Content-Length: -1"],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding : chunked"],
    ],
)
def test_ambiguous_framing_is_refused_with_and_without_an_upgrade(account: Account, lines: list[str]) -> None:
    for more in ([], JAVA):
        assert statuses(account, head(account, *more, *lines) + CHUNKED)[0] == 400


@pytest.mark.parametrize("upgrade", ["websocket", "h2c, websocket", "TLS/1.0", "nonsense"])
def test_any_upgrade_is_ignored(account: Account, upgrade: str) -> None:
    lines = ["Connection: keep-alive, Upgrade", f"Upgrade: {upgrade}", "Content-Type: application/json"]
    assert statuses(account, head(account, *lines, f"Content-Length: {len(BODY)}") + BODY) == [200]


def test_a_connection_that_is_to_be_closed_is_closed(account: Account) -> None:
    lines = [
        "Connection: close, Upgrade",
        "Upgrade: h2c",
        "Content-Type: application/json",
        f"Content-Length: {len(BODY)}",
    ]
    again = head(account, first="GET /healthz HTTP/1.1")
    assert statuses(account, head(account, *lines) + BODY, again) == [200]


def test_connect_is_refused(account: Account) -> None:
    assert statuses(account, head(account, first="CONNECT example.com:443 HTTP/1.1")) == [400]


def test_many_pipelined_upgrades_are_answered_in_order(account: Account) -> None:
    one = head(account, *JAVA, first="GET /healthz HTTP/1.1")
    assert statuses(account, one * 100, answers=100) == [200] * 100


def test_curl_with_http2_is_served(account: Account) -> None:
    command = [program("curl"), "-sS", "--http2", "-d", BODY.decode(), "-H", "content-type: application/json"]
    command += ["-H", f"authorization: Bearer {account.key}", "-w", "%{http_code}", "-o", "/dev/null"]
    done = subprocess.run(
        [*command, account.server.url + OPENAI], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "200"
