"""Each failure is one line in the log: a warning with request, generation, engine and reason, and no second line."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from minitoolai.chat.circuit_breaker import MIN_ACCOUNTS
from tests.support import catalogs, manners
from tests.support.ask import API, HELLO, OPENAI
from tests.support.mixed_traffic import SPEECH
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CATALOG as IMAGES
from tests.support.studio_http import job, wait
from tests.support.upstream import Behaviour, Upstream
from tests.support.waiting import eventually
from tests.support.watch import lines

LIMITS = "first_token_timeout_s = 1.0\ntotal_timeout_s = 2.5"
_names = itertools.count(1)


@pytest.fixture(scope="module")
def standin() -> Iterator[Upstream]:
    with Upstream(manners.answer(), records=False) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def logged(standin: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose engine `far` never rests, `touchy` rests soon, and `pair` falls back from `dead` to `far`."""
    text = catalogs.FAKE + IMAGES + SPEECH
    text += catalogs.upstream("far", standin.base_url, f"{LIMITS}\n{catalogs.PATIENT}")
    text += catalogs.upstream(
        "touchy", standin.base_url, f"{LIMITS}\nretries = 0\ncooldown_after = 3\ncooldown_s = 1.0"
    )
    text += catalogs.upstream("dead", "http://127.0.0.1:9/v1", catalogs.PATIENT)
    text += '\n[chat.pair]\ninput = "0.15"\noutput = "0.60"\ncontext = 128_000\nmax_output = 4096\n'
    text += 'engines = ["dead", "far"]\n'
    text += f'\n[engines.voices]\nkind = "upstream"\nbase_url = "{standin.base_url}"\n{catalogs.PATIENT}'
    text += '\n[speech.away]\nprice = "15.00"\nmax_characters = 1000\nvoice = "alloy"\n'
    text += 'voices = [{ id = "alloy", engine = "voices", language = "*", licence = "theirs" }]\n'
    text += f'\n[engines.painter]\nkind = "upstream"\nbase_url = "{standin.base_url}"\n{catalogs.PATIENT}'
    text += '\n[image.drawn]\nprice = "0.0015"\nengines = ["painter"]\n'
    env = {"MINITOOLAI_LOG_FORMAT": "json", "MINITOOLAI_LOG_LEVEL": "info"}
    with ServerProcess(tmp_path_factory.mktemp("logged"), catalog=text, env=env) as server:
        yield server


@pytest.fixture
def account(logged: ServerProcess, standin: Upstream) -> Account:
    standin.behave = manners.answer()
    return logged.account()


def send(account: Account, path: str = API, **body: Any) -> tuple[str, requests.Response]:
    """Send a request with an ID of its own, and return both."""
    name = f"failing-{next(_names)}"
    body = {"model": "far", "messages": HELLO} | body
    headers = account.headers | {"x-request-id": name}
    return name, requests.post(account.server.url + path, json=body, headers=headers, timeout=30)


def about(server: ServerProcess, *words: str) -> list[dict[str, Any]]:
    """Return the log lines that mention one of these words."""
    return [line for line in lines(server) if any(word in str(line) for word in words)]


FAILURES: dict[str, tuple[Behaviour, str]] = {
    "status 500": (manners.refuse(500), "upstream_error"),
    "status 401": (manners.refuse(401), "upstream_error"),
    "status 429": (manners.refuse(429), "rate_limit_exceeded"),
    "no head": (manners.hang_before_head, "upstream_timeout"),
    "no token": (manners.hang_before_token, "upstream_timeout"),
    "not HTTP": (manners.raw(b"nonsense"), "upstream_error"),
    "not JSON": (manners.body(b"nonsense"), "upstream_error"),
    "reset": (manners.break_off("reset"), "upstream_error"),
    "closed": (manners.break_off("close"), "upstream_error"),
    "an error event": (manners.break_off("error"), "upstream_error"),
    "silence": (manners.break_off("hang"), "upstream_timeout"),
}


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("how", FAILURES)
def test_a_failed_chat_is_one_warning(
    logged: ServerProcess, account: Account, standin: Upstream, how: str, *, is_streamed: bool
) -> None:
    standin.behave, reason = FAILURES[how]
    name, answer = send(account, API if is_streamed else OPENAI, stream=is_streamed)
    generation = answer.headers["x-generation-id"]
    account.settled()
    (line,) = about(logged, name, generation)
    assert (line["level"], line["request"], line["generation"]) == ("warning", name, generation)
    assert (line["engine"], line["model"], line["reason"]) == ("far", "far", reason)
    for word in (name, generation, "far", reason):
        assert word in line["message"]


def test_a_request_that_the_upstream_rejects_is_no_warning(
    logged: ServerProcess, account: Account, standin: Upstream
) -> None:
    standin.behave = manners.refuse(400)
    name, answer = send(account)
    assert answer.status_code == 400
    (line,) = about(logged, name)
    assert (line["level"], line["reason"]) == ("info", "invalid_request")


def test_a_client_that_leaves_and_one_that_is_refused_leave_no_line(logged: ServerProcess, account: Account) -> None:
    name, answer = send(account, model="no-such-model")
    assert answer.status_code == 404
    other = f"leaving-{next(_names)}"
    headers = account.headers | {"x-request-id": other}
    body = {"model": "endless", "messages": HELLO, "stream": True}
    with requests.post(logged.url + API, json=body, headers=headers, timeout=30, stream=True) as stream:
        generation = stream.headers["x-generation-id"]
    account.settled()
    assert about(logged, name, other, generation) == []


def test_failed_speech_and_a_failed_job_are_one_warning_each(
    logged: ServerProcess, account: Account, standin: Upstream
) -> None:
    standin.behave = manners.refuse(500)
    name, answer = send(account, "/v1/audio/speech", model="away", input="Saturn.", messages=None)
    assert answer.status_code == 502
    (line,) = about(logged, name)
    assert (line["level"], line["engine"], line["reason"]) == ("warning", "voices", "upstream_error")
    drawn = job(account, model="drawn")
    assert wait(account, drawn)["status"] == "error"
    # The last line follows the state that the poll shows.
    eventually(lambda: len(about(logged, f"job {drawn['jobid']}")) == 3)
    found = about(logged, f"job {drawn['jobid']}")
    # Attempts that are repeated are no failures yet.
    assert [line["level"] for line in found] == ["info", "info", "warning"]
    assert (found[-1]["engine"], found[-1]["model"], found[-1]["reason"]) == ("painter", "drawn", "upstream_error")
    assert found[-1]["message"].startswith("generation gen-")


def test_a_fallback_that_succeeds_is_summed_and_no_warning(logged: ServerProcess, account: Account) -> None:
    names = [send(account, model="pair")[0] for _ in range(5)]
    assert about(logged, *names) == []
    assert not [line for line in lines(logged) if line["level"] == "warning" and "pair" in line["message"]]
    # The sum comes at the end of the minute, or of the process: see the last test.


def test_a_rest_and_a_recovery_are_one_line_each_and_refusals_are_summed(
    logged: ServerProcess, standin: Upstream
) -> None:
    standin.behave = manners.refuse(500)
    accounts = [logged.account() for _ in range(MIN_ACCOUNTS)]
    sent = [send(one, model="touchy") for one in accounts * 2]
    refused = [name for name, answer in sent if answer.status_code == 503]
    assert refused, [answer.status_code for _, answer in sent]
    # A failed probe opens the circuit again; that is the same fault.
    time.sleep(1.2)
    assert send(accounts[0], model="touchy")[1].status_code == 502
    assert about(logged, *refused) == []
    (line,) = [line for line in lines(logged) if "its circuit is open" in line["message"]]
    assert (line["level"], line["message"]) == (
        "warning",
        "touchy fails; its circuit is open for every account, for 1 s at first",
    )
    standin.behave = manners.answer()
    eventually(lambda: send(accounts[0], model="touchy")[1].status_code == 200, every_s=0.3)
    (line,) = [line for line in lines(logged) if "has recovered" in line["message"]]
    assert (line["level"], line["message"]) == ("warning", "touchy has recovered; its circuit is closed")


def test_a_hold_that_was_settled_elsewhere_is_one_warning(
    logged: ServerProcess, account: Account, standin: Upstream
) -> None:
    standin.behave = manners.answer(["word "] * 20, delay_s=0.1)
    name = f"lost-{next(_names)}"
    headers = account.headers | {"x-request-id": name}
    body = {"model": "far", "messages": HELLO, "stream": True}
    with requests.post(logged.url + API, json=body, headers=headers, timeout=30, stream=True) as stream:
        generation = stream.headers["x-generation-id"]
        logged.recover(generation)
        assert '"interrupted"' in stream.text
    (line,) = [line for line in about(logged, name, generation) if line["level"] != "info"]
    assert (line["level"], line["reason"], line["generation"]) == ("warning", "interrupted", generation)


def test_sums_are_written_when_the_server_stops(standin: Upstream, tmp_path_factory: pytest.TempPathFactory) -> None:
    standin.behave = manners.answer()
    text = catalogs.FAKE + catalogs.upstream("far", standin.base_url, catalogs.PATIENT)
    text += catalogs.upstream("dead", "http://127.0.0.1:9/v1", "retries = 0\ncooldown_s = 60.0")
    text += '\n[chat.pair]\ninput = "0.15"\noutput = "0.60"\ncontext = 128_000\nmax_output = 4096\n'
    text += 'engines = ["dead", "far"]\n'
    with ServerProcess(tmp_path_factory.mktemp("sums"), catalog=text, env={"MINITOOLAI_LOG_FORMAT": "json"}) as server:
        account = server.account()
        assert send(account, model="pair")[1].status_code == 200
        assert [send(account, model="dead")[1].status_code for _ in range(4)] == [503] * 4
        os.kill(server.pid, signal.SIGTERM)
        server.wait()
    found = [(line["level"], line["message"]) for line in lines(server) if "in the last minute" in line["message"]]
    assert found == [
        ("info", "chats of model pair that failed at dead (upstream_error) succeeded at far: 1 in the last minute"),
        ("warning", "refused requests for model dead at dead (overloaded): 4 in the last minute"),
    ]
