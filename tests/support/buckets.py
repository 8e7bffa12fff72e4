"""Run a real S3 server (moto) on loopback, in a separate process so that it can be stopped and restarted."""

from __future__ import annotations

import socket
import subprocess
import sys
from types import TracebackType

import requests

from tests.support.waiting import eventually

REGION = "eu-central-1"


class S3Server:
    """Serve buckets from memory; a restart loses them."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> S3Server:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._answers, within_s=60, every_s=0.1)
        return self

    def _answers(self) -> bool:
        try:
            return requests.get(self.endpoint + "/moto-api/", timeout=5).ok
        except requests.ConnectionError:
            return False

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket."""
        make_bucket(self.endpoint, name)

    def count_objects(self, name: str) -> int:
        """Return the number of objects in a bucket of at most a thousand."""
        answer = requests.get(f"{self.endpoint}/{name}?list-type=2", headers=_as_anybody(), timeout=10)
        return answer.text.count("<Key>")

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> S3Server:
        return self.start()

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.stop()


def make_bucket(endpoint: str, name: str) -> None:
    """Create an empty bucket on a server."""
    body = f"<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
    requests.put(f"{endpoint}/{name}", data=body, headers=_as_anybody(), timeout=10).raise_for_status()


def _as_anybody() -> dict[str, str]:
    """Return credentials: moto reads the region from the signature and accepts everything else."""
    scope = f"x/20260101/{REGION}/s3/aws4_request"
    return {"authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=x"}
