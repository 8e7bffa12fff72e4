"""Requests to buckets are signed as Amazon documents it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from minitoolai.httpclient.s3 import Bucket, signed_headers

#: The example of Amazon's documentation of Signature Version 4 for S3, a PUT in one piece.
MOMENT_MS = int(datetime(2013, 5, 24, tzinfo=UTC).timestamp() * 1000)
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
BUCKET = Bucket("examplebucket", access_key_id="AKIAIOSFODNN7EXAMPLE")
HEADERS = {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"}
DIGEST = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()


def signature(**changed: object) -> str:
    values: dict[str, object] = {"secret": SECRET, "headers": HEADERS, "payload_sha256": DIGEST, "now_ms": MOMENT_MS}
    url = "https://examplebucket.s3.amazonaws.com/test%24file.text"
    headers = signed_headers(BUCKET, method="PUT", url=url, **values | changed)  # type: ignore[arg-type]
    assert "host" not in headers
    return headers["authorization"]


def test_the_example_of_the_documentation_has_its_signature() -> None:
    assert signature() == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        " SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,"
        " Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )


@pytest.mark.parametrize(
    "changed", [{"secret": "other"}, {"payload_sha256": "0" * 64}, {"now_ms": MOMENT_MS + 1000}, {"headers": {}}]
)
def test_the_signature_covers_secret_body_time_and_headers(changed: dict[str, object]) -> None:
    assert signature(**changed) != signature()


def test_an_own_endpoint_has_the_bucket_in_the_path() -> None:
    own = Bucket("my bucket", endpoint="https://s3.example.com/", prefix="logs/")
    assert own.url("2026/a b.csv") == "https://s3.example.com/my%20bucket/logs/2026/a%20b.csv"
    assert Bucket("b", region="eu-west-1").url("k") == "https://b.s3.eu-west-1.amazonaws.com/k"
