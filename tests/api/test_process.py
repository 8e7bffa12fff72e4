"""The process around the app: one on each data folder, streams finished before it stops, a full disk survived."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support import catalogs
from tests.support.ask import check_refusal, events, post, start
from tests.support.server import PROGRAM, Account, ServerProcess
from tests.support.speech import catalog as speech_catalog
from tests.support.speech import speak
from tests.support.waiting import children_of, eventually

CREDIT = 5_000_000_000


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that the test may stop, or worse."""
    with ServerProcess(tmp_path, catalog=catalogs.FAKE).start() as server:
        yield server


def test_a_second_server_on_one_data_folder_refuses_with_the_reason(own_server: ServerProcess) -> None:
    second = own_server.command("serve", "--port", "0")
    assert second.returncode == 1
    assert "another minitoolai serve works on" in second.stderr
    assert str(own_server.data_dir) in second.stderr
    assert "Traceback" not in second.stderr
    assert post(own_server.account()).status_code == 200


def test_a_port_that_is_taken_is_a_clear_refusal(own_server: ServerProcess, tmp_path: Path) -> None:
    command = [*PROGRAM, "serve", "--demo", "--port", str(own_server.port), "--data-dir", str(tmp_path / "other")]
    second = subprocess.run(command, env=own_server.env, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "sk-mt-" not in second.stdout
    with sqlite3.connect(tmp_path / "other" / "minitoolai.db") as books:
        assert books.execute("SELECT count(*) FROM api_keys").fetchall() == [(0,)]
    assert str(own_server.port) in second.stderr
    assert "Traceback" not in second.stderr


def test_a_stream_under_way_ends_properly_when_the_server_is_told_to_stop(own_server: ServerProcess) -> None:
    account = own_server.account()
    with start(account, model="paced") as answer:
        lines = answer.iter_lines(decode_unicode=True)
        next(lines)
        own_server.terminate()
        rest = "\n".join(lines)
    assert rest.rstrip().endswith("data: [DONE]")
    assert own_server.wait() == 0
    assert account.money().posted == CREDIT - 6 * 2007 - 50 * 8003
    own_server.check_books()


def test_a_hang_up_breaks_no_stream_and_the_server_goes_on(own_server: ServerProcess) -> None:
    account = own_server.account()
    with start(account, model="paced") as answer:
        lines = answer.iter_lines(decode_unicode=True)
        next(lines)
        os.kill(own_server.pid, signal.SIGHUP)
        rest = "\n".join(lines)
    assert rest.rstrip().endswith("data: [DONE]")
    assert account.settled() == CREDIT - 6 * 2007 - 50 * 8003
    assert post(account).status_code == 200
    (line,) = [line for line in own_server.log.read_text().splitlines() if "SIGHUP" in line]
    assert "nothing to reload; restart it to apply new settings" in line
    own_server.stop()


#: Makes the terminal that is named first the one of a new session, then becomes the command after it.
ON_A_TERMINAL = "import os, sys; os.setsid(); os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"


def test_a_terminal_that_is_closed_takes_neither_the_server_nor_its_engines_along(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    server = ServerProcess(
        tmp_path,
        catalog=speech_catalog("http://127.0.0.1:9/v1"),
        wrapper=[sys.executable, "-c", ON_A_TERMINAL, os.ttyname(theirs)],
    )
    with server:
        account = server.account()
        engines = children_of(server.pid)
        assert engines
        os.close(theirs)
        # The kernel signals the first process of the session, and a shell all of its jobs.
        os.close(ours)
        os.killpg(server.pid, signal.SIGHUP)
        eventually(lambda: "SIGHUP ignored" in server.log.read_text())
        assert speak(account, model="tone", input="Hello.").status_code == 200
        assert children_of(server.pid) == engines


def test_a_plain_answer_under_way_is_finished_and_new_ones_are_refused(own_server: ServerProcess) -> None:
    account = own_server.account()
    with start(account, model="endless", max_completion_tokens=40) as answer, requests.Session() as session:
        # A connection opened before the stop: new ones are not accepted any more.
        assert session.get(own_server.url + "/healthz", timeout=10).status_code == 200
        lines = answer.iter_lines(decode_unicode=True)
        next(lines)
        own_server.terminate()
        eventually(lambda: _is_unready(session, own_server.url))
        assert "data: [DONE]" in list(lines)
    assert own_server.wait() == 0
    own_server.check_books()


def _is_unready(session: requests.Session, url: str) -> bool:
    try:
        return session.get(url + "/readyz", timeout=10).status_code == 503
    except requests.ConnectionError:
        return True


def test_a_stream_that_outlasts_the_patience_is_cut_and_charged(tmp_path: Path) -> None:
    env = {"MINITOOLAI_DRAIN_TIMEOUT_S": "1"}
    with ServerProcess(tmp_path, catalog=catalogs.FAKE, env=env).start() as server:
        account = server.account()
        with start(account, model="endless", max_completion_tokens=3000) as answer:
            name = answer.headers["x-generation-id"]
            lines = answer.iter_lines(decode_unicode=True)
            next(lines)
            server.terminate()
            stopped_s = time.monotonic()
            found = list(lines)
        assert server.wait() == 0
        assert time.monotonic() - stopped_s < 10
        assert "data: [DONE]" not in found
        assert "the server stopped before the answer ended" in found[-2]
        server.check_books()
        row = server.generation(name)
        assert row["hold_state"] == "posted"
        assert 0 < row["output_units"] < 1000
        assert account.money().posted == CREDIT - row["cost"]


def test_a_full_disk_refuses_holds_and_an_answer_under_way_is_charged_once_it_is_not_full(
    own_server: ServerProcess,
) -> None:
    account = own_server.account()
    assert post(account).status_code == 200
    with start(account, model="endless", max_completion_tokens=60) as answer:
        name = answer.headers["x-generation-id"]
        lines = answer.iter_lines(decode_unicode=True)
        next(lines)
        with disk_full(own_server):
            message = check_refusal(eventually(lambda: refused(account))[0], 503, "overloaded")
            assert "nothing was charged" in message
            assert requests.get(own_server.url + "/healthz", timeout=10).status_code == 200
            # The answer has ended by now; its end waits for the charge.
            time.sleep(1.5)
        assert list(lines)[-2] == "data: [DONE]"
    assert own_server.transfers_of(name) == [6 * 2007 + 60 * 8003]
    assert post(account).status_code == 200
    log = own_server.log.read_text()
    assert "will be tried again" in log


def refused(account: Account) -> list[requests.Response]:
    answer = post(account)
    return [answer] if answer.status_code != 200 else []


class disk_full:
    """No file of the process may grow: what a full disk feels like, without filling one."""

    def __init__(self, server: ServerProcess) -> None:
        self._pid = server.pid
        self._limits = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)

    def __enter__(self) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (4096, self._limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._limits)


def test_demo_on_an_old_data_folder_makes_a_new_key_for_the_old_account(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, catalog=catalogs.FAKE, is_new=True)
    keys = set()
    for _ in range(2):
        with server.start("--demo") as running:
            keys.add(running.demo_key())
    assert len(keys) == 2
    assert "$5.000000000" in server.command("balance", "demo@example.com").stdout


def test_answers_in_parallel_do_not_wait_for_each_other(own_server: ServerProcess) -> None:
    account = own_server.account()
    done: list[str] = []
    threads = [threading.Thread(target=lambda: done.append(post(account, model="paced").text)) for _ in range(8)]
    started_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One takes a second; eight in a row would take eight.
    assert time.monotonic() - started_s < 7
    assert all(events(text)[-1] == "[DONE]" for text in done)
    assert len(done) == 8
