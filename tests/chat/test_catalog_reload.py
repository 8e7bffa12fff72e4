"""SIGHUP reads the catalog again: new prices apply at once, streams keep theirs, mistakes change nothing."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minitoolai.chat.catalog_reload import why_restart
from minitoolai.core.catalog.loader import parse_catalog
from tests.support import manners
from tests.support.ask import OPENAI, get, post
from tests.support.server import PROGRAM, Account, ServerProcess
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

CREDIT = 5_000_000_000
FAKE = """
[engines.fake]
kind = "fake"
model = "fake-1"
tokens = 40
delay_ms = 150

[chat.slow]
input = "{price}"
output = "{price}"
context = 128_000
max_output = 4096
engines = ["fake"]
"""
UPSTREAM = """
[engines.up]
kind = "upstream"
base_url = "{url}"

[chat.far]
input = "1"
output = "1"
context = 128_000
max_output = 4096
engines = ["up"]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, catalog=FAKE.format(price="1")) as process:
        yield process


def reload(server: ServerProcess, text: str) -> str:
    """Replace the catalog and send SIGHUP. Return the new lines of the log."""
    before = len(server.log.read_text())
    (server.folder / "catalog.toml").write_text(text)
    os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: "catalog" in server.log.read_text()[before:], within_s=10)
    return server.log.read_text()[before:]


def ask(account: Account, limit: int = 40) -> tuple[bool, int]:
    """Return whether a stream was whole, and its cost."""
    answer = post(account, OPENAI, model="slow", stream=True, max_completion_tokens=limit)
    generation = get(account, f"/v1/generations/{answer.headers['x-generation-id']}").json()
    return answer.text.endswith("data: [DONE]\n\n"), round(float(generation["cost"]) * 10**9)


def test_streams_keep_their_price_and_new_requests_have_the_new_one(server: ServerProcess) -> None:
    account = server.account()
    with ThreadPoolExecutor(201) as pool:
        streams = [pool.submit(ask, account) for _ in range(200)]
        running = "SELECT count(*) FROM holds WHERE state = 'pending'"
        eventually(lambda: server.read(lambda connection: connection.execute(running)[0][0]) == 200)
        assert "0 models added, 0 removed, 1 changed; 0 engines changed" in reload(server, FAKE.format(price="10"))
        late = pool.submit(ask, account).result()
        early = [stream.result() for stream in streams]
    assert all(whole for whole, _ in [*early, late])
    assert {cost for _, cost in early} == {late[1] // 10}
    assert CREDIT - account.settled() == sum(cost for _, cost in [*early, late])
    prices = get(account, "/v1/models/slow").json()["price"]
    assert prices["input_per_million"] == "10.000000000"


def test_a_mistake_changes_nothing_and_is_reported(server: ServerProcess) -> None:
    account = server.account()
    said = reload(server, FAKE.format(price="-1"))
    assert "the previous one stays in use" in said
    assert 'line 9: [chat."slow"] input' in said
    assert ask(account, 2)[0]
    said = reload(server, FAKE.format(price="1").replace("tokens = 40", "tokens = 41"))
    assert "[engines.fake] has changed: restart the server for this change" in said
    assert ask(account, 2)[0]


def test_models_and_upstreams_come_change_and_go(server: ServerProcess) -> None:
    account = server.account()
    with Upstream(manners.answer()) as first, Upstream(manners.answer()) as second:
        assert post(account, OPENAI, model="far").status_code == 404
        far = FAKE.format(price="1") + UPSTREAM
        assert "1 models added, 0 removed" in reload(server, far.format(url=first.base_url))
        assert post(account, OPENAI, model="far").status_code == 200
        assert "0 models added, 0 removed, 0 changed; 1 engines" in reload(server, far.format(url=second.base_url))
        assert post(account, OPENAI, model="far").status_code == 200
        assert (len(first.seen), len(second.seen)) == (1, 1)
        assert "1 removed" in reload(server, FAKE.format(price="1"))
        assert post(account, OPENAI, model="far").status_code == 404
        assert get(account, "/v1/models/far").status_code == 404


def test_a_closed_terminal_stops_the_server_gracefully(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path, catalog=FAKE.format(price="1"))
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "serve", "--port", "0", "--data-dir", str(process.data_dir)]
    with subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=process.env
    ) as child:
        os.close(theirs)
        assert child.stdout is not None
        assert child.stdout.readline().startswith(b"MiniToolAI answers")
        os.close(ours)
        assert child.wait(20) == 0


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('kind = "fake"', 'kind = "upstream"\nbase_url = "https://host/v1"', "[engines.fake] has changed"),
        ("[image.real]", "[image.other]", "[image.real] is gone"),
        ('weights = "a"', 'weights = "b"', "[image.real] has changed in more than its price"),
        ("[chat.slow]", '[engines.new]\nkind = "fake"\nmodel = "m"\n[chat.slow]', "[engines.new] is new"),
        ('price = "0.1"', 'price = "0.2"', None),
        ('input = "1"', 'input = "2"', None),
    ],
)
def test_what_needs_a_restart_is_named(before: str, after: str, reason: str | None) -> None:
    text = FAKE.format(price="1") + '\n[image.real]\nprice = "0.1"\nweights = "a"\nengines = ["fake"]\n'
    assert before in text
    reasons = list(why_restart(parse_catalog(text), parse_catalog(text.replace(before, after))))
    assert (reason in reasons) if reason else reasons == []
