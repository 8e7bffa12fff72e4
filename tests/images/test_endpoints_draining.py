"""Test that a stopping server ends event streams, refuses waiting requests and loses no job."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.support.server import ServerProcess
from tests.support.studio_http import CATALOG, CREDIT, PRICE, generate, job, poll, wait
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance


def test_a_stopping_server_ends_streams_and_waits_and_loses_no_job(tmp_path: Path) -> None:
    catalog = CATALOG.replace("delay_ms = 150", "delay_ms = 700")
    env = {"MINITOOLAI_IMAGE_ROWS": "1", "MINITOOLAI_DRAIN_TIMEOUT_S": "1"}
    with ServerProcess(tmp_path, catalog=catalog, env=env) as server, ThreadPoolExecutor(2) as pool:
        account = server.account()
        first, second = (job(account, model="slow", steps=4) for _ in range(2))
        eventually(lambda: poll(account, first).json()["status"] == "processing", within_s=10)
        url = f"{server.url}/api/texttoimage/jobs/{second['jobid']}/events"
        watching = pool.submit(requests.get, url, params={"signature": second["signature"]}, timeout=60)
        waiting = pool.submit(generate, account, model="slow", n=2)
        holds = "SELECT count(*) FROM holds WHERE state = 'pending'"
        eventually(lambda: server.read(lambda c: c.execute(holds)) == [(4,)], within_s=10)
        server.terminate()
        assert ": the server is restarting" in watching.result(30).text
        refused = waiting.result(30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert server.wait(30) == 0
        server.start()
        for one in (first, second):
            assert wait(account, one, within_s=60)["status"] == "success"
        assert account.settled() == CREDIT - 2 * PRICE
