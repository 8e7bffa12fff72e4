"""A server that is killed in the middle of transcriptions: the books and the disk afterwards."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from tests.support.recordings import PRICE, catalog, send, tone
from tests.support.server import ServerProcess
from tests.support.waiting import eventually
from tests.transcription.conftest import uploads_of

pytestmark = pytest.mark.acceptance
CREDIT = 5_000_000_000


def test_after_a_kill_only_what_was_processed_is_charged_and_no_upload_is_left(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=catalog("http://127.0.0.1:9/v1")) as server:
        account = server.account()

        def ask() -> None:
            with suppress(requests.RequestException):
                send(account, tone(120), model="slow")

        work = [threading.Thread(target=ask) for _ in range(2)]
        for each in work:
            each.start()
        pending = "SELECT count(*), min(progress) FROM holds WHERE state = 'pending'"
        eventually(lambda: server.read(lambda c: c.execute(pending))[0][1] or 0, within_s=30)
        assert len(uploads_of(server)) == 2
        server.kill()
        for each in work:
            each.join()
        assert len(uploads_of(server)) == 2
        server.start()
        eventually(lambda: account.money().held == 0, within_s=20)
        assert uploads_of(server) == []
        rows = server.read(lambda c: c.execute("SELECT state, cost FROM generations"))
        assert [state for state, _ in rows] == ["failed", "failed"]
        assert all(0 < cost < 120 * PRICE for _, cost in rows)
        assert account.money().posted == CREDIT - sum(cost for _, cost in rows)
        assert send(account, tone(2)).json()["text"] == "one two"
