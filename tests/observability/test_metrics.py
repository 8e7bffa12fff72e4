"""Test /metrics: correct values, a port and token of its own, and a negligible cost."""

from __future__ import annotations

import socket
import time

import pytest
import requests

from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import SettingsError
from minitoolai.core.models import Outcome
from minitoolai.core.telemetry.meters import Histogram, Meters
from minitoolai.observability.metrics import METRICS
from minitoolai.observability.metrics_port import metrics_address
from minitoolai.settings import Secret, Settings
from tests.observability.conftest import TOKEN
from tests.support import catalogs, manners
from tests.support.ask import post
from tests.support.cluster import Cluster
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import POLL, submit
from tests.support.upstream import Upstream
from tests.support.waiting import eventually
from tests.support.watch import address, sums


def test_requests_charges_and_errors_are_counted(watched: ServerProcess, account: Account, standin: Upstream) -> None:
    before = sums(address(watched), TOKEN)
    for _ in range(3):
        assert post(account, stream=True).status_code == 200
    assert requests.get(watched.url + "/api/balance/", headers=account.headers, timeout=10).status_code == 200
    standin.behave = manners.refuse(500)
    assert post(account, model="standin").status_code == 502
    assert requests.get(watched.url + "/api/balance/", timeout=10).status_code == 401
    # The last charge is written a moment after its response.
    spent = 5_000_000_000 - account.settled()
    after = sums(address(watched), TOKEN)
    more = {name: after[name] - before.get(name, 0) for name in after}
    assert more["minitoolai_answers_total"] == 4
    assert more["minitoolai_first_token_seconds_count"] == 3
    assert more["minitoolai_answer_seconds_count"] == 4
    assert more["minitoolai_requests_total"] == 6
    assert more["minitoolai_errors_total"] == 2
    assert more["minitoolai_engine_failures_total"] == 1
    # Each request has a hold and a settle, and the histograms contain every commit.
    assert more["minitoolai_writer_operations_sum"] >= 8
    assert more["minitoolai_writer_commits_total"] == more["minitoolai_writer_commit_seconds_count"] >= 5
    assert more["minitoolai_charged_dollars_total"] == pytest.approx(spent * 1e-9, rel=1e-6)
    assert after["minitoolai_books_broken"] == after["minitoolai_shortfall_dollars_total"] == 0
    assert after["minitoolai_ready"] == after["minitoolai_database_up"] == after["minitoolai_info"] == 1
    assert sums(address(watched), TOKEN, engine="nowhere")["minitoolai_engine_ready"] == 1


def test_responses_in_flight_and_queued_jobs_are_counted_with_their_holds(
    watched: ServerProcess, account: Account
) -> None:
    body = {"model": "endless", "messages": [{"role": "user", "content": "go on"}], "stream": True}
    with requests.post(
        watched.url + "/api/chat-completions/", json=body, headers=account.headers, timeout=30, stream=True
    ) as answer:
        assert answer.status_code == 200, answer.text
        pieces = answer.iter_content(64)
        next(pieces)
        found = sums(address(watched), TOKEN)
        assert found["minitoolai_answers_underway"] == 1
        assert found["minitoolai_holds_pending"] == 1
        assert found["minitoolai_held_dollars"] > 0
    eventually(lambda: sums(address(watched), TOKEN)["minitoolai_holds_pending"] == 0)
    for _ in range(12):
        assert submit(account, model="slow").status_code == 200
    found = sums(address(watched), TOKEN)
    assert found["minitoolai_jobs_queued"] + found["minitoolai_jobs_drawing"] >= 11
    assert found["minitoolai_jobs_queued"] > 0
    eventually(lambda: sums(address(watched), TOKEN)["minitoolai_jobs_oldest_seconds"] > 0.2)
    eventually(lambda: sums(address(watched), TOKEN)["minitoolai_holds_pending"] == 0, within_s=60)
    assert sums(address(watched), TOKEN, kind="image", state="succeeded")["minitoolai_answers_total"] >= 12


def test_the_page_has_exactly_the_metrics_of_the_reference(watched: ServerProcess) -> None:
    page = requests.get(address(watched), headers={"authorization": f"Bearer {TOKEN}"}, timeout=10).text
    shown = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE minitoolai")}
    assert shown == set(METRICS)
    assert "process_resident_memory_bytes " in page


def test_metrics_need_a_token_and_are_not_on_the_port_of_the_api(watched: ServerProcess) -> None:
    assert requests.get(watched.url + "/metrics", timeout=10).status_code == 404
    url = address(watched)
    assert requests.get(url, timeout=10).status_code == 401
    assert requests.get(url, headers={"authorization": "Bearer guessed"}, timeout=10).status_code == 401
    good = {"authorization": f"Bearer {TOKEN}"}
    assert requests.post(url, headers=good, timeout=10).status_code == 405
    assert requests.get(url.replace("/metrics", "/"), headers=good, timeout=10).status_code == 404
    openmetrics = requests.get(url, headers={**good, "accept": "application/openmetrics-text"}, timeout=10)
    assert openmetrics.text.endswith("# EOF\n")


def test_a_public_metrics_address_without_a_token_is_refused() -> None:
    with pytest.raises(SettingsError, match="MINITOOLAI_METRICS_TOKEN"):
        metrics_address(Settings(metrics_listen="0.0.0.0:9464"))
    assert metrics_address(Settings(metrics_listen="0.0.0.0:9464", metrics_token=Secret("t"))) == ("0.0.0.0", 9464)
    assert metrics_address(Settings(metrics_listen="[::1]:9464")) == ("::1", 9464)
    assert metrics_address(Settings()) is None
    for wrong in ("9464", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"):
        with pytest.raises(SettingsError, match="METRICS_LISTEN"):
            metrics_address(Settings(metrics_listen=wrong))


def free_port() -> int:
    """Return a port that nothing listens on now. The processes take it and the next free ones."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_several_processes_have_a_port_each_and_their_counts_add_up(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with ServerProcess(
        tmp_path_factory.mktemp("two"),
        catalog=catalogs.FAKE,
        env={
            "MINITOOLAI_DATABASE_URL": cluster.books(),
            "MINITOOLAI_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
        },
    ).start("--workers", "2") as server:
        account = server.account()
        for _ in range(20):
            assert post(account).status_code == 200
        found = {
            line.rsplit("metrics at ", 1)[1] for line in server.log.read_text().splitlines() if "metrics at" in line
        }
        assert len(found) == 2
        assert sum(sums(url)["minitoolai_answers_total"] for url in found if "answers_total" in _page(url)) == 20


def _page(url: str) -> str:
    text = requests.get(url, timeout=10).text
    return text if "minitoolai_answers_total{" in text else ""


def test_a_histogram_counts_each_value_in_its_bucket() -> None:
    counted = Histogram(10, 100)
    for value in (0, 10, 11, 100, 101, 5000):
        counted.add(value)
    assert counted.cumulative(0.001) == [("0.01", 2.0), ("0.1", 4.0), ("+Inf", 6.0)]
    assert counted.total == 5222


def test_counting_a_generation_takes_less_than_1_percent_of_serving_it(account: Account) -> None:
    """Compare with the CPU time that the server needs for a whole response on the same machine."""
    meters, clock, times = Meters(), SystemClock(), 20_000
    outcome = Outcome(state="succeeded", input_units=7, output_units=16, first_token_ms=12)
    number, now_ms = clock.new_id(), clock.now_ms()
    best_s = float("inf")
    for _ in range(5):
        began_s = time.process_time()
        for _ in range(times):
            meters.request("/api/chat-completions/")
            meters.ended("chat", "quick", number, outcome, 12_345, now_ms)
        best_s = min(best_s, (time.process_time() - began_s) / times)
    assert meters.outcomes["chat", "quick", "succeeded", ""].count == 5 * times
    before_s = account.server.cpu_s()
    for _ in range(200):
        assert post(account).status_code == 200
    served_s = (account.server.cpu_s() - before_s) / 200
    assert best_s < served_s / 100, f"{best_s * 1e6:.2f} µs of {served_s * 1e6:.0f} µs"


def test_polling_a_job_counts_as_requests_only(watched: ServerProcess, account: Account) -> None:
    before = sums(address(watched), TOKEN, path="/api/texttoimage/jobs")
    for _ in range(3):
        requests.post(watched.url + POLL, json={"jobid": "gen-0", "signature": "x"}, timeout=10)
    after = sums(address(watched), TOKEN, path="/api/texttoimage/jobs")
    assert after["minitoolai_requests_total"] - before.get("minitoolai_requests_total", 0) == 3
    assert after.get("minitoolai_answers_total", 0) == before.get("minitoolai_answers_total", 0)
