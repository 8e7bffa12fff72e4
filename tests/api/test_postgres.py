"""Test the server on PostgreSQL: charges, and two servers on one database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import catalogs
from tests.support.ask import post, start
from tests.support.cluster import Cluster
from tests.support.server import ServerProcess

CREDIT = 5_000_000_000


@pytest.fixture
def on_postgres(tmp_path: Path, cluster: Cluster) -> Iterator[ServerProcess]:
    env = {"MINITOOLAI_DATABASE_URL": cluster.books()}
    with ServerProcess(tmp_path, catalog=catalogs.FAKE, env=env).start() as server:
        yield server


def test_a_chat_is_charged_to_the_nano_dollar(on_postgres: ServerProcess) -> None:
    account = on_postgres.account()
    assert post(account, model="paced").status_code == 200
    assert account.settled() == CREDIT - 6 * 2007 - 50 * 8003


def test_a_second_server_does_not_end_the_streams_of_the_first(on_postgres: ServerProcess, tmp_path: Path) -> None:
    account = on_postgres.account()
    (tmp_path / "second" / "data").mkdir(parents=True)
    shutil.copy(on_postgres.data_dir / "secret.key", tmp_path / "second" / "data")
    # Long enough for a busy machine, since the client disconnects in the middle.
    with start(account, model="endless", max_completion_tokens=3000) as answer:
        name = answer.headers["x-generation-id"]
        lines = answer.iter_lines()
        next(lines)
        with ServerProcess(tmp_path / "second", catalog=catalogs.FAKE, env=on_postgres.env).start() as second:
            assert on_postgres.generation(name)["hold_state"] == "pending"
            second.kill()
        next(lines)
    account.settled()
    # The first server settled it because the client disconnected; the second did not touch it.
    assert on_postgres.generation(name)["error_code"] == "client_left"
