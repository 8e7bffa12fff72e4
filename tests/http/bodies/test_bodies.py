"""Each route reads only so much of a body, and refuses more in the shape of its path, as soon as it knows."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from minitoolai.api.routes import hot_paths, image_paths
from minitoolai.bootstrap import build
from minitoolai.core.errors import BodyTooLarge, ClientLeft, ServiceError
from minitoolai.http.bodies.bodies import KB, LARGEST_BODY, MB, BodyLimits, read_parsed
from minitoolai.http.errors import IMAGE_PATHS, MESSAGES_PATHS
from minitoolai.settings import load_settings
from tests.support.ask import API, HELLO, OPENAI, check_refusal
from tests.support.claude import check_error
from tests.support.server import Account
from tests.support.uploads import Reply, connect, head, read_reply, upload

POLLS = ("/api/texttoimage/jobs/", "/api/imagetoimage/jobs/")
#: Path → bytes in all, and bytes besides image data URLs.
LIMITS = {
    API: (20 * MB, 4 * MB),
    OPENAI: (20 * MB, 4 * MB),
    "/v1/responses": (20 * MB, 4 * MB),
    "/v1/messages": (20 * MB, 4 * MB),
    "/v1/messages/count_tokens": (20 * MB, 4 * MB),
    "/v1/completions": (4 * MB, 4 * MB),
    "/v1/embeddings": (4 * MB, 4 * MB),
    "/api/texttospeech/": (4 * MB, 4 * MB),
    "/v1/audio/speech": (4 * MB, 4 * MB),
    "/api/texttoimage/": (4 * MB, 4 * MB),
    **dict.fromkeys(POLLS, (4 * KB, 4 * KB)),
    "/v1/images/generations": (4 * MB, 4 * MB),
}
KEYED = [path for path in LIMITS if path not in POLLS]
JSON = {"content-type": "application/json"}


def send(account: Account, path: str, body: bytes, *, chunked: bool = False, **headers: str) -> Reply:
    """A client that sends everything before it reads."""
    with closing(connect(account.server.port)) as connection:
        sent = JSON | account.headers | headers
        return upload(connection, "POST", path, sent, body, chunked=chunked, stubborn=True)


def check(reply: Reply, path: str, status: int, code: str) -> str:
    """A refusal in the shape of its path; the message."""
    assert reply.status == status, reply.body
    answer = json.loads(reply.body)
    if path.startswith(IMAGE_PATHS):
        assert set(answer) == {"status", "jobid", "signature", "message", "code"}
        assert answer["status"] == "error"
    elif path.startswith(MESSAGES_PATHS):
        kind, message = check_error(answer)
        kinds = {400: "invalid_request_error", 401: "authentication_error", 413: "request_too_large"}
        assert kind == kinds.get(status, "invalid_request_error")
        return message
    else:
        answer = answer["error"]
        assert set(answer) == {"message", "type", "param", "code"}
    assert answer["code"] == code, answer
    return str(answer["message"])


def is_closed(account: Account) -> bool:
    return requests.get(account.server.url + "/healthz", timeout=10).status_code == 200


def picture(size: int) -> str:
    """A data URL of about so many bytes."""
    file = io.BytesIO()
    Image.new("RGB", (31, 17)).save(file, "png")
    data = file.getvalue() + random.Random(7).randbytes(size * 3 // 4)
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def chat(*urls: str, **fields: Any) -> bytes:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    text = {"type": "text", "text": "What is this?"}
    body = {"model": "quick", "messages": [{"role": "user", "content": [text, *parts]}], "stream": False, **fields}
    return json.dumps(body, separators=(",", ":")).encode()


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_route_that_reads_a_body_has_its_limit(tmp_path: Path) -> None:
    async def ask() -> dict[str, Any]:
        services = build(load_settings({}, data_dir=tmp_path))
        heard = services.transcription
        hot = hot_paths(services.chats, services.responses, services.speech, heard.service, heard.forms, services.keys)
        uploads, failures = services.transcription.uploads, services.site.request_failures
        return hot | image_paths(services.images, services.keys, services.settings, failures, uploads)

    # Uploads go to the disk and have a limit of their own (tests/transcription).
    hot = {path: endpoint for path, endpoint in asyncio.run(ask()).items() if not hasattr(endpoint, "received")}
    found = {path: endpoint.limits for path, endpoint in hot.items()}
    expected = {path.rstrip("/"): BodyLimits(*limits) for path, limits in LIMITS.items()}
    assert found == expected | {f"{path}/": limits for path, limits in expected.items()}
    assert max(limits.total for limits in found.values()) == LARGEST_BODY


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", LIMITS)
def test_a_byte_too_much_is_a_413_and_a_byte_less_is_read(account: Account, path: str, chunked: bool) -> None:
    most = LIMITS[path][1]
    assert send(account, path, b"{%b}" % (b" " * (most - 2)), chunked=chunked).status == 400
    message = check(send(account, path, b" " * (most + 1), chunked=chunked), path, 413, "body_too_large")
    assert ("4 kB" if most == 4 * KB else "4 MB") in message
    assert account.money().held == 0


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", [API, OPENAI, "/v1/responses"])
def test_more_than_20_megabytes_of_images_are_a_413(account: Account, path: str, chunked: bool) -> None:
    body = chat(picture(20 * MB))
    assert "20 MB" in check(send(account, path, body, chunked=chunked), path, 413, "body_too_large")


def test_a_chat_may_carry_large_images(account: Account) -> None:
    body = chat(picture(9 * MB), picture(9 * MB))
    reply = send(account, OPENAI, body)
    assert reply.status == 200, reply.body
    assert json.loads(reply.body)["object"] == "chat.completion"
    assert account.settled() < 5_000_000_000


def test_an_image_does_not_excuse_text(account: Account) -> None:
    body = chat(picture(5 * MB), padding="x" * (4 * MB))
    assert "besides images in base64" in check(send(account, OPENAI, body), OPENAI, 413, "body_too_large")
    # As it looks until it is complete, this is an image; then it turns out to be none.
    body = chat(picture(5 * MB).replace("A", "_"))
    check(send(account, OPENAI, body), OPENAI, 413, "body_too_large")


@pytest.mark.parametrize("path", KEYED)
def test_too_many_nodes_are_a_413_that_names_both_numbers(account: Account, path: str) -> None:
    body = b'{"a":[%b[]]}' % (b"[]," * 250_000)
    message = check(send(account, path, body), path, 413, "too_complex")
    assert "500,003" in message
    assert "200,000" in message
    assert account.money().held == 0


def test_many_nodes_below_the_limit_are_served(account: Account) -> None:
    body = chat(metadata={"a": "b"}, extra=[{"name": number, "list": [number, []]} for number in range(20_000)])
    reply = send(account, OPENAI, body)
    assert reply.status == 200, reply.body


# ── when and how a refusal is delivered ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("length", [None, 1000, 30 * MB])
@pytest.mark.parametrize("path", KEYED)
def test_without_a_key_no_byte_of_a_body_is_waited_for(account: Account, path: str, length: int | None) -> None:
    with closing(connect(account.server.port)) as connection:
        connection.sendall(head("POST", path, JSON, length))
        check(read_reply(connection), path, 401, "invalid_api_key")


@pytest.mark.parametrize("path", LIMITS)
def test_a_length_over_the_limit_is_refused_before_the_body_comes(account: Account, path: str) -> None:
    with closing(connect(account.server.port)) as connection:
        connection.sendall(head("POST", path, JSON | account.headers, LIMITS[path][0] + 1))
        check(read_reply(connection), path, 413, "body_too_large")


@pytest.mark.parametrize("path", [OPENAI, *POLLS])
def test_a_client_that_asks_first_is_told_before_it_sends(account: Account, path: str) -> None:
    asks = JSON | account.headers | {"expect": "100-continue"}
    with closing(connect(account.server.port)) as connection:
        connection.sendall(head("POST", path, asks, LIMITS[path][0] + 1))
        check(read_reply(connection), path, 413, "body_too_large")
    with closing(connect(account.server.port)) as connection:
        connection.sendall(head("POST", path, asks, 2))
        assert read_reply(connection).status == 100
        connection.sendall(b"{}")
        assert read_reply(connection).status == 400


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", [OPENAI, *POLLS])
def test_the_connection_is_good_for_the_next_request(account: Account, path: str, chunked: bool) -> None:
    with closing(connect(account.server.port)) as connection:
        for headers, status in ((account.headers, 413), ({}, 401 if path == OPENAI else 413)):
            body = b" " * (9 * MB)
            reply = upload(connection, "POST", path, JSON | headers, body, chunked=chunked, stubborn=True)
            assert reply.status == status
        connection.sendall(head("GET", "/healthz", {}, 0))
        assert read_reply(connection).status == 200


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", [OPENAI, *POLLS])
def test_a_client_that_closes_after_its_request_sees_the_refusal(account: Account, path: str, chunked: bool) -> None:
    check(send(account, path, b" " * (21 * MB), chunked=chunked, connection="close"), path, 413, "body_too_large")


def test_a_length_that_lies_harms_nobody(account: Account) -> None:
    with closing(connect(account.server.port)) as connection:
        connection.sendall(head("POST", OPENAI, JSON | account.headers, 100) + b'{"model":')
    with closing(connect(account.server.port)) as connection:
        connection.sendall(head("POST", OPENAI, JSON | account.headers, 2) + b"{}" + b"[[[[" * 1000)
        assert read_reply(connection).status == 400
        # The rest is no request.
        assert read_reply(connection).status == 400
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
    assert is_closed(account)
    assert account.money().held == 0


# ── Idempotency-Key ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", LIMITS)
def test_the_limit_holds_for_requests_with_an_idempotency_key(account: Account, path: str, chunked: bool) -> None:
    body = b" " * (LIMITS[path][1] + 1)
    reply = send(account, path, body, chunked=chunked, **{"idempotency-key": f"{path}{chunked}"})
    check(reply, path, 413, "body_too_large")


def test_a_large_request_is_replayed(account: Account) -> None:
    body = chat(picture(5 * MB))
    first = send(account, OPENAI, body, **{"idempotency-key": "large"})
    again = send(account, OPENAI, body, **{"idempotency-key": "large"})
    assert (first.status, again.status) == (200, 200)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.body == first.body
    reply = send(account, OPENAI, body.replace(b"What is", b"What was"), **{"idempotency-key": "large"})
    check(reply, OPENAI, 422, "idempotency_mismatch")


def test_a_path_that_reads_no_body_does_so_with_an_idempotency_key_too(account: Account) -> None:
    headers = account.headers | {"idempotency-key": "k"}
    answer = requests.post(account.server.url + "/v1/models", data=b" " * MB, headers=headers, timeout=30)
    check_refusal(answer, 405, "method_not_allowed")


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────


def read(messages: list[dict[str, Any]], limits: BodyLimits, **headers: str) -> bytes:
    waiting: Iterator[dict[str, Any]] = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    sent = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {"headers": [(name.encode(), value.encode()) for name, value in sent.items()]}
    return asyncio.run(read_parsed(bytes, scope, receive, limits))


def body_of(*parts: bytes) -> list[dict[str, Any]]:
    return [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]


GONE = {"type": "http.disconnect"}
SMALL = BodyLimits(total=10, text=10)


@pytest.mark.parametrize("parts", [[b""], [b"{}"], [b"1234567890"], [b"", b"12345", b"", b"67890"], [b"1", b""]])
def test_a_body_is_the_same_however_it_is_cut(parts: list[bytes]) -> None:
    assert read(body_of(*parts), SMALL) == b"".join(parts)


@pytest.mark.parametrize("parts", [[b"1" * 11], [b"1" * 10, b"1"], [b"", b"1" * 11], [b"1"] * 11])
def test_a_body_over_its_limit_is_refused_however_it_is_cut(parts: list[bytes]) -> None:
    with pytest.raises(BodyTooLarge):
        read(body_of(*parts), SMALL)


@pytest.mark.parametrize("length", ["11", "9" * 5000, "00000000000000000000000000000011"])
def test_an_announced_length_is_believed_where_it_is_too_large(length: str) -> None:
    with pytest.raises(BodyTooLarge):
        read(body_of(b"1" * 11), SMALL, content_length=length)


@pytest.mark.parametrize("length", ["", "10", "0", "x", "-1", "²"])
def test_an_announced_length_is_not_believed_otherwise(length: str) -> None:
    assert read(body_of(b"1" * 10), SMALL, content_length=length) == b"1" * 10
    with pytest.raises(BodyTooLarge):
        read(body_of(b"1" * 11), SMALL, content_length=length)


@pytest.mark.parametrize("messages", [[GONE], [*body_of(b"1", b"2")[:1], GONE]])
def test_a_client_that_leaves_ends_the_reading(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ClientLeft):
        read(messages, SMALL)


def test_what_parsing_refuses_in_the_thread_comes_out_of_it() -> None:
    def parse(body: bytes) -> None:
        raise ServiceError(f"{len(body)} bytes")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * MB, "more_body": False}

    scope = {"headers": [(b"content-type", b"application/json")]}
    with pytest.raises(ServiceError, match="1048576 bytes"):
        asyncio.run(read_parsed(parse, scope, receive, BodyLimits(20 * MB, 4 * MB)))


@pytest.mark.parametrize(
    ("body", "is_on_loop"),
    [
        (b"[%b0]" % (b"0," * 9_000), True),
        (b"[%b0]" % (b"[]," * 9_999), True),
        (b"[%b0]" % (b"[]," * 10_001), False),
        (b'{"a":"%b"}' % (b"x" * 60_000), True),
        (b'{"a":"%b"}' % (b"x" * 70_000), False),
    ],
)
def test_up_to_20_000_nodes_are_decoded_on_the_loop(body: bytes, is_on_loop: bool) -> None:
    threads: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"headers": [(b"content-type", b"application/json")]}
    asyncio.run(read_parsed(lambda _: threads.append(threading.get_ident()), scope, receive, BodyLimits(MB, MB)))
    assert (threads == [threading.get_ident()]) == is_on_loop


def test_messages_of_a_chat_are_refused_by_their_index_in_a_large_body(account: Account) -> None:
    messages = [*HELLO * 3000, {"role": "robot", "content": "x"}]
    body = json.dumps({"model": "quick", "messages": messages}).encode()
    reply = send(account, OPENAI, body)
    check(reply, OPENAI, 400, "invalid_request")
    assert json.loads(reply.body)["error"]["param"] == "messages[3000].role"
