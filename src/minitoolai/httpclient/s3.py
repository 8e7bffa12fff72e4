"""Sign requests to S3-compatible servers (AWS Signature Version 4), for buckets of customers."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import msgspec


class Bucket(msgspec.Struct, frozen=True):
    """A bucket of an S3-compatible server. An empty endpoint is Amazon S3."""

    bucket: str
    region: str = "us-east-1"
    endpoint: str = ""
    prefix: str = ""
    access_key_id: str = ""

    def url(self, key: str) -> str:
        """Return the URL of an object, path-style for own endpoints."""
        path = quote(f"{self.prefix}{key}", safe="/-_.~")
        if self.endpoint:
            return f"{self.endpoint.rstrip('/')}/{quote(self.bucket, safe='')}/{path}"
        return f"https://{self.bucket}.s3.{self.region}.amazonaws.com/{path}"


def signed_headers(
    bucket: Bucket, secret: str, method: str, url: str, payload_sha256: str, now_ms: int, headers: dict[str, str]
) -> dict[str, str]:
    """Return these headers and those that sign the request. The URL has no query."""
    moment = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    parts = urlsplit(url)
    signed = {
        **headers, "host": parts.netloc, "x-amz-content-sha256": payload_sha256, "x-amz-date": moment,
    }  # fmt: skip
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed))
    request = f"{method}\n{parts.path}\n\n{lines}\n{names}\n{payload_sha256}"
    scope = f"{moment[:8]}/{bucket.region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in (moment[:8], bucket.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"{bucket.access_key_id}/{scope}"
    del signed["host"]
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return {**signed, "authorization": authorization}
