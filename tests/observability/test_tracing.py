"""Traces: what a request did, told to a real collector over OTLP; nothing that a customer wrote, and at no risk."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from minitoolai.core.errors import SettingsError
from minitoolai.observability.otel import Traces
from minitoolai.observability.tracing import collector_address
from minitoolai.settings import Secret, Settings
from tests.support import catalogs, manners
from tests.support.ask import API, post, start
from tests.support.collector import Collector, Told
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CATALOG, job, wait
from tests.support.upstream import Upstream

SECRET = "a-key-of-the-collector"
PROMPT = "zanzibarian-prompt"
PARENT = "4bf92f3577b34da6a3ce929d0e0e4736"
SPOKEN = """
[engines.tone]
kind = "fake"
model = "tone-1"

[speech.tone]
price = "15.00"
max_characters = 10_000
voice = "tone"
voices = [{ id = "tone", engine = "tone", language = "en", licence = "none" }]
"""


class House:
    """A server, two providers behind it (the first always fails), and the collector that it tells."""

    def __init__(self, stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.failing = stack.enter_context(Upstream(manners.refuse(500)))
        self.standin = stack.enter_context(Upstream(manners.answer()))
        self.collector = stack.enter_context(Collector())
        quiet = "retries = 0\ncooldown_after = 0"
        text = catalogs.with_upstream(self.standin.base_url) + CATALOG + SPOKEN
        text += f'\n[engines.failing]\nkind = "upstream"\nbase_url = "{self.failing.base_url}"\n{quiet}\n'
        text += '\n[chat.pair]\ninput = "0.15"\noutput = "0.60"\ncontext = 128_000\nmax_output = 4096\n'
        text += 'engines = ["failing", "standin"]\n'
        env = {
            "MINITOOLAI_OTLP_ENDPOINT": self.collector.url,
            "MINITOOLAI_OTLP_HEADERS": f"authorization=Bearer {SECRET},x-tenant=7",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=trial",
        }
        folder = tmp_path_factory.mktemp("traced")
        self.server = stack.enter_context(ServerProcess(folder, catalog=text, env=env))


def serving(folder: Path, url: str, **more: str) -> ServerProcess:
    """A server of the fakes alone, that tells the collector at this address."""
    return ServerProcess(folder, catalog=catalogs.FAKE, env={"MINITOOLAI_OTLP_ENDPOINT": url, **more})


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(stack, tmp_path_factory)


@pytest.fixture
def account(house: House) -> Account:
    return house.server.account()


def ask(account: Account, name: str, path: str = API, **fields: object) -> requests.Response:
    """A request with a name of its own, by which its span is found."""
    body = {"model": "quick", "messages": [{"role": "user", "content": PROMPT}], **fields}
    body = {name: value for name, value in body.items() if value is not None}
    headers = {**account.headers, "x-request-id": name}
    return requests.post(account.server.url + path, json=body, headers=headers, timeout=30)


def request_of(house: House, name: str) -> Told:
    return house.collector.one({"minitoolai.request": name})


def test_a_streamed_chat_that_a_second_provider_answers_is_one_trace_under_the_callers(
    house: House, account: Account
) -> None:
    headers = {**account.headers, "traceparent": f"00-{PARENT}-00f067aa0ba902b7-01", "x-request-id": "streamed"}
    body = {"model": "pair", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    answer = requests.post(f"{house.server.url}{API}?secret={PROMPT}", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200
    assert "[DONE]" in answer.text
    name = answer.headers["x-generation-id"]
    request = request_of(house, "streamed")
    assert (request.trace, request.parent) == (PARENT, "00f067aa0ba902b7")
    assert (request.name, request.events, request.is_error) == ("POST /api/chat-completions", ["first token"], False)
    assert request.facts == {
        "http.request.method": "POST",
        "http.route": "/api/chat-completions",
        "http.response.status_code": 200,
        "minitoolai.request": "streamed",
        "minitoolai.generation": name,
        "minitoolai.kind": "chat",
        "minitoolai.streamed": True,
        "gen_ai.request.model": "pair",
    }
    (hold,) = house.collector.under(request, "hold")
    (settle,) = house.collector.under(request, "settle")
    first, second = house.collector.under(request, "engine", 2)
    assert first.facts["gen_ai.provider.name"] == "failing"
    assert (first.facts["minitoolai.attempt"], first.facts["error.type"]) == (1, "upstream_error")
    assert (second.facts["gen_ai.provider.name"], second.facts["minitoolai.attempt"]) == ("standin", 2)
    assert (first.is_error, second.is_error) == (True, False)
    assert hold.facts["minitoolai.generation"] == settle.facts["minitoolai.generation"] == name
    assert settle.facts["gen_ai.usage.output_tokens"] == len(manners.WORDS)
    assert settle.facts["minitoolai.cost_nano"] == 5_000_000_000 - account.settled()
    assert hold.ended_ns <= first.began_ns <= first.ended_ns <= second.began_ns <= settle.began_ns
    # Providers may go on where we stop: each was told of which attempt its work is a part.
    assert house.failing.seen[-1].headers["traceparent"] == f"00-{PARENT}-{first.id}-01"
    assert house.standin.seen[-1].headers["traceparent"] == f"00-{PARENT}-{second.id}-01"


def test_a_picture_is_drawn_in_the_trace_of_the_request_that_asked_for_it(house: House, account: Account) -> None:
    asked = job(account, prompt=PROMPT, negativePrompt=PROMPT)
    assert wait(account, asked)["status"] == "success"
    drawn = house.collector.one({}, "image job")
    submitted = house.collector.one({"minitoolai.kind": "image"}, "POST /api/texttoimage")
    (hold,) = house.collector.under(submitted, "submit")
    assert drawn.facts["minitoolai.generation"] == hold.facts["minitoolai.generation"]
    assert (drawn.trace, drawn.parent, drawn.is_error) == (submitted.trace, submitted.id, False)
    assert (drawn.facts["minitoolai.attempt"], drawn.facts["gen_ai.provider.name"]) == (1, "flat")
    for name in ("draw", "keep", "settle"):
        (piece,) = house.collector.under(drawn, name)
        assert drawn.began_ns <= piece.began_ns <= piece.ended_ns <= drawn.ended_ns


def test_a_spoken_text_is_told_of_as_a_chat_is(house: House, account: Account) -> None:
    assert ask(account, "spoken", "/v1/audio/speech", model="tone", messages=None, input=PROMPT).status_code == 200
    request = request_of(house, "spoken")
    assert (request.facts["minitoolai.kind"], request.events) == ("speech", ["first token"])
    (engine,) = house.collector.under(request, "engine")
    assert engine.facts["gen_ai.provider.name"] == "tone"
    (settle,) = house.collector.under(request, "settle")
    assert engine.ended_ns <= settle.began_ns + 1_000_000


def test_errors_are_told_by_their_codes_and_a_refusal_is_no_error_of_ours(house: House, account: Account) -> None:
    house.standin.behave = manners.refuse(500, PROMPT)
    assert ask(account, "failed", model="standin").status_code == 502
    house.standin.behave = manners.break_off("error")
    assert ask(account, "broken", model="standin", stream=True).status_code == 200
    house.standin.behave = manners.answer()
    assert ask(account, "unknown", model=PROMPT).status_code == 404
    assert ask(account, "nowhere", path=f"/api/{PROMPT}").status_code == 404
    poor = house.server.account(credit=None)
    assert ask(poor, "poor").status_code == 402
    failed, broken = request_of(house, "failed"), request_of(house, "broken")
    assert (failed.is_error, failed.facts["error.type"]) == (True, "upstream_error")
    assert (failed.facts["http.response.status_code"], failed.facts["minitoolai.streamed"]) == (502, False)
    # The head had left with 200 when it broke: the span knows better.
    assert (broken.is_error, broken.facts["http.response.status_code"]) == (True, 200)
    unknown, nowhere, refused = (request_of(house, n) for n in ("unknown", "nowhere", "poor"))
    assert (unknown.is_error, unknown.facts["error.type"]) == (False, "model_not_found")
    assert (nowhere.name, "http.route" in nowhere.facts) == ("POST", False)
    assert (refused.is_error, refused.facts["error.type"]) == (False, "insufficient_balance")
    (hold,) = house.collector.under(refused, "hold")
    assert (hold.is_error, hold.facts["error.type"]) == (True, "insufficient_balance")


def test_a_page_a_link_and_a_caller_who_leaves_are_named_by_their_routes(house: House, account: Account) -> None:
    assert requests.get(house.server.url + "/healthz", timeout=10).status_code == 200
    named = {"x-request-id": "page", **account.headers}
    assert requests.get(house.server.url + "/v1/generations/gen-0?q=" + PROMPT, headers=named, timeout=10).status_code
    page = request_of(house, "page")
    assert page.facts["http.route"] == "/v1/generations/{name}", page.facts
    answer = start(account, model="endless", stream=True)
    next(answer.iter_content(64))
    answer.close()
    left = house.collector.one({"gen_ai.request.model": "endless"}, "POST /api/chat-completions")
    assert (left.is_error, left.facts["error.type"]) == (False, "client_left")
    assert not [span for span in house.collector.spans if "healthz" in span.name]


def test_nothing_that_a_customer_wrote_and_no_secret_ever_reaches_the_collector(house: House, account: Account) -> None:
    ask(account, "last")
    request_of(house, "last")
    sent = b"".join(house.collector.raw)
    assert b"gen_ai.request.model" in sent
    for secret in (PROMPT, account.key, SECRET, "mars", *manners.WORDS):
        assert secret.encode() not in sent, secret
    assert house.collector.headers[-1]["authorization"] == f"Bearer {SECRET}"
    assert house.collector.headers[-1]["x-tenant"] == "7"
    assert house.collector.service["service.name"] == "minitoolai"
    # What the library knows itself, it goes on taking from its own variables.
    assert house.collector.service["deployment.environment.name"] == "trial"


@pytest.mark.acceptance
def test_a_stranger_can_ask_for_less_but_the_ratio_decides_on_more(tmp_path: Path) -> None:
    with Collector() as collector, serving(tmp_path, collector.url, MINITOOLAI_TRACE_RATIO="0") as server:
        account = server.account()
        headers = {**account.headers, "traceparent": f"00-{PARENT}-00f067aa0ba902b7-01"}
        body = {"model": "quick", "messages": [{"role": "user", "content": "Hello"}]}
        assert requests.post(server.url + API, json=body, headers=headers, timeout=30).status_code == 200
        server.stop()
        assert collector.spans == []


@pytest.mark.acceptance
@pytest.mark.timing
def test_a_collector_that_never_answers_slows_nobody_and_the_last_traces_are_given_up(tmp_path: Path) -> None:
    with Collector() as collector, serving(tmp_path, collector.url) as server:
        collector.answers.clear()
        account = server.account()
        began_s = time.monotonic()
        for _ in range(40):
            assert post(account).status_code == 200
        assert time.monotonic() - began_s < 5
        assert collector.spans == []
        began_s = time.monotonic()
        server.stop()
        assert time.monotonic() - began_s < 8
        assert "dropped the queued spans" in server.log.read_text()


@pytest.mark.acceptance
@pytest.mark.timing
def test_what_is_queued_leaves_with_a_server_that_stops_and_one_without_a_collector_says_so_seldom(
    tmp_path: Path,
) -> None:
    with Collector() as collector, serving(tmp_path, collector.url) as server:
        assert post(server.account()).status_code == 200
        server.stop()
        assert len(collector.where({}, "POST /api/chat-completions")) == 1
    # Now nobody listens there any more.
    with server.start():
        assert post(server.account()).status_code == 200
        time.sleep(2.5)
        assert server.log.read_text().count("exporting spans batch") == 1
        assert post(server.account()).status_code == 200


def test_a_queue_that_is_full_drops_the_oldest_and_holds_up_nobody() -> None:
    with Collector() as collector:
        collector.answers.clear()
        traces = Traces(
            url=f"{collector.url}/v1/traces", headers={}, ratio=1.0, version="1", instance="t", max_queue=64
        )
        began_s = time.monotonic()
        for number in range(5000):
            span = traces.request("a", {}, {"number": number})
            assert span is not None
            span.end()
        assert time.monotonic() - began_s < 8
        collector.answers.set()
        traces.close()
        told = [span.facts["number"] for span in collector.spans]
        assert 64 <= len(told) < 300
        assert 4999 in told


@pytest.mark.acceptance
def test_doctor_tries_the_collector_and_a_missing_package_is_named_with_its_remedy(tmp_path: Path) -> None:
    with Collector() as collector, ServerProcess(tmp_path, catalog=catalogs.FAKE) as server:
        server.env["MINITOOLAI_OTLP_ENDPOINT"] = collector.url
        assert f"ok     traces: {collector.url}/v1/traces" in server.command("doctor", "--offline").stdout
    server.env["MINITOOLAI_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    said = server.command("doctor", "--offline").stdout
    assert "FAULT  traces: " in said
    assert "MINITOOLAI_OTLP_ENDPOINT" in said
    # A folder in front of the installed one, in which the package is broken off.
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('gone', name='opentelemetry')")
    server.env["PYTHONPATH"] = str(tmp_path)
    done = server.command("doctor", "--offline")
    assert (done.returncode, "pip install 'minitoolai[otel]'" in done.stdout) == (1, True)
    done = server.command("serve", "--port", "0")
    assert (done.returncode, "pip install 'minitoolai[otel]'" in done.stderr) == (1, True)


def test_without_a_collector_the_library_is_not_even_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from minitoolai.settings import Settings; "
        "from minitoolai.bootstrap import build; import minitoolai.app, minitoolai.cli.serve; "
        f"services = build(Settings(data_dir=Path({str(tmp_path)!r}))); assert services.tracing is None; "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_collector_that_cannot_be_one_is_refused_with_the_remedy() -> None:
    for wrong in ("127.0.0.1:4318", "ftp://x", "http://user:secret@x", "http://x?key=secret"):
        with pytest.raises(SettingsError, match="OTLP_ENDPOINT") as refusal:
            collector_address(Settings(otlp_endpoint=wrong))
        assert "secret" not in str(refusal.value)
    with pytest.raises(SettingsError, match="OTLP_HEADERS"):
        collector_address(Settings(otlp_endpoint="http://x", otlp_headers=Secret("authorization")))
    with pytest.raises(SettingsError, match="TRACE_RATIO"):
        collector_address(Settings(otlp_endpoint="http://x", trace_ratio=1.5))
    assert collector_address(Settings()) is None
    for text in ("http://x:4318", "http://x:4318/", "http://x:4318/v1/traces"):
        assert collector_address(Settings(otlp_endpoint=text)) == ("http://x:4318/v1/traces", {})
