"""Tests that run the image programs of docs/examples unchanged, with the real interpreters."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from PIL import Image

from tests.support.ask import get
from tests.support.programs import program as installed
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CREDIT, PRICE, job, wait
from tests.support.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROGRAMS = {"image.py": sys.executable, "image.php": "php"}


def run(program: str, account: Account, folder: Path, key: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "MINITOOLAI_URL": account.server.url, "MINITOOLAI_KEY": key or account.key}
    command = [installed(PROGRAMS[program]), str(EXAMPLES / program)]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, encoding="utf-8", timeout=120, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_saves_its_image(program: str, sketch_server: ServerProcess, tmp_path: Path) -> None:
    account = sketch_server.account()
    done = run(program, account, tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "apple.png, drawn by minitoolai-sketch-1 with seed " in done.stdout
    with Image.open(tmp_path / "apple.png") as image:
        assert image.size == (512, 512)
    assert account.settled() == CREDIT - PRICE


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_prints_the_reason_of_a_refusal(program: str, sketch_server: ServerProcess, tmp_path: Path) -> None:
    done = run(program, sketch_server.account(), tmp_path, key="sk-mt-wrong")
    assert done.returncode == 1
    assert "Invalid API key" in done.stderr


@contextmanager
def receiving(program: str, secret: str, log: Path) -> Iterator[int]:
    """Run one of the receivers on a free port, with its output in `log`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = {
        "webhook.py": [sys.executable, str(EXAMPLES / "webhook.py"), str(port)],
        "webhook.php": ["php", "-S", f"127.0.0.1:{port}", str(EXAMPLES / "webhook.php")],
    }[program]
    command[0] = installed(command[0])
    with log.open("w") as out:
        process = subprocess.Popen(command, env={**os.environ, "WEBHOOK_SECRET": secret}, stdout=out, stderr=out)
    try:
        eventually(lambda: _listens(port), within_s=20)
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("program", ["webhook.py", "webhook.php"])
def test_an_example_receiver_accepts_only_signed_webhooks(program: str, account: Account, tmp_path: Path) -> None:
    secret = get(account, "/api/webhooks/").json()["secret"]
    log = tmp_path / "receiver.log"
    with receiving(program, secret, log) as port:
        url = f"http://127.0.0.1:{port}/"
        one = job(account, webhook_url=url)
        state = wait(account, one)
        eventually(lambda: "image.succeeded" in log.read_text(), within_s=20)
        assert f"image.succeeded {one['jobid']} {account.server.url}" in log.read_text()
        eventually(lambda: get(account, "/api/webhooks/").json()["data"][0]["state"] == "delivered", within_s=20)
        assert get(account, "/api/webhooks/").json()["data"][0]["generation"] == state["generation"]
        forged = {"webhook-id": "evt-1", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,AAAA"}
        assert requests.post(url, json={"type": "forged"}, headers=forged, timeout=10).status_code == 401
        assert requests.post(url, json={"type": "forged"}, timeout=10).status_code == 401
    assert "forged" not in log.read_text()
