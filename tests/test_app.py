"""Test the app of a running server: how paths are dispatched, CORS, start-up, and graceful shutdown."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from minitoolai.app import Server
from minitoolai.bootstrap import build
from minitoolai.http.asgi import App, Receive, Scope, Send
from minitoolai.http.request_context import RequestContext
from minitoolai.settings import Settings
from tests.http.serving.test_fast_path import Cycle
from tests.support import catalogs
from tests.support.ask import API, HELLO, OPENAI, check_refusal, events, post, said, start
from tests.support.server import PROGRAM, Account, ServerProcess
from tests.support.waiting import eventually

CREDIT = 5_000_000_000
READ = ("/v1/models", "/v1/models/quick", "/api/balance/", "/api/usage/", "/v1/audio/voices", "/healthz", "/readyz")


# ── dispatch ──────────────────────────────────────────────────────────────────────────────────────────────


def request(account: Account, path: str, method: str = "GET", **headers: str) -> requests.Response:
    return requests.request(method, account.server.url + path, headers={**account.headers, **headers}, timeout=30)


@pytest.mark.parametrize("path", ["/v1//chat/completions", "//v1/chat/completions", "/v1/chat//completions/"])
def test_double_slashes_in_a_path_are_accepted(account: Account, path: str) -> None:
    assert post(account, path).json()["object"] == "chat.completion"
    assert request(account, "//v1//models").json()["object"] == "list"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/api/chat-completion/", "/api/chat-completions/"),
    ],
)
def test_a_misspelt_path_is_a_404_that_suggests_the_right_one(account: Account, path: str, meant: str) -> None:
    assert f"did you mean {meant}?" in check_refusal(post(account, path), 404, "not_found")


def test_a_path_unlike_any_other_is_a_404_without_a_suggestion(account: Account) -> None:
    assert "did you mean" not in check_refusal(request(account, "/v1/threads"), 404, "not_found")


@pytest.mark.parametrize("path", READ)
def test_paths_that_support_get_support_head(account: Account, path: str) -> None:
    answer, whole = request(account, path, "HEAD"), request(account, path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(whole.content))


def test_a_wrong_method_is_a_405_with_the_allowed_ones(account: Account) -> None:
    answer = request(account, "/v1/models", "POST")
    assert "GET" in check_refusal(answer, 405, "method_not_allowed")
    assert "HEAD" in answer.headers["allow"]


@pytest.mark.parametrize("path", [API, OPENAI, "/v1/models", "/api/texttoimage/", "/v1/responses"])
def test_a_cors_preflight_allows_other_origins(account: Account, path: str) -> None:
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    asked = request(account, path, "OPTIONS", origin="https://app.example.com", **wanted)
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == "*"
    assert asked.headers["access-control-allow-headers"] == "authorization, *"
    assert "POST" in asked.headers["access-control-allow-methods"]
    # Credentials that a browser sends by itself, such as cookies, are not allowed.
    assert "access-control-allow-credentials" not in asked.headers


@pytest.mark.parametrize("stream", [True, False])
def test_responses_and_errors_have_cors_headers(account: Account, stream: bool) -> None:
    body = {"model": "quick", "messages": HELLO, "stream": stream}
    headers = {**account.headers, "origin": "https://app.example.com"}
    answer = requests.post(account.server.url + OPENAI, json=body, headers=headers, timeout=30)
    refused = requests.post(account.server.url + OPENAI, json={**body, "model": "x"}, headers=headers, timeout=30)
    for one, status in ((answer, 200), (refused, 404)):
        assert one.status_code == status
        assert one.headers["access-control-allow-origin"] == one.headers["access-control-expose-headers"] == "*"
    assert "access-control-allow-origin" not in post(account, OPENAI).headers


def test_pages_of_the_portal_have_no_cors_headers(account: Account) -> None:
    answer = requests.get(account.server.url + "/en/", headers={"origin": "https://app.example.com"}, timeout=30)
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (200, None)


@pytest.mark.parametrize("stream", [True, False])
def test_an_http_1_0_client_gets_no_chunked_encoding(account: Account, stream: bool) -> None:
    body = json.dumps({"model": "quick", "messages": HELLO, "stream": stream}).encode()
    head = f"POST {OPENAI} HTTP/1.0\r\nAuthorization: Bearer {account.key}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", account.server.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        with connection.makefile("rb") as file:
            answered, _, rest = file.read().partition(b"\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in answered
    if stream:
        found = events(rest.decode())
        assert found[-1] == "[DONE]"
        assert said(found).startswith("token-0")
    else:
        assert json.loads(rest)["object"] == "chat.completion"


def test_the_error_for_an_empty_body_says_so(account: Account) -> None:
    headers = {**account.headers, "content-type": "application/json"}
    answer = requests.post(account.server.url + OPENAI, data=b"", headers=headers, timeout=30)
    assert "empty" in check_refusal(answer, 400, "invalid_json")


# ── start-up and shutdown ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Start a server that the test may stop or kill."""
    with ServerProcess(tmp_path, catalog=catalogs.FAKE).start() as server:
        yield server


def test_a_second_server_on_one_data_folder_is_refused(own_server: ServerProcess) -> None:
    second = own_server.command("serve", "--port", "0")
    assert second.returncode == 1
    assert "another minitoolai serve is already using" in second.stderr
    assert str(own_server.data_dir) in second.stderr
    assert "Traceback" not in second.stderr
    assert post(own_server.account()).status_code == 200


def test_a_port_in_use_is_an_error_and_creates_no_demo_key(own_server: ServerProcess, tmp_path: Path) -> None:
    command = [*PROGRAM, "serve", "--demo", "--port", str(own_server.port), "--data-dir", str(tmp_path / "other")]
    second = subprocess.run(command, env=own_server.env, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "sk-mt-" not in second.stdout
    with sqlite3.connect(tmp_path / "other" / "minitoolai.db") as books:
        assert books.execute("SELECT count(*) FROM api_keys").fetchall() == [(0,)]
    assert str(own_server.port) in second.stderr
    assert "Traceback" not in second.stderr


def test_a_stream_in_flight_is_finished_at_shutdown(own_server: ServerProcess) -> None:
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


def test_readyz_fails_during_shutdown_while_a_response_is_finished(own_server: ServerProcess) -> None:
    account = own_server.account()
    with start(account, model="endless", max_completion_tokens=40) as answer, requests.Session() as session:
        # Connect before the shutdown, because new connections are not accepted during it.
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


def test_a_stream_longer_than_the_drain_timeout_is_cut_and_charged(tmp_path: Path) -> None:
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
        assert "the server stopped before the response was complete" in found[-2]
        server.check_books()
        row = server.generation(name)
        assert row["hold_state"] == "posted"
        assert 0 < row["output_units"] < 1000
        assert account.money().posted == CREDIT - row["cost"]


def test_a_full_disk_refuses_holds_and_charges_responses_in_flight_once_it_has_space(
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
            assert "Nothing was charged" in message
            assert requests.get(own_server.url + "/healthz", timeout=10).status_code == 200
            # The stream has ended by now, but its last event waits for the charge.
            time.sleep(1.5)
        assert list(lines)[-2] == "data: [DONE]"
    assert own_server.transfers_of(name) == [6 * 2007 + 60 * 8003]
    assert post(account).status_code == 200
    log = own_server.log.read_text()
    assert "charges could not be written, will retry" in log


def refused(account: Account) -> list[requests.Response]:
    answer = post(account)
    return [answer] if answer.status_code != 200 else []


class disk_full:
    """Limit the file size of the process, which has the effect of a full disk."""

    def __init__(self, server: ServerProcess) -> None:
        self._pid = server.pid
        self._limits = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)

    def __enter__(self) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (4096, self._limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._limits)


def test_demo_on_an_existing_data_folder_creates_a_new_key_for_its_account(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, catalog=catalogs.FAKE, is_new=True)
    keys = set()
    for _ in range(2):
        with server.start("--demo") as running:
            keys.add(running.demo_key())
    assert len(keys) == 2
    assert server.command("balance", "demo@example.com").stdout.startswith("balance $5.00  ")
    listed = server.command("key", "list", "demo@example.com").stdout
    assert re.findall(r"^\w+  (\w+) +demo$", listed, re.MULTILINE) == ["revoked", "active"], listed


def test_concurrent_responses_do_not_wait_for_each_other(own_server: ServerProcess) -> None:
    account = own_server.account()
    done: list[str] = []
    threads = [threading.Thread(target=lambda: done.append(post(account, model="paced").text)) for _ in range(8)]
    started_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One takes 1 s, so eight in sequence would take 8 s.
    assert time.monotonic() - started_s < 7
    assert all(events(text)[-1] == "[DONE]" for text in done)
    assert len(done) == 8


# ── bugs ──────────────────────────────────────────────────────────────────────────────────────────────────


class Faulty(Server):
    """A server with a bug in every handler, before or after the head of the response was sent."""

    is_late = False

    def _handler(self, scope: Scope, headers: dict[bytes, bytes], context: RequestContext) -> App:
        async def fail(scope: Scope, receive: Receive, send: Send) -> None:
            if self.is_late:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            raise LookupError("a bug")

        return fail


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/chat/completions", ("error", "code")),
        ("/v1/messages", ("error", "type")),
        ("/api/texttoimage/", ("code",)),
    ],
)
def test_a_bug_is_a_500_in_the_format_of_the_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, code: tuple[str, ...]
) -> None:
    cycle = Cycle(path=path)
    asyncio.run(cycle.cycle.run_asgi(Faulty(build(Settings(data_dir=tmp_path)))))  # type: ignore[arg-type]
    head, _, body = cycle.wire.data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    found = json.loads(body)
    for name in code:
        found = found[name]
    assert found == ("api_error" if path == "/v1/messages" else "internal_error")
    # The log has the traceback, under the ID that the client can quote.
    (record,) = [record for record in caplog.records if record.exc_info]
    assert f"x-request-id: {record.getMessage().split()[1]}".encode() in head


def test_after_the_head_of_a_response_a_bug_closes_the_connection(tmp_path: Path) -> None:
    server = Faulty(build(Settings(data_dir=tmp_path)))
    server.is_late = True
    cycle = Cycle()
    asyncio.run(cycle.cycle.run_asgi(server))  # type: ignore[arg-type]
    assert b"500" not in cycle.wire.data
    assert not cycle.cycle.response_complete
