"""Compare /metrics with the books after mixed traffic: what is counted is what was charged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support import manners
from tests.support.ask import API, HELLO, start
from tests.support.cluster import Cluster
from tests.support.mixed_traffic import MixedTraffic, catalog, failing
from tests.support.server import ServerProcess
from tests.support.speech import speak
from tests.support.studio_http import job, poll
from tests.support.upstream import Upstream
from tests.support.waiting import children_of, eventually
from tests.support.watch import address, by_labels, sums

METRICS = {"MINITOOLAI_METRICS_LISTEN": "127.0.0.1:0", "MINITOOLAI_STREAMS": "1000"}
#: Enough for some requests of each kind.
REQUESTS = 350


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(failing(0.2), records=False) as standin:
        yield standin


def servers(folder: Path, upstream: Upstream, **env: str) -> ServerProcess:
    return ServerProcess(folder, catalog=catalog(upstream), env=METRICS | env)


def is_idle(server: ServerProcess) -> bool:
    return not server.read(
        lambda c: c.execute("SELECT 1 FROM holds WHERE state = 'pending' LIMIT 1")
    ) and not server.read(lambda c: c.execute("SELECT 1 FROM generations WHERE state IN ('queued', 'running') LIMIT 1"))


def check_metrics(server: ServerProcess) -> Counter[tuple[str, str]]:
    """Compare every count and sum with the rows. Return the number of generations by kind and state."""
    rows = server.read(
        lambda c: c.execute(
            "SELECT kind, model, state, COALESCE(error_code, ''), engine, count(*), sum(cost), sum(input_units),"
            " sum(output_units), sum(cached_units) FROM generations GROUP BY 1, 2, 3, 4, 5"
        )
    )
    answers, dollars, units = Counter[tuple[str, ...]](), Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    engines, states = Counter[tuple[str, ...]](), Counter[tuple[str, str]]()
    for kind, model, state, error, engine, count, cost, read, written, cached in rows:
        answers[kind, model, state, error] += count
        dollars[kind, model] += int(cost)
        engines[engine, model] += count
        states[kind, state] += count
        for direction, amount in (("input", read), ("output", written), ("cached", cached)):
            units[kind, model, direction] += int(amount)
    url = address(server)
    assert by_labels(url, "minitoolai_answers_total", "kind", "model", "state", "error") == answers
    charged = by_labels(url, "minitoolai_charged_dollars_total", "kind", "model")
    assert {key: round(amount * 1e9) for key, amount in charged.items()} == {k: v for k, v in dollars.items() if v}
    counted = by_labels(url, "minitoolai_units_total", "kind", "model", "direction")
    assert counted == {key: amount for key, amount in units.items() if amount}
    results = by_labels(url, "minitoolai_engine_requests_total", "engine", "model", "result")
    ended = Counter[tuple[str, ...]]()
    for (engine, model, result), number in results.items():
        if result != "refused":
            ended[engine, model] += int(number)
    assert ended == engines
    durations = by_labels(url, "minitoolai_answer_seconds_count", "kind")
    assert durations == {(kind,): sum(n for (k, _), n in states.items() if k == kind) for kind, _ in states}
    # No request of this test takes a minute, whatever its ID looks like.
    assert sums(url)["minitoolai_answer_seconds_sum"] < 60 * sum(states.values())
    return states


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_metrics_equal_the_books_after_mixed_traffic(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, upstream: Upstream
) -> None:
    env = {}
    if database == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        env["MINITOOLAI_DATABASE_URL"] = cluster.books()
    with servers(tmp_path, upstream, **env) as server:
        with MixedTraffic(server, rate=60) as traffic:
            eventually(lambda: traffic.sent >= REQUESTS, within_s=60)
        assert traffic.faults == []
        eventually(lambda: is_idle(server), within_s=30)
        states = check_metrics(server)
        for kind, state in (("chat", "succeeded"), ("chat", "failed"), ("chat", "cancelled"), ("speech", "succeeded"),
                            ("image", "succeeded"), ("image", "cancelled")):  # fmt: skip
            assert states[kind, state] > 0, states


def test_jobs_count_by_their_verdict(tmp_path: Path, upstream: Upstream) -> None:
    with servers(tmp_path, upstream) as server:
        account = server.account()
        jobs = [job(account, model=model) for model in ("slow",) * 8 + ("flat",) * 8]
        # Some wait, some are being drawn, some have ended: only the ledger knows which cancellations came in time.
        for one in jobs[::2]:
            url = f"{server.url}/api/texttoimage/jobs/{one['jobid']}"
            assert requests.delete(url, params={"signature": one["signature"]}, timeout=30).status_code == 200
        eventually(lambda: is_idle(server), within_s=60)
        states = check_metrics(server)
        assert sum(states.values()) == 16
        shown = Counter(poll(account, one).json().get("code", "succeeded") for one in jobs)
        assert shown == {"cancelled": states["image", "cancelled"], "succeeded": states["image", "succeeded"]}
        assert states["image", "cancelled"] >= 4


def test_a_run_whose_hold_was_settled_elsewhere_is_not_counted_here(tmp_path: Path, upstream: Upstream) -> None:
    upstream.behave = manners.answer(["word "] * 40, delay_s=0.25)
    with servers(tmp_path, upstream) as server:
        account = server.account()
        with start(account, model="far", stream=True) as answer:
            name = answer.headers["x-generation-id"]
            pieces = answer.iter_content(64)
            next(pieces)
            # As another process does after this one was paused.
            server.recover(name)
            assert b'"code":"interrupted"' in b"".join(pieces)
        account.settled()
        assert server.generation(name)["error_code"] == "interrupted"
        assert by_labels(address(server), "minitoolai_answers_total", "state") == {}
        assert by_labels(address(server), "minitoolai_charged_dollars_total", "kind") == {}


def test_recovered_holds_are_counted_by_the_process_that_recovers_them(tmp_path: Path, upstream: Upstream) -> None:
    with servers(tmp_path, upstream) as server:
        account = server.account()
        with start(account, model="endless", stream=True) as answer:
            pieces = answer.iter_content(64)
            next(pieces)
            time.sleep(2.5)
            server.kill()
        server.start()
        states = check_metrics(server)
        assert states == {("chat", "failed"): 1}
        assert by_labels(address(server), "minitoolai_charged_dollars_total", "model")["endless",] > 0


def test_gauges_without_rows_say_zero(tmp_path: Path, upstream: Upstream) -> None:
    with servers(tmp_path, upstream) as server:
        page = requests.get(address(server), timeout=10).text
    lines = set(page.splitlines())
    for model in ("flat", "slow", "missing"):
        assert f'minitoolai_jobs_queued{{model="{model}"}} 0.0' in lines
    for kind in ("chat", "speech"):
        assert f'minitoolai_holds_pending{{kind="{kind}"}} 0.0' in lines
        assert f'minitoolai_holds_oldest_seconds{{kind="{kind}"}} 0.0' in lines
    for name in ("held_dollars", "jobs_oldest_seconds", "jobs_drawing", "webhooks_pending", "workers", "workers_lost",
                 "store_oldest_seconds", "database_replaced"):  # fmt: skip
        assert f"minitoolai_{name} 0.0" in lines
    for result in ("succeeded", "failed", "refused"):
        assert f'minitoolai_engine_requests_total{{engine="far",model="far",result="{result}"}} 0.0' in lines


def test_the_memory_of_child_processes_and_the_space_of_disks_are_shown(tmp_path: Path, upstream: Upstream) -> None:
    with ServerProcess(tmp_path, catalog=catalog(upstream, embedded=True), env=METRICS) as server:
        account = server.account()
        assert speak(account, input="Saturn.").status_code == 200
        memory = by_labels(address(server), "minitoolai_child_memory_bytes", "engine")
        total = 0
        for pid in children_of(server.pid):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        assert memory["hibari",] > 50_000_000
        assert 0.5 * total < sum(memory.values()) < 1.5 * total
        disks = by_labels(address(server), "minitoolai_disk_size_bytes", "folder")
        assert disks.keys() == {("data",), ("database",)}
        assert 0 < by_labels(address(server), "minitoolai_disk_free_bytes", "folder")["data",] <= disks["data",]


def test_an_open_hold_has_an_age(tmp_path: Path, upstream: Upstream) -> None:
    with servers(tmp_path, upstream) as server:
        account = server.account()
        body = {"model": "endless", "messages": HELLO, "stream": True}
        with requests.post(server.url + API, json=body, headers=account.headers, timeout=30, stream=True) as answer:
            pieces = answer.iter_content(64)
            next(pieces)
            time.sleep(1.1)
            ages = by_labels(address(server), "minitoolai_holds_oldest_seconds", "kind")
            assert 1 < ages["chat",] < 30
        account.settled()
