"""Packed bodies are unpacked within the limits of their route, or refused."""

from __future__ import annotations

import gzip
import json
import time
import zlib

import pytest
import requests

from minitoolai.core.errors import InvalidRequest, UnsupportedContentEncoding
from minitoolai.http.bodies.content_encoding import coding_of, unpack
from tests.support.ask import HELLO, OPENAI, check_refusal
from tests.support.server import Account

BODY = json.dumps({"model": "quick", "messages": HELLO}).encode()
MB = 1024 * 1024


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": gzip.compress(BODY, mtime=0),
    "x-gzip": gzip.compress(BODY, mtime=0),
    "GZIP": gzip.compress(BODY[:9], mtime=0) + gzip.compress(BODY[9:], mtime=0),
    "deflate": zlib.compress(BODY),
    "Deflate": raw_deflate(BODY),
    "identity": BODY,
    "": BODY,
}


def post(account: Account, body: bytes, coding: str, path: str = OPENAI) -> requests.Response:
    headers = account.headers | {"content-type": "application/json", "content-encoding": coding}
    return requests.post(account.server.url + path, data=body, headers=headers, timeout=30)


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("path", [OPENAI, "/v1/responses", "/v1/completions", "/v1/embeddings"])
def test_a_packed_body_is_unpacked(account: Account, coding: str, path: str) -> None:
    fields = {"/v1/responses": {"input": "Hi"}, "/v1/completions": {"prompt": "Hi"}, "/v1/embeddings": {"input": "Hi"}}
    body, packed = BODY, PACKED[coding]
    if path in fields:
        model = "vectors" if path == "/v1/embeddings" else "quick"
        body = json.dumps({"model": model, **fields[path]}).encode()
        packed = {"gzip": gzip.compress, "x-gzip": gzip.compress, "GZIP": gzip.compress, "deflate": zlib.compress,
                  "Deflate": raw_deflate}.get(coding, bytes)(body)  # fmt: skip
    answer = post(account, packed, coding, path)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "gzip;q=1", "x"])
def test_another_coding_is_refused_with_those_that_are_read(account: Account, coding: str) -> None:
    answer = post(account, BODY, coding)
    check_refusal(answer, 415, "unsupported_content_encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", BODY),
        ("gzip", PACKED["gzip"][:-9]),
        ("gzip", PACKED["gzip"][:-1] + b"x"),
        ("gzip", PACKED["gzip"] + b"trailing"),
        ("gzip", PACKED["gzip"] + BODY),
        ("gzip", gzip.compress(b"", mtime=0) * 1000),
        ("deflate", PACKED["deflate"] + b"x"),
        ("deflate", PACKED["deflate"][:-3]),
        ("deflate", BODY),
        ("gzip", b"\x1f\x8b"),
    ],
)
def test_a_damaged_body_is_a_400(account: Account, coding: str, body: bytes) -> None:
    check_refusal(post(account, body, coding), 400, "invalid_encoding")


def test_a_bomb_is_refused_by_the_limit_of_its_route_and_costs_little(account: Account) -> None:
    bomb = gzip.compress(b" " * (500 * MB), 9)
    assert len(bomb) < MB
    for path in (OPENAI, "/v1/embeddings"):
        before_mb, began_s = account.server.resident_mb(), time.monotonic()
        check_refusal(post(account, bomb, "gzip", path), 413, "body_too_large")
        assert time.monotonic() - began_s < 5
        assert account.server.resident_mb() - before_mb < 150


def test_a_large_text_is_refused_though_its_packed_form_is_small(account: Account) -> None:
    body = json.dumps({"model": "quick", "messages": [{"role": "user", "content": "x" * (5 * MB)}]}).encode()
    check_refusal(post(account, gzip.compress(body), "gzip"), 413, "body_too_large")


def test_unpacking_stops_at_the_limit() -> None:
    packed = gzip.compress(bytes(100))
    assert unpack(packed, "gzip", 100) == bytes(100)
    assert unpack(packed, "gzip", 99) is None
    assert unpack(packed * 3, "gzip", 299) is None
    with pytest.raises(InvalidRequest):
        unpack(b"", "gzip", 100)
    with pytest.raises(UnsupportedContentEncoding):
        coding_of(b"br")
