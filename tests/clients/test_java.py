"""Java's HTTP client works with its defaults. It asks for HTTP/2 on every connection."""

from __future__ import annotations

import subprocess

import pytest

from tests.clients.catalog import PROGRAMS
from tests.support.programs import program
from tests.support.server import Account


@pytest.mark.acceptance
def test_javas_http_client_is_served_in_every_way_of_sending(account: Account) -> None:
    command = [program("java"), str(PROGRAMS / "JavaClient.java"), account.server.url + "/v1", account.key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    ways = ("length", "chunked", "expect", "stream", "models")
    assert done.stdout.splitlines() == [f"{way} 200 HTTP_1_1 true" for way in ways], done.stderr
