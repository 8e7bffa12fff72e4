"""Test tracing with a real OTLP collector: the spans of each kind of request, privacy, and a failing collector."""

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
from tests.support.collector import Collector, RecordedSpan
from tests.support.pace import TimeLimit
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


class TracedServer:
    """A server with a collector and two upstreams, of which the first always fails."""

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
    """Return a server with fake models that sends traces to this URL."""
    return ServerProcess(folder, catalog=catalogs.FAKE, env={"MINITOOLAI_OTLP_ENDPOINT": url, **more})


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracedServer]:
    with ExitStack() as stack:
        yield TracedServer(stack, tmp_path_factory)


@pytest.fixture
def account(traced: TracedServer) -> Account:
    return traced.server.account()


def ask(account: Account, name: str, path: str = API, **fields: object) -> requests.Response:
    """Send a request with this request ID, by which its span is found."""
    body = {"model": "quick", "messages": [{"role": "user", "content": PROMPT}], **fields}
    body = {name: value for name, value in body.items() if value is not None}
    headers = {**account.headers, "x-request-id": name}
    return requests.post(account.server.url + path, json=body, headers=headers, timeout=30)


def request_of(traced: TracedServer, name: str) -> RecordedSpan:
    return traced.collector.one({"minitoolai.request": name})


def test_a_streamed_chat_with_a_fallback_is_one_trace_below_the_callers_span(
    traced: TracedServer, account: Account
) -> None:
    headers = {**account.headers, "traceparent": f"00-{PARENT}-00f067aa0ba902b7-01", "x-request-id": "streamed"}
    body = {"model": "pair", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    answer = requests.post(f"{traced.server.url}{API}?secret={PROMPT}", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200
    assert "[DONE]" in answer.text
    name = answer.headers["x-generation-id"]
    request = request_of(traced, "streamed")
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
    (hold,) = traced.collector.under(request, "hold")
    (settle,) = traced.collector.under(request, "settle")
    first, second = traced.collector.under(request, "engine", 2)
    assert first.facts["gen_ai.provider.name"] == "failing"
    assert (first.facts["minitoolai.attempt"], first.facts["error.type"]) == (1, "upstream_error")
    assert (second.facts["gen_ai.provider.name"], second.facts["minitoolai.attempt"]) == ("standin", 2)
    assert (first.is_error, second.is_error) == (True, False)
    assert hold.facts["minitoolai.generation"] == settle.facts["minitoolai.generation"] == name
    assert settle.facts["gen_ai.usage.output_tokens"] == len(manners.WORDS)
    assert settle.facts["minitoolai.cost_nano"] == 5_000_000_000 - account.settled()
    assert hold.ended_ns <= first.began_ns <= first.ended_ns <= second.began_ns <= settle.began_ns
    # Each upstream received the span of its attempt as the parent of its own spans.
    assert traced.failing.seen[-1].headers["traceparent"] == f"00-{PARENT}-{first.id}-01"
    assert traced.standin.seen[-1].headers["traceparent"] == f"00-{PARENT}-{second.id}-01"


def test_an_image_job_is_in_the_trace_of_the_request_that_submitted_it(traced: TracedServer, account: Account) -> None:
    asked = job(account, prompt=PROMPT, negativePrompt=PROMPT)
    assert wait(account, asked)["status"] == "success"
    drawn = traced.collector.one({}, "image job")
    submitted = traced.collector.one({"minitoolai.kind": "image"}, "POST /api/texttoimage")
    (hold,) = traced.collector.under(submitted, "submit")
    assert drawn.facts["minitoolai.generation"] == hold.facts["minitoolai.generation"]
    assert (drawn.trace, drawn.parent, drawn.is_error) == (submitted.trace, submitted.id, False)
    assert (drawn.facts["minitoolai.attempt"], drawn.facts["gen_ai.provider.name"]) == (1, "flat")
    for name in ("draw", "keep", "settle"):
        (piece,) = traced.collector.under(drawn, name)
        assert drawn.began_ns <= piece.began_ns <= piece.ended_ns <= drawn.ended_ns


def test_speech_has_the_same_spans_as_chat(traced: TracedServer, account: Account) -> None:
    assert ask(account, "spoken", "/v1/audio/speech", model="tone", messages=None, input=PROMPT).status_code == 200
    request = request_of(traced, "spoken")
    assert (request.facts["minitoolai.kind"], request.events) == ("speech", ["first token"])
    (engine,) = traced.collector.under(request, "engine")
    assert engine.facts["gen_ai.provider.name"] == "tone"
    (settle,) = traced.collector.under(request, "settle")
    assert engine.ended_ns <= settle.began_ns + 1_000_000


def test_spans_carry_error_codes_and_a_refusal_is_not_a_failure(traced: TracedServer, account: Account) -> None:
    traced.standin.behave = manners.refuse(500, PROMPT)
    assert ask(account, "failed", model="standin").status_code == 502
    traced.standin.behave = manners.break_off("error")
    assert ask(account, "broken", model="standin", stream=True).status_code == 200
    traced.standin.behave = manners.answer()
    assert ask(account, "unknown", model=PROMPT).status_code == 404
    assert ask(account, "nowhere", path=f"/api/{PROMPT}").status_code == 404
    poor = traced.server.account(credit=None)
    assert ask(poor, "poor").status_code == 402
    failed, broken = request_of(traced, "failed"), request_of(traced, "broken")
    assert (failed.is_error, failed.facts["error.type"]) == (True, "upstream_error")
    assert (failed.facts["http.response.status_code"], failed.facts["minitoolai.streamed"]) == (502, False)
    # The stream broke after the status 200 had been sent, but the span records the failure.
    assert (broken.is_error, broken.facts["http.response.status_code"]) == (True, 200)
    unknown, nowhere, refused = (request_of(traced, n) for n in ("unknown", "nowhere", "poor"))
    assert (unknown.is_error, unknown.facts["error.type"]) == (False, "model_not_found")
    assert (nowhere.name, "http.route" in nowhere.facts) == ("POST", False)
    assert (refused.is_error, refused.facts["error.type"]) == (False, "insufficient_balance")
    (hold,) = traced.collector.under(refused, "hold")
    assert (hold.is_error, hold.facts["error.type"]) == (True, "insufficient_balance")


def test_spans_are_named_by_route_and_a_client_that_disconnects_is_recorded(
    traced: TracedServer, account: Account
) -> None:
    assert requests.get(traced.server.url + "/healthz", timeout=10).status_code == 200
    named = {"x-request-id": "page", **account.headers}
    assert requests.get(traced.server.url + "/v1/generations/gen-0?q=" + PROMPT, headers=named, timeout=10).status_code
    page = request_of(traced, "page")
    assert page.facts["http.route"] == "/v1/generations/{name}", page.facts
    answer = start(account, model="endless", stream=True)
    next(answer.iter_content(64))
    answer.close()
    left = traced.collector.one({"gen_ai.request.model": "endless"}, "POST /api/chat-completions")
    assert (left.is_error, left.facts["error.type"]) == (False, "client_left")
    assert not [span for span in traced.collector.spans if "healthz" in span.name]


def test_prompts_outputs_and_secrets_never_reach_the_collector(traced: TracedServer, account: Account) -> None:
    ask(account, "last")
    request_of(traced, "last")
    sent = b"".join(traced.collector.raw)
    assert b"gen_ai.request.model" in sent
    for secret in (PROMPT, account.key, SECRET, "mars", *manners.WORDS):
        assert secret.encode() not in sent, secret
    assert traced.collector.headers[-1]["authorization"] == f"Bearer {SECRET}"
    assert traced.collector.headers[-1]["x-tenant"] == "7"
    assert traced.collector.service["service.name"] == "minitoolai"
    # OpenTelemetry's own environment variables still apply.
    assert traced.collector.service["deployment.environment.name"] == "trial"


@pytest.mark.acceptance
def test_a_callers_traceparent_cannot_exceed_the_ratio(tmp_path: Path) -> None:
    with Collector() as collector, serving(tmp_path, collector.url, MINITOOLAI_TRACE_RATIO="0") as server:
        account = server.account()
        headers = {**account.headers, "traceparent": f"00-{PARENT}-00f067aa0ba902b7-01"}
        body = {"model": "quick", "messages": [{"role": "user", "content": "Hello"}]}
        assert requests.post(server.url + API, json=body, headers=headers, timeout=30).status_code == 200
        server.stop()
        assert collector.spans == []


@pytest.mark.acceptance
@pytest.mark.timing
def test_a_hanging_collector_delays_no_request_and_the_queue_is_dropped_at_shutdown(tmp_path: Path) -> None:
    with Collector() as collector, serving(tmp_path, collector.url) as server:
        collector.answers.clear()
        account = server.account()
        limit, began_s = TimeLimit(5.0, "s"), time.monotonic()
        for _ in range(40):
            assert post(account).status_code == 200
        assert limit.permits(time.monotonic() - began_s), limit
        assert collector.spans == []
        limit, began_s = TimeLimit(8.0, "s"), time.monotonic()
        server.stop()
        assert limit.permits(time.monotonic() - began_s), limit
        assert "dropped the queued spans" in server.log.read_text()


@pytest.mark.acceptance
@pytest.mark.timing
def test_queued_spans_are_sent_at_shutdown_and_a_missing_collector_is_logged_once_a_minute(
    tmp_path: Path,
) -> None:
    with Collector() as collector, serving(tmp_path, collector.url) as server:
        assert post(server.account()).status_code == 200
        server.stop()
        assert len(collector.where({}, "POST /api/chat-completions")) == 1
    # Now the collector is gone.
    with server.start():
        assert post(server.account()).status_code == 200
        time.sleep(2.5)
        assert server.log.read_text().count("exporting spans batch") == 1
        assert post(server.account()).status_code == 200


def test_a_full_queue_drops_the_oldest_spans_without_blocking() -> None:
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
        numbers = [span.facts["number"] for span in collector.spans]
        assert 64 <= len(numbers) < 300
        assert 4999 in numbers


@pytest.mark.acceptance
def test_doctor_tries_the_collector_and_names_a_missing_package(tmp_path: Path) -> None:
    with Collector() as collector, ServerProcess(tmp_path, catalog=catalogs.FAKE) as server:
        server.env["MINITOOLAI_OTLP_ENDPOINT"] = collector.url
        assert f"ok     traces: {collector.url}/v1/traces" in server.command("doctor", "--offline").stdout
    server.env["MINITOOLAI_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    said = server.command("doctor", "--offline").stdout
    assert "FAULT  traces: " in said
    assert "MINITOOLAI_OTLP_ENDPOINT" in said
    # A broken package that shadows the installed one.
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('gone', name='opentelemetry')")
    server.env["PYTHONPATH"] = str(tmp_path)
    done = server.command("doctor", "--offline")
    assert (done.returncode, "pip install 'minitoolai[otel]'" in done.stdout) == (1, True)
    done = server.command("serve", "--port", "0")
    assert (done.returncode, "pip install 'minitoolai[otel]'" in done.stderr) == (1, True)


def test_without_a_collector_opentelemetry_is_not_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from minitoolai.settings import Settings; "
        "from minitoolai.bootstrap import build; import minitoolai.app, minitoolai.cli.serve; "
        f"services = build(Settings(data_dir=Path({str(tmp_path)!r}))); assert services.tracing is None; "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_invalid_tracing_settings_are_refused() -> None:
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
