"""Heavy reads of one account delay the requests of another by little, and take no memory."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from minitoolai.billing import payments
from minitoolai.core.clock import MS_PER_DAY, SystemClock
from minitoolai.storage.tables import users
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.browse import new_user
from tests.support.cli import CATALOG
from tests.support.history import FREE_EVERY, seed_history
from tests.support.server import Account, ServerProcess

pytestmark = [pytest.mark.acceptance, pytest.mark.timing]
MOVEMENTS = 100_000
DOWNLOADS, REPORTS = 4, 8
CHATS = 60
TRIES = 3
MAX_MB = 30
EMAIL = "busy@example.com"

#: Requests one path again and again in a process of its own, and prints how many bytes the last response had.
CALLER = """
import http.client, sys
port, path, name, value = int(sys.argv[1]), *sys.argv[2:5]
while True:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path, headers={name: value})
    response = connection.getresponse()
    size = 0
    while part := response.read(65536):
        size += len(part)
    print(response.status, size, flush=True)
    connection.close()
"""


@contextlib.contextmanager
def callers(
    server: ServerProcess, times: int, path: str, name: str, value: str
) -> Iterator[list[subprocess.Popen[str]]]:
    command = ["nice", "-n", "10", sys.executable, "-S", "-c", CALLER, str(server.port), path, name, value]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(times)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def chat_times_s(customer: Account, session: requests.Session) -> list[float]:
    body = {"model": "fake-chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    times = []
    for _ in range(CHATS):
        began_s = time.monotonic()
        url = customer.server.url + "/v1/chat/completions"
        assert session.post(url, json=body, headers=customer.headers, timeout=60).status_code == 200
        times.append(time.monotonic() - began_s)
        time.sleep(0.01)
    return times


def test_downloads_and_reports_of_one_account_leave_the_requests_of_another_alone(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=CATALOG) as server:
        busy = new_user(server, EMAIL)
        account_id = server.read(lambda c: users.find_user(c, EMAIL))[0].account_id
        server.write(lambda c: payments.grant(c, SystemClock(), account_id, 10**9, reason="test"))
        now_ms = SystemClock().now_ms()
        with server.connect() as connection:
            requests_made = MOVEMENTS * FREE_EVERY // (FREE_EVERY - 1)
            seed_history(connection, account_id, requests_made, first_ms=now_ms - 30 * MS_PER_DAY, until_ms=now_ms)
        key = server.command("key", "create", EMAIL).stdout.strip()
        customer, session = server.account(), requests.Session()
        cookie = "session=" + str(busy.cookies.get("session"))
        # Once, so that what a first request loads is in memory.
        whole = requests.get(f"{server.url}/en/balance/statement.csv", headers={"cookie": cookie}, timeout=120).content
        assert whole.count(b"\n") > MOVEMENTS
        usage = f"{server.url}/api/usage/?group_by=model"
        assert requests.get(usage, headers={"authorization": f"Bearer {key}"}, timeout=60).status_code == 200
        chat_times_s(customer, session)
        found = []
        for _ in range(TRIES):
            alone, before_mb = chat_times_s(customer, session), server.resident_mb()
            with (
                callers(server, DOWNLOADS, "/en/balance/statement.csv", "cookie", cookie) as downloads,
                callers(server, REPORTS, "/api/usage/?group_by=model", "authorization", f"Bearer {key}") as reports,
            ):
                # All are at work.
                assert all((process.stdout or sys.stdin).readline().startswith("200 ") for process in reports)
                beside = chat_times_s(customer, session)
                grown_mb = server.resident_mb() - before_mb
                assert all(process.poll() is None for process in (*downloads, *reports))
            found.append((statistics.median(beside) / statistics.median(alone), max(beside) / max(alone), grown_mb))
            if found[-1][0] <= 2 and found[-1][1] <= 5:
                break
        print("median and worst beside alone, and MB grown:", found)
        assert any(median <= 2 and worst <= 5 for median, worst, _ in found), found
        assert all(grown_mb <= MAX_MB for _, _, grown_mb in found), found
        assert server.read(broken_invariants) == {}
