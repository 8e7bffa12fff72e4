"""`serve --workers N` on PostgreSQL: several processes behind one address survive the death of any of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from minitoolai.storage.tables import accounts
from tests.support import catalogs
from tests.support.ask import post
from tests.support.cluster import Cluster
from tests.support.server import PROGRAM, ServerProcess
from tests.support.waiting import children_of, eventually


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[ServerProcess]:
    """Serve with three processes behind one port."""
    env = {"MINITOOLAI_DATABASE_URL": cluster.books()}
    with ServerProcess(tmp_path_factory.mktemp("three"), catalog=catalogs.FAKE, env=env).start(
        "--workers", "3"
    ) as server:
        yield server


def test_a_process_that_dies_is_replaced_and_the_others_continue(three: ServerProcess) -> None:
    account = three.account()
    before = children_of(three.pid)
    assert len(before) == 3
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    assert {post(account).status_code for _ in range(20)} == {200}
    eventually(lambda: len(children_of(three.pid) - {victim}) == 3, within_s=20)
    assert before - {victim} < children_of(three.pid)
    assert "ended unexpectedly with status -9" in three.log.read_text()


def test_a_revoked_key_is_refused_by_every_process_within_a_second(three: ServerProcess) -> None:
    account = three.account()
    for _ in range(30):
        assert requests.get(three.url + "/api/balance/", headers=account.headers, timeout=10).status_code == 200
    key_id = account.key.split("-")[2]
    # As another program would: through the books, not through the server.
    from minitoolai.cli import common as commands

    assert commands.write(three.settings, lambda c: accounts.revoke_key(c, key_id, 5))
    time.sleep(1)
    seen = {
        requests.get(three.url + "/api/balance/", headers=account.headers, timeout=10).status_code for _ in range(30)
    }
    assert seen == {401}


def test_a_port_in_use_and_a_wrong_setting_are_refused_clearly(three: ServerProcess, tmp_path: Path) -> None:
    for arguments, words in (
        (["--port", str(three.port)], f"cannot listen on 127.0.0.1:{three.port}"),
        (["--port", "0"], "MINITOOLAI_PROT is not a setting"),
    ):
        env = {**three.env, **({} if "cannot" in words else {"MINITOOLAI_PROT": "1"})}
        command = [*PROGRAM, "serve", "--workers", "2", *arguments, "--data-dir", str(tmp_path / "other")]
        refused = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 1
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr


def test_the_supervisor_exits_if_the_first_processes_cannot_start(tmp_path: Path, cluster: Cluster) -> None:
    env = {
        **os.environ,
        "MINITOOLAI_DATABASE_URL": cluster.url(cluster.create()),
        "MINITOOLAI_CATALOG": str(tmp_path / "absent.toml"),
    }
    command = [*PROGRAM, "serve", "--workers", "2", "--port", "0", "--data-dir", str(tmp_path)]
    refused = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "absent.toml" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""


def test_processes_are_replaced_for_a_new_catalog_but_not_for_a_wrong_one(three: ServerProcess) -> None:
    path = three.folder / "catalog.toml"
    good, children = path.read_text(), children_of(three.pid)
    try:
        path.write_text(good.replace('input = "', 'input = "-', 1))
        os.kill(three.pid, signal.SIGHUP)
        eventually(lambda: "the previous catalog stays in use" in three.log.read_text(), within_s=10)
        assert children_of(three.pid) == children
        assert requests.get(three.url + "/healthz", timeout=10).status_code == 200
    finally:
        path.write_text(good)
    os.kill(three.pid, signal.SIGHUP)
    eventually(lambda: not children & children_of(three.pid), within_s=60)
